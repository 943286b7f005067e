"""Private directories below an instance's scratch directory, told apart by who made them."""

import contextlib
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from sfp_server.runtimes.launch import start_time

#: `<what>-<dispatcher's pid>-<its start time>-<random>`
_PARTS = 4
#: the folder of all instances in a place that everybody may enter
PUBLIC = "sfp-server"


class Folders:
    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._made: list[Path] = []

    def make(self, what: str) -> Path:
        """A new, private directory."""
        self._scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = self._scratch / f"{what}-{os.getpid()}-{start_time(os.getpid())}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        self._made = [*self.mine(), folder]
        return folder

    def mine(self) -> list[Path]:
        """The directories that were made and are still there."""
        return [folder for folder in self._made if folder.exists()]

    def remove_leftovers(self) -> None:
        """Remove what dispatchers that are gone have left."""
        if not self._scratch.is_dir():
            return
        for folder in self._scratch.iterdir():
            parts = folder.name.split("-")
            ours = len(parts) == _PARTS and parts[1].isdigit()
            if ours and str(start_time(int(parts[1]))) != parts[2]:
                remove_tree(folder)


def public(scratch: Path, otherwise: str) -> Path:
    """Where to put what everybody may read: `scratch` itself when others can get there, else `otherwise`.

    bubblewrap resolves the paths that it mounts as the user that it is.
    """
    for place in (scratch, Path(otherwise) / PUBLIC, Path(tempfile.gettempdir()) / PUBLIC):
        with contextlib.suppress(OSError):
            place.mkdir(parents=True, exist_ok=True, mode=0o755)
            mine = place.stat().st_uid == os.geteuid() and not place.is_symlink()
            if mine and all(folder.stat().st_mode & 0o001 for folder in (place, *place.resolve().parents)):
                return place
    return scratch


def remove_tree(top: Path) -> None:
    """Remove a tree that somebody hostile made: any depth, any permissions, links never followed."""
    if top.is_symlink() or not top.is_dir():
        return
    _flatten(top)
    shutil.rmtree(top, ignore_errors=True)


def _flatten(top: Path) -> None:
    """Move every directory up to just below `top`, until none is deeper: no recursion, short paths.

    A tree of 3,000 levels has paths longer than the kernel takes; moving each directory up by one
    descriptor at a time never names more than one component.
    """
    base = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        count = 0
        waiting = [name for name in os.listdir(base) if _is_folder(base, name)]  # noqa: PTH208 (a descriptor)
        while waiting:
            name = waiting.pop()
            os.chmod(name, 0o700, dir_fd=base)
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
            try:
                for child in os.listdir(inner):  # noqa: PTH208 (same)
                    if _is_folder(inner, child):
                        os.chmod(child, 0o700, dir_fd=inner)
                        count += 1
                        moved = f".sfp-flat-{count}"
                        os.rename(child, moved, src_dir_fd=inner, dst_dir_fd=base)
                        waiting.append(moved)
            finally:
                os.close(inner)
    finally:
        os.close(base)


def _is_folder(parent: int, name: str) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode)
