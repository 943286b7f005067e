"""Follows the file named by SFP_PROGRESS: each line `<0-100> <text>` is progress."""

import os
import stat
import time
from collections.abc import Callable

from sfp_worker import kernel, protocol
from sfp_worker.logs import clean
from sfp_worker.redact import Redactor

#: seconds between two reports; the last one always goes out
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
        self._waiting: tuple[int, str] | None = None
        self._sent_at = 0.0
        path = f"/proc/self/fd/{folder}".encode()
        self._inotify = kernel.inotify(path, kernel.IN_MODIFY | kernel.IN_CREATE | kernel.IN_MOVED_TO)

    def fileno(self) -> int:
        return self._inotify

    def changed(self) -> None:
        """Something happened in the folder: read on."""
        try:
            os.read(self._inotify, 64 * 1024)
        except BlockingIOError:
            return
        self.read()

    def read(self) -> None:
        for line in self._new_lines():
            parsed = parse(line)
            if parsed:
                text = self._redactor.text(parsed[1])[: protocol.MAX_PROGRESS_TEXT]
                self._waiting = (parsed[0], text)
        self.flush_if_due()

    def due_in(self) -> float | None:
        if self._waiting is None:
            return None
        return max(0.0, self._sent_at + INTERVAL_SECONDS - time.monotonic())

    def flush_if_due(self) -> None:
        if self.due_in() == 0.0:
            self._flush()

    def finish(self) -> None:
        """The program has ended: what is unread and unsent goes out now."""
        self.read()
        if self._rest:
            self._rest += b"\n"
            self.read()
        self._flush()
        os.close(self._inotify)

    def _flush(self) -> None:
        if self._waiting is not None:
            self._send(*self._waiting)
            self._waiting = None
            self._sent_at = time.monotonic()

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
