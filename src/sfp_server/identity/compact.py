"""The outside of a JWT, read strictly, before any key is looked at.

Libraries read generously: padding, other alphabets, the last of two equal names. Whoever checks a token and whoever
uses it must read the same, so there is one form here: three parts of canonical base64url, two JSON objects in UTF-8 in
which no name stands twice, no header that changes how the rest is read.
"""

import base64
import json
import re
from dataclasses import dataclass
from typing import Any, cast

from sfp_server.errors import TokenInvalid

#: bytes of a token
MAX_SIZE = 8192
#: levels of objects and lists in its JSON
_MAX_DEPTH = 16

_FORM = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
#: they change what is signed, or how it is read; nobody whom we trust sends them
_REFUSED = frozenset({"crit", "b64", "enc", "zip"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Unverified:
    """What a token says of itself: good for choosing who checks it, and for nothing else."""

    header: dict[str, Any]
    claims: dict[str, Any]


def read(token: str) -> Unverified:
    """The header and the claims of a token whose signature was not checked yet. Raises TokenInvalid."""
    if len(token) > MAX_SIZE:
        raise invalid()
    form = _FORM.fullmatch(token)
    if form is None:
        raise invalid()
    try:
        header, claims, _ = (_bytes(part) for part in form.groups())
        found = Unverified(header=_object(header), claims=_object(claims))
    except (ValueError, TypeError, RecursionError) as error:
        raise invalid() from error
    if _REFUSED & found.header.keys():
        raise invalid()
    return found


def invalid() -> TokenInvalid:
    """One text for every way in which a token can be wrong."""
    return TokenInvalid("the token is not valid")


def _bytes(part: str) -> bytes:
    """Raises ValueError unless the text is the one that these bytes have."""
    read = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(read).rstrip(b"=").decode() != part:
        raise ValueError("not canonical")
    return read


def _object(text: bytes) -> dict[str, Any]:
    """Raises ValueError, TypeError unless it is one JSON object that every reader reads alike."""
    if text.count(b"{") + text.count(b"[") > _MAX_DEPTH * 8:
        raise ValueError("too much")
    value = json.loads(text.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return cast("dict[str, Any]", value)  # JSON objects have text keys


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
