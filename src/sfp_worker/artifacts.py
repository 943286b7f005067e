"""Finds the files to keep, and sends them. The program is dead by now; what it left may still be a trap."""

from __future__ import annotations

import os
import re
import stat

from sfp_worker import protocol
from sfp_worker.control import HIGH_WATER, Control
from sfp_worker.failure import Failed
from sfp_worker.redact import Redactor

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: directories below one another that are looked into
MAX_DEPTH = 64
#: entries looked at
MAX_LOOKED_AT = 500_000

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def pattern(globs: Sequence[str]) -> re.Pattern[str]:
    """One expression for all globs: `*` and `?` stay within a name, `**` crosses directories."""
    return re.compile("|".join(f"(?:{_expression(glob)})" for glob in globs) or r"(?!)")


def _expression(glob: str) -> str:
    glob = glob.removeprefix("./").rstrip("/")
    parts: list[str] = []
    for token in re.findall(r"\*\*/|\*\*|\*|\?|\[!?[^\]/]+\]|.", glob, re.DOTALL):
        match token:
            case "**/":
                parts.append("(?:[^/]+/)*")
            case "**":
                parts.append(".*")
            case "*":
                parts.append("[^/]*")
            case "?":
                parts.append("[^/]")
            case _ if len(token) > 1:
                inner = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
                parts.append(f"[^{inner[1:]}/]" if inner.startswith("!") else f"[{inner}]")
            case _:
                parts.append(re.escape(token))
    return f"(?s:{''.join(parts)})"


def find(top: int, globs: Sequence[str]) -> Iterator[str]:
    """Relative paths of the matching regular files, sorted within each directory; no link is followed."""
    wanted = pattern(globs)
    waiting = [""]
    looked_at = 0
    while waiting:
        folder = waiting.pop()
        try:
            entries = _entries(top, folder)
        except OSError:
            continue  # gone, or locked by its own permissions: not kept
        for name, mode in entries:
            looked_at += 1
            if looked_at > MAX_LOOKED_AT:
                raise Failed("output_limit", "the workspace holds too many files to look for artifacts")
            path = f"{folder}{name}"
            if stat.S_ISDIR(mode) and path.count("/") < MAX_DEPTH:
                waiting.append(f"{path}/")
            elif stat.S_ISREG(mode) and wanted.fullmatch(path):
                yield path


def _entries(top: int, folder: str) -> list[tuple[str, int]]:
    descriptor = _open(top, folder.rstrip("/"), _DIRECTORY) if folder else os.dup(top)
    try:
        with os.scandir(descriptor) as found:
            return sorted((entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in found)
    finally:
        os.close(descriptor)


def _open(top: int, path: str, flags: int) -> int:
    """Open `path` below `top`, refusing links in every component."""
    *folders, last = path.split("/")
    here = os.dup(top)
    try:
        for folder in folders:
            below = os.open(folder, _DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
        return os.open(last, flags, dir_fd=here)
    finally:
        os.close(here)


def send(control: Control, src: str, globs: Sequence[str], redactor: Redactor, *, max_bytes: int) -> None:
    """Send every matching file.

    Raises:
        Failed: `output_limit`, when there are too many or they are too large together.
    """
    if not globs:
        return
    top = os.open(src, _DIRECTORY)
    paths: list[str] = []
    for path in find(top, globs):  # all are found before the first is sent: too many cost nothing
        paths.append(path)
        if len(paths) > protocol.MAX_ARTIFACTS:
            raise Failed("output_limit", f"more than {protocol.MAX_ARTIFACTS} files match the artifact globs")
    room = max_bytes
    for path in paths:
        room -= _send_file(control, top, path, redactor, room)
    os.close(top)


def _send_file(control: Control, top: int, path: str, redactor: Redactor, room: int) -> int:
    try:
        descriptor = _open(top, path, _FILE)
    except OSError:
        return 0
    sent = 0
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return 0
        control.send({"t": "artifact", "name": redactor.text(path)})
        while data := file.read(protocol.CHUNK_BYTES):
            sent += len(data)
            if sent > room:
                raise Failed("output_limit", "the kept artifacts are larger than their limit together")
            control.send_chunk(data)
            control.drain(below=HIGH_WATER)
        control.send({"t": "artifact_end"})
    return sent
