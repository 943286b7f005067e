"""The worker's private directory.

    <root>/src    the workspace: files, archive or clone; the program starts here
    <root>/home   HOME            <root>/tmp   TMPDIR (and /tmp, in a sandbox)
    <root>/sfp    progress and result files

In a sandbox `root` is a tmpfs of the size of the disk limit, so that all four share one ceiling.
HOME and TMPDIR are beside `src`, not in it, so that an archive cannot bring its own `.gitconfig`
and artifact globs cannot match caches.
"""

import os

from sfp_worker.failure import Failed

SRC, HOME, TMP, SFP = "src", "home", "tmp", "sfp"


class Place:
    def __init__(self, root: str) -> None:
        self.root = root
        self.src = f"{root}/{SRC}"
        self.home = f"{root}/{HOME}"
        self.tmp = f"{root}/{TMP}"
        self.sfp = f"{root}/{SFP}"

    def make(self) -> int:
        """Make the directories; returns a descriptor of the one with progress and result."""
        for path in (self.src, self.home, self.tmp, self.sfp):
            os.mkdir(path, 0o700)
        return os.open(self.sfp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def inside(self, relative: str) -> str:
        """The real path of `relative` in the workspace.

        Raises:
            Failed: `workspace`, when it leaves the workspace, through links too, or is no directory.
        """
        top = os.path.realpath(self.src)
        real = os.path.realpath(os.path.join(top, relative))
        if real != top and not real.startswith(top + "/"):
            raise Failed("workspace", "workdir leaves the workspace")
        if not os.path.isdir(real):
            raise Failed("workspace", "workdir is not a directory of the workspace")
        return real

    def is_full(self) -> bool:
        """Whether the file system of the workspace has no room left."""
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize < 64 * 1024 or (room.f_files > 0 and room.f_ffree == 0)


def clean_relative(path: str) -> str:
    """`path` without `.` and empty parts.

    Raises:
        ValueError: it is absolute, empty, climbs with `..`, or holds a NUL.
    """
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if path.startswith("/") or ".." in parts or "\0" in path or not parts:
        raise ValueError(path)
    return "/".join(parts)
