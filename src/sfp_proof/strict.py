"""JSON of somebody else, read so that everybody reads the same."""

import json
from typing import Any


def loads(text: str | bytes) -> Any:
    """The value. Raises ValueError: it is not JSON, is nested too deeply, or names something twice.

    Of two members of one name one reader takes the first and another the last, so a signed text could say two things.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
