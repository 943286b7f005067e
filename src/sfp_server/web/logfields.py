"""What of a log entry is written: named fields and constant texts. Everything else is dropped, whoever logs it.

A field that is not in `FIELDS`, a text of a library with its arguments, the message of an exception that may quote what
somebody sent: any of them may hold a secret one day, so none is written. What is dropped is named (`dropped`).
"""

import traceback
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any, cast
from uuid import UUID

from sfp_server.errors import SfpError

#: what we log ourselves; a new field gets its name here when it can never hold what somebody keeps secret
FIELDS = frozenset(
    {
        "attempt",
        "code",
        "consequence",
        "constraint",
        "container",
        "count",
        "dispatcher",
        "dropped",
        "entry",
        "error",
        "exit_code",
        "file",
        "host",
        "instance",
        "isolation",
        "key",
        "limit",
        "method",
        "ms",
        "name",
        "next",
        "operation_id",
        "part",
        "path",
        "pid",
        "port",
        "provider",
        "queue",
        "reason",
        "remote",
        "request_id",
        "route",
        "row",
        "runtimes",
        "seconds",
        "service",
        "slots",
        "source",
        "status",
        "step",
        "table",
        "task",
        "team",
        "type",
        "url",
        "version",
        "warning",
        "why",
    }
)
#: what the chain itself adds
_OWN = frozenset({"event", "level", "at", "exception"})
#: characters of one text
_LONGEST = 500
#: exceptions whose text is about code, and ours, whose text is for callers
_TELLING = (SfpError, AttributeError, ImportError, NameError)

Entry = MutableMapping[str, Any]


def told_exception(_logger: Any, _method: str, entry: Entry) -> Entry:
    """`exc_info` becomes `exception`: types and places, and a message only where it cannot quote anybody."""
    info: object = entry.pop("exc_info", None)
    if info is True:
        import sys

        info = sys.exc_info()[1]
    elif isinstance(info, tuple):
        info = cast("tuple[object, object, object]", info)[1]
    if isinstance(info, BaseException):
        entry["exception"] = "\n".join(_chain(info))
    return entry


def _chain(error: BaseException) -> Iterator[str]:
    """The exceptions that led to it, first to last."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _chain(before)
    for one in cast("Sequence[BaseException]", getattr(error, "exceptions", ())):  # of a group
        yield from _chain(one)
    yield from _frames(error.__traceback__)
    yield f"{type(error).__qualname__}{_particulars(error)}"


def _frames(trace: TracebackType | None) -> Iterator[str]:
    for line in traceback.format_tb(trace):  # our own source, no values
        yield line.rstrip()


def _particulars(error: BaseException) -> str:
    if isinstance(error, _TELLING):
        return f": {error}"
    if isinstance(error, OSError) and error.strerror:
        return f": {error.strerror}"
    for name in ("sqlstate", "constraint"):  # of the database
        if known := getattr(error, name, None):
            return f": {name} {known}"
    return ""


def only_known_fields(_logger: Any, _method: str, entry: Entry) -> Entry:
    """Keeps what `FIELDS` names, in plain values of bounded size."""
    dropped = sorted(entry.keys() - FIELDS - _OWN)
    kept: Entry = {
        name: _plain(value) for name, value in entry.items() if name in FIELDS or name in _OWN - {"exception"}
    }
    if "exception" in entry:
        kept["exception"] = entry["exception"]
    if dropped:
        kept["dropped"] = dropped
    return kept


def _plain(value: object, depth: int = 3) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | UUID):
        text = str(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if depth and isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value)
        return {str(name)[:100]: _plain(item, depth - 1) for name, item in entries.items()}
    if depth and isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [_plain(item, depth - 1) for item in cast("Sequence[object]", value)]
    return f"<{type(value).__name__}>"
