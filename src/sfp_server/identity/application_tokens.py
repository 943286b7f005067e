"""Application tokens: made, listed and revoked by owners. Never renewed, no grace; the text is shown once."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.db.database import Row, Tx
from sfp_server.db.queries import load
from sfp_server.errors import NotFound
from sfp_server.identity.model import ApplicationToken, granted
from sfp_server.identity.tokens import hash_of, new_application_token

SQL = load(__package__ or "", "identity.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """What its maker sees, once."""

    id: UUID
    token: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime


async def create(tx: Tx, actor: Actor, *, name: str, days: int, scopes: list[str] | None) -> NewToken:
    """A token for the actor's team, that lives `days` days. Raises Malformed for scopes no application may have."""
    allowed = granted(scopes)
    token_id: UUID = await tx.value("SELECT uuid7()")
    text = new_application_token(token_id)
    row = await tx.one(SQL["create_token"], token_id, name, hash_of(text), allowed, actor.id, actor.name, days)
    assert row is not None  # INSERT … RETURNING
    detail: dict[str, Any] = {"name": name, "scopes": allowed, "days": days}
    await audit.record(tx, actor.label, "application_token.created", f"application_token:{token_id}", detail)
    return NewToken(id=token_id, token=text, scopes=allowed, created_at=row["created_at"], expires_at=row["expires_at"])


async def page(tx: Tx, *, before: UUID | None, limit: int) -> list[ApplicationToken]:
    """The team's tokens, newest first, also those that open nothing any more."""
    return [_token(row) for row in await tx.all(SQL["list_tokens"], before, limit)]


async def revoke(tx: Tx, actor: Actor, token_id: UUID) -> ApplicationToken:
    """Make a token worthless, everywhere within a second. Twice is fine. Raises NotFound."""
    revoked = await tx.one(SQL["revoke_token"], token_id)
    if revoked is not None:
        subject = f"application_token:{token_id}"
        await audit.record(tx, actor.label, "application_token.revoked", subject, {"name": revoked["name"]})
    row = await tx.one(SQL["find_token"], token_id)
    if row is None:
        raise NotFound("there is no such application token")
    return _token(row)


def _token(row: Row) -> ApplicationToken:
    return ApplicationToken(**row)
