"""Bodies: structs that refuse what they do not know, and a request that parses strictly.

Limits beyond types are checked on the raw bytes before anything is built from them: nesting, NUL characters
(PostgreSQL text cannot hold them) and integers of more than 64 bits (JSON readers disagree about those). Of
repeated keys the last counts, everywhere: a body is parsed once, and what is stored is what was checked.
"""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, cast
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.datastructures import State

from sfp_server.errors import BodyTimeout, FieldError, Malformed, UnsupportedMediaType

MAX_DEPTH = 64
#: seconds for the whole of a body that is kept in memory
WHOLE_BODY = 120.0

# An unterminated string ends at the end: tried again from each of its quotes, it would cost the square of its length.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_SUSPICIOUS = re.compile(rb"\\u0000|[0-9]{19}")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"[]", b"{}")
_AT = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"field `(.+?)`")


class WrongField(ValueError):
    """What a struct's own check found wrong with one of its fields: raise it in `__post_init__`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class Wire(msgspec.Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """Base of every struct on the wire: camelCase, unknown fields refused."""


class SnakeWire(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The same for bodies whose published names are snake_case (`access_token`)."""


class ApiRequest(Request[Any, Any, State]):
    """A request whose `data` parameter is decoded strictly: "5" is no number, and a bad body is a 400.

    Bodies are JSON; routes with `opt={"form": True}` also take a form, as OAuth clients send it.
    """

    async def body(self) -> bytes:
        """The whole body, for routes whose limit lets it be kept in memory. Raises BodyTimeout, TooLarge."""
        try:
            async with asyncio.timeout(WHOLE_BODY):
                return await super().body()
        except TimeoutError as error:
            raise BodyTimeout("the body came too slowly") from error

    async def json(self) -> Any:
        """The body as the type that the handler's `data` asks for. Raises Malformed, UnsupportedMediaType."""
        body = await self.body()
        essence = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        handler = cast("Any", self.route_handler)
        field = handler.parsed_data_field  # Litestar: a FieldDefinition or None
        # Not `raw`: its Annotated carries Litestar's marker, whose hash costs msgspec more than the decoding.
        kind: Any = field.annotation if field is not None else Any
        if essence == "application/x-www-form-urlencoded" and handler.opt.get("form"):
            return convert(form(body), kind)
        if essence != "application/json" and not essence.endswith("+json"):
            raise UnsupportedMediaType("send the body as application/json")
        return decode(body, kind)


def form(body: bytes) -> dict[str, str]:
    """The fields of a form; of repeated ones the last counts. Raises Malformed."""
    try:
        fields = dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=100, errors="strict"))
    except ValueError as error:  # UnicodeDecodeError too
        raise Malformed("the body is not a form in UTF-8") from error
    if any("\0" in text for item in fields.items() for text in item):
        raise Malformed("NUL characters are not allowed")
    return fields


def decode(body: bytes, kind: Any) -> Any:
    """Parse JSON into `kind`. Raises Malformed with the place that is wrong."""
    check_depth(body)
    try:
        if _SUSPICIOUS.search(body):
            _check_values(msgspec.json.decode(body))
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _wrong(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed("the body is not valid JSON in UTF-8") from error


def convert(value: Any, kind: Any, *, at: str = "") -> Any:
    """Parsed JSON into `kind`, as for a part of a body whose type another part names. Raises Malformed."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _wrong(error, at=at) from error


def check_depth(body: bytes) -> None:
    """Refuse nesting beyond MAX_DEPTH before a parser recurses into it. Raises Malformed."""
    if body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return
    brackets = _STRINGS.sub(b"", body).translate(_ONE_KIND, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        # Each round removes the innermost level of everything, in C.
        fewer = brackets.replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    if brackets.count(b"{") > MAX_DEPTH or b"{}" in brackets:
        raise Malformed(f"the body is nested deeper than {MAX_DEPTH} levels")


def _check_values(document: Any) -> None:
    for path, value in _leaves(document, ""):
        if isinstance(value, str) and "\0" in value:
            raise _at(path, "NUL characters are not allowed")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise _at(path, "integers must fit in 64 bits")


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every scalar with its path; keys count as scalars."""
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():  # JSON objects have text keys
            yield path, key
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for number, item in enumerate(cast("list[Any]", value)):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value


def _wrong(error: msgspec.ValidationError, *, at: str = "") -> Malformed:
    """What msgspec said as a FieldError: its place is where the sentence says, or the field that it names."""
    message = str(error)
    found = _AT.search(message)
    path = found[1] if found else ""
    text = _AT.sub("", message)
    named = _FIELD.search(text)
    field = named[1] if named else None
    if isinstance(error.__cause__, WrongField):
        field, text = error.__cause__.field, error.__cause__.message
    if field is not None:
        path = f"{path}.{field}" if path else field
    separator = "." if at and path and not path.startswith("[") else ""
    return _at(f"{at}{separator}{path}", text)


def _at(path: str, message: str) -> Malformed:
    return Malformed(
        f"{path}: {message}" if path else message, errors=(FieldError(path=path.replace("\0", ""), message=message),)
    )
