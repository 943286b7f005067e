"""What a worker says, parsed and bounded: nothing it sends is trusted."""

from typing import Any

from sfp_server.runtimes.base import Failure, LogLine, Usage
from sfp_worker.protocol import MAX_LINE, MAX_PROGRESS_TEXT, Message, ProtocolError

_STREAMS = frozenset({"stdout", "stderr", "system"})
_FAILURES = frozenset(
    {
        "workspace",
        "credential",
        "bad_archive",
        "output_limit",
        "disk_limit",
        "out_of_memory",
        "invalid_result",
        "worker_lost",
        "cannot_start",
    }
)
#: lines in one message, and characters of a failure's text
MAX_LINES, MAX_TEXT = 100_000, 1000


def log_lines(message: Message) -> list[LogLine]:
    """Raises ProtocolError when the message is not what a supervisor sends."""
    lines: Any = message.get("lines")
    if not isinstance(lines, list) or len(lines) > MAX_LINES:  # pyright: ignore[reportUnknownArgumentType] (checked line by line)
        raise ProtocolError("log without lines")
    return [_log_line(line) for line in lines]  # pyright: ignore[reportUnknownVariableType] (same)


def _log_line(line: Any) -> LogLine:
    match line:
        case [str() as stream, str() as text, int() | float() as at] if stream in _STREAMS:
            return LogLine(stream=stream, message=clean(text)[:MAX_LINE], at=float(at))
        case _:
            raise ProtocolError("not a log line")


def clean(text: str) -> str:
    """Text that PostgreSQL takes."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def progress(message: Message) -> tuple[int, str]:
    match message:
        case {"percent": int() as percent, "text": str() as text}:
            return min(max(percent, 0), 100), clean(text)[:MAX_PROGRESS_TEXT]
        case _:
            raise ProtocolError("not a progress")


def artifact_name(message: Message) -> str:
    """A clean relative path.

    Raises:
        ProtocolError: it is none.
    """
    name = message.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 4096 or "\0" in name:
        raise ProtocolError("an artifact without a name")
    parts = name.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise ProtocolError("an artifact's name is not a clean relative path")
    return clean(name)


def failure(message: Message) -> Failure | None:
    match message.get("failure"):
        case None:
            return None
        case [str() as code, str() as text] if code in _FAILURES:
            return Failure(code=code, message=clean(text)[:MAX_TEXT])
        case _:
            raise ProtocolError("not a failure")


def ending(message: Message) -> tuple[int | None, int | None]:
    """(exit code, signal), at most one of them set."""
    match message.get("code"), message.get("signal"):
        case None, None:
            return None, None
        case int() as code, None if 0 <= code <= 255:
            return code, None
        case None, int() as signal if 1 <= signal <= 64:
            return None, signal
        case _:
            raise ProtocolError("not an exit")


def usage(message: Message) -> Usage:
    match message.get("usage"):
        case {
            "cpu_seconds": int() | float() as cpu,
            "peak_memory_bytes": int() as peak,
            "output_bytes": int() as output,
        } if 0 <= cpu < 1e9 and 0 <= peak < 1 << 53 and 0 <= output < 1 << 53:
            return Usage(cpu_seconds=float(cpu), peak_memory_bytes=peak, output_bytes=output)
        case _:
            return Usage()
