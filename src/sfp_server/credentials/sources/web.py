"""JSON over the instance's outgoing HTTP, with the errors of sources."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from sfp_server.credentials.sources.base import MAX_BYTES, SECONDS, SourceError
from sfp_server.outgoing import Outgoing, OutgoingFailed


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A status and the JSON object that came with it."""

    status: int
    document: dict[str, Any]


async def ask(
    outgoing: Outgoing, who: str, method: str, url: str, *, headers: Mapping[str, str] | None = None, json: Any = None
) -> Said:
    """One call to the source `who`. Raises SourceError when it is away or talks nonsense."""
    try:
        answer = await outgoing.request(method, url, headers=headers, json=json, max_bytes=MAX_BYTES, seconds=SECONDS)
    except OutgoingFailed as error:
        raise SourceError(f"{who} cannot be reached: {error}") from error
    if not answer.body:
        return Said(status=answer.status, document={})
    try:
        document = msgspec.json.decode(answer.body)
    except msgspec.MsgspecError:
        document = None
    if not isinstance(document, dict):
        raise SourceError(f"{who} answered {answer.status} with something that is no JSON object")
    return Said(status=answer.status, document=cast("dict[str, Any]", document))


def texts(document: object) -> dict[str, str]:
    """The entries of an object as texts; what is not a text is JSON."""
    entries = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in entries.items()
        if value is not None
    }


def entry(document: object, name: str) -> object:
    """What an object has under `name`; None where it is no object or has no such entry."""
    return cast("dict[str, Any]", document).get(name) if isinstance(document, dict) else None
