"""Reads the file named by SFP_RESULT: one bounded, valid JSON value."""

from __future__ import annotations

import os
import stat

from sfp_worker.failure import Failed
from sfp_worker.protocol import MAX_RESULT, MAX_RESULT_DEPTH
from sfp_worker.redact import Redactor

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from typing import Any, NoReturn

NAME = "result"


def read(folder: int, redactor: Redactor) -> tuple[bool, Any]:
    """(was there one, its value, redacted).

    Raises:
        Failed: `invalid_result`.
    """
    data = _content(folder)
    if data is None:
        return False, None
    import json  # most programs leave no result

    try:
        value = json.loads(data.decode(), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise _invalid("is not valid JSON") from error
    return True, redactor.value(_storable(value, depth=0))


def _content(folder: int) -> bytes | None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(NAME, flags, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _invalid("is not a regular file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _invalid("is not a regular file")
    with open(descriptor, "rb") as file:
        data = file.read(MAX_RESULT + 1)
    if len(data) > MAX_RESULT:
        raise _invalid(f"is larger than {MAX_RESULT} bytes")
    return data


def _storable(value: Any, *, depth: int) -> Any:
    """The value as PostgreSQL's jsonb can hold it: no NUL, no lone surrogate, not too deep."""
    if depth > MAX_RESULT_DEPTH:
        raise _invalid(f"is nested more than {MAX_RESULT_DEPTH} deep")
    match value:
        case str():
            return _text(value)
        case list():
            items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] (JSON)
            return [_storable(item, depth=depth + 1) for item in items]
        case dict():
            entries: dict[str, Any] = value  # pyright: ignore[reportUnknownVariableType] (JSON)
            return {_text(key): _storable(item, depth=depth + 1) for key, item in entries.items()}
        case _:
            return value


def _text(text: str) -> str:
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined.replace("\0", "\ufffd")


def _finite(text: str) -> float:
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError("number out of range")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _invalid(what: str) -> Failed:
    return Failed("invalid_result", f"the file named by SFP_RESULT {what}")
