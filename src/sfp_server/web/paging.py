"""Keyset paging: a cursor names the last row seen, so nothing is skipped or doubled while rows come and go.

@get("/tasks", opt=…)
async def list_tasks(…, limit: Limit = 50, cursor: Cursor = None) -> Page[TaskRow]:
    rows = await tx.all(SQL["list"], after(cursor), limit + 1)
    return page([render(row) for row in rows], limit, key=lambda row: row.operation_id)
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar
from uuid import UUID

import msgspec
from litestar.params import QueryParameter

from sfp_server.errors import FieldError, Malformed

DEFAULT_LIMIT = 50
MAX_LIMIT = 200

#: how many items a page has; outside 1 to 200 is a 400
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT)]
#: where a page begins: `nextCursor` of the one before
Cursor = Annotated[str | None, QueryParameter(max_length=1024)]

Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item], rename="camel", kw_only=True):
    """One page of a list; `nextCursor` is null on the last one."""

    items: list[Item]
    next_cursor: str | None = None


def cursor_of(key: UUID | int | str) -> str:
    """An opaque cursor that names `key`."""
    return base64.urlsafe_b64encode(f"1:{key}".encode()).decode().rstrip("=")


def after(cursor: str | None) -> UUID | None:
    """The id that a cursor names, for lists ordered by id. Raises Malformed."""
    text = after_text(cursor)
    try:
        return UUID(text) if text is not None else None
    except ValueError as error:
        raise _nonsense() from error


def after_number(cursor: str | None) -> int | None:
    """The number (0 to 2⁶³-1) that a cursor names, for lists ordered by a number. Raises Malformed."""
    text = after_text(cursor)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise _nonsense()
    return int(text)


def after_text(cursor: str | None) -> str | None:
    """The text that a cursor names. Raises Malformed."""
    if cursor is None or cursor == "":
        return None
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        text = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _nonsense() from error
    if len(cursor) > 1024 or not text.startswith("1:") or "\0" in text:
        raise _nonsense()
    return text[2:]


def page(rows: Sequence[Item], limit: int, *, key: Callable[[Item], UUID | int | str]) -> Page[Item]:
    """A page of `rows`, of which one more than `limit` was asked for to know whether there is a next page."""
    items = list(rows[:limit])
    more = len(rows) > limit
    return Page(items=items, next_cursor=cursor_of(key(items[-1])) if more else None)


def _nonsense() -> Malformed:
    message = "not a cursor of this list: use nextCursor of the page before"
    return Malformed(f"cursor: {message}", errors=(FieldError(path="cursor", message=message),))
