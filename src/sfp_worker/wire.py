"""JSON for the control socket, by the C parts of the standard library's json alone.

`import json` takes 5 ms of a worker's start for regular expressions that only its pure Python side uses.
Where the C parts are missing or differ, json itself does the work.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the C scanner asks its JSONDecoder for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 (the scanner's own, emptied by it)

    @staticmethod
    def parse_constant(name: str) -> float:
        raise ValueError(f"{name} is not JSON")


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not JSON")


try:
    import _json

    _scan = _json.make_scanner(_Context())  # pyright: ignore[reportArgumentType] (it duck-types)
    _encode = _json.make_encoder(None, _unknown, _json.encode_basestring, None, ":", ",", False, False, False)  # pyright: ignore[reportArgumentType] (no markers: what we send has no cycles)

    def dumps(value: object) -> str:
        """Compact, with characters beyond ASCII as they are."""
        return "".join(_encode(value, 0))

    def loads(text: str) -> Any:
        """Raises ValueError when the text is not one JSON value."""
        text = text.strip()
        try:
            value, end = _scan(text, 0)
        except StopIteration:
            end = -1
            value = None
        if end != len(text):
            raise ValueError("not one JSON value")  # noqa: TRY301 (the `try` around is about the import)
        return value

    def escape(text: str) -> str:
        """As a JSON string, characters beyond ASCII as they are."""
        return _json.encode_basestring(text)

    def escape_ascii(text: str) -> str:
        """As a JSON string in ASCII."""
        return _json.encode_basestring_ascii(text)

    loads(dumps({"probe": [1.5, "ü", None, True]}))
except (ImportError, AttributeError, TypeError, ValueError):
    import json

    def dumps(value: object) -> str:
        """Compact, with characters beyond ASCII as they are."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def loads(text: str) -> Any:
        """Raises ValueError when the text is not one JSON value."""
        return json.loads(text, parse_constant=_Context.parse_constant)

    def escape(text: str) -> str:
        """As a JSON string, characters beyond ASCII as they are."""
        return json.dumps(text, ensure_ascii=False)

    def escape_ascii(text: str) -> str:
        """As a JSON string in ASCII."""
        return json.dumps(text)
