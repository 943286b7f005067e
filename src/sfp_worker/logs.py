"""From a program's output to log lines: redacted, cut, batched."""

from __future__ import annotations

import time

from sfp_worker import protocol
from sfp_worker.redact import RedactedStream

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable

#: seconds for which lines after the first are gathered
BATCH_SECONDS = 0.02
#: characters gathered at most
BATCH_SIZE = 64 * 1024


def clean(data: bytes) -> str:
    """Text for people and for PostgreSQL, which knows no NUL."""
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def pieces(line: bytes, limit: int = protocol.MAX_LINE) -> list[bytes]:
    """The line in parts of at most `limit` bytes; no character of valid UTF-8 is cut."""
    parts: list[bytes] = []
    while len(line) > limit:
        end = limit
        while end > limit - 4 and line[end] & 0xC0 == 0x80:
            end -= 1
        parts.append(line[:end])
        line = line[end:]
    parts.append(line)
    return parts


class Lines:
    """Cuts one redacted stream into lines."""

    def __init__(self, stream: RedactedStream) -> None:
        self._stream = stream
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines completed by `data`; a long one comes in pieces before it is complete."""
        *complete, rest = (self._rest + self._stream.feed(data)).split(b"\n")
        lines = [piece for line in complete for piece in pieces(line.removesuffix(b"\r"))]
        *more, self._rest = pieces(rest)
        return [clean(line) for line in lines + more]

    def finish(self) -> list[str]:
        """What is left at the end of the stream: a line without its newline, if anything."""
        *complete, rest = (self._rest + self._stream.finish()).split(b"\n")
        lines = complete + ([rest] if rest else [])
        self._rest = b""
        return [clean(piece) for line in lines for piece in pieces(line)]


class Batch:
    """Gathers lines: the first one after a pause goes out at once, the others a little later together."""

    def __init__(self, send: Callable[[list[list[object]]], None]) -> None:
        self._send = send
        self._lines: list[list[object]] = []
        self._size = 0
        self._sent_at = 0.0

    def add(self, stream: str, lines: list[str]) -> None:
        at = round(time.time(), 6)
        for line in lines:
            self._lines.append([stream, line, at])
            self._size += len(line) + 32
            if self._size >= BATCH_SIZE:
                self.flush()

    def due_in(self) -> float | None:
        """Seconds until `flush` should be called; None when nothing waits."""
        if not self._lines:
            return None
        return max(0.0, self._sent_at + BATCH_SECONDS - time.monotonic())

    def flush_if_due(self) -> None:
        if self.due_in() == 0.0:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            self._send(self._lines)
            self._lines = []
            self._size = 0
        self._sent_at = time.monotonic()
