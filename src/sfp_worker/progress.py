"""Follows the file named by SFP_PROGRESS: each line `<0-100> <text>` is progress."""

from __future__ import annotations

import os
import stat
import time

from sfp_worker import protocol
from sfp_worker.logs import clean
from sfp_worker.redact import Redactor

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds between two looks, and so between two reports; the last line always goes out. A look is one
#: failing or succeeding open(2). inotify would be the event to wait for, but to let go of one takes the
#: kernel 10 ms or more, which is longer than most of a short task.
INTERVAL_SECONDS = 0.1
#: bytes read at once; what a program writes beyond this between two looks is skipped
READ_BYTES = 64 * 1024
NAME = "progress"


def parse(line: bytes) -> tuple[int, str] | None:
    """Percent and text; None when the line is malformed. Percents outside 0 to 100 are clamped."""
    number, _, text = clean(line).strip().partition(" ")
    digits = number.removeprefix("-").removesuffix("%")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        return None
    percent = 0 if number.startswith("-") else min(int(digits), 100)
    return percent, " ".join(text.split())


class Progress:
    """`folder` is an open descriptor, so that nothing the program does can point it elsewhere."""

    def __init__(self, folder: int, redactor: Redactor, send: Callable[[int, str], None]) -> None:
        self._folder = folder
        self._redactor = redactor
        self._send = send
        self._offset: int = 0
        self._inode: int = 0
        self._rest = b""
        self._looked_at = time.monotonic()

    def read(self) -> None:
        """Look at the file, and report what is new."""
        self._looked_at = time.monotonic()
        parsed = [found for line in self._new_lines() if (found := parse(line)) is not None]
        if parsed:
            percent, text = parsed[-1]  # between two looks only the last one counts
            self._send(percent, self._redactor.text(text)[: protocol.MAX_PROGRESS_TEXT])

    def due_in(self) -> float:
        """Seconds until `read_if_due` should be called."""
        return max(0.0, self._looked_at + INTERVAL_SECONDS - time.monotonic())

    def read_if_due(self) -> None:
        if self.due_in() == 0.0:
            self.read()

    def finish(self) -> None:
        """The program has ended: what is unread goes out now, a last line without its newline too."""
        self.read()
        if self._rest:
            self._rest += b"\n"
            self.read()

    def _new_lines(self) -> list[bytes]:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(NAME, flags, dir_fd=self._folder)
        except OSError:
            return []
        try:
            data = self._read_on(descriptor)
        except OSError:
            return []
        finally:
            os.close(descriptor)
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-READ_BYTES:]
        return lines

    def _read_on(self, descriptor: int) -> bytes:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset, self._rest = status.st_ino, 0, b""
        self._offset = max(self._offset, status.st_size - READ_BYTES)
        data = os.pread(descriptor, READ_BYTES, self._offset)
        self._offset += len(data)
        return data
