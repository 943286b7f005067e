"""Application tokens: made, listed and revoked by owners. Never renewed, no grace; the text is shown once."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Row, Tx
from sfp_server.db.queries import load
from sfp_server.errors import NotFound
from sfp_server.events import service as events
from sfp_server.identity.model import ApplicationToken, Network
from sfp_server.identity.tokens import hash_of, new_application_token

#: the last step of `told`
_EXPIRED = 3

SQL = load(__package__ or "", "identity.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """What its maker sees, once."""

    id: UUID
    token: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a new token is to be: `scopes` and `addresses` were checked."""

    name: str
    scopes: list[str]
    #: seconds
    life: float
    addresses: Sequence[Network] = ()
    #: made by the exchange of a CI system's token
    from_ci: bool = False


async def create(tx: Tx, actor: Actor, order: Order) -> NewToken:
    """A token for the actor's team; told of on the channel `team`."""
    made = await issue(tx, order, made_by=actor.id, made_by_name=actor.name)
    detail: dict[str, Any] = {
        "name": order.name,
        "scopes": order.scopes,
        "days": round(order.life / 86_400),
        "addresses": [str(network) for network in order.addresses],
    }
    await audit.record(tx, actor.label, "application_token.created", f"application_token:{made.id}", detail)
    assert actor.team_id is not None  # the scope is an owner's
    await events.record(tx, actor.team_id, ["team"], "token.created", _told(made.id, order.name, made.expires_at))
    return made


async def issue(tx: Tx, order: Order, *, made_by: UUID | None, made_by_name: str) -> NewToken:
    """The row and the text of a token in the transaction's team; audit and events are the caller's."""
    token_id: UUID = await tx.value("SELECT uuid7()")
    text = new_application_token(token_id)
    addresses = [str(network) for network in order.addresses]
    row = await tx.one(
        SQL["create_token"],
        token_id,
        order.name,
        hash_of(text),
        order.scopes,
        made_by,
        made_by_name,
        order.life,
        addresses,
        order.from_ci,
    )
    assert row is not None  # INSERT … RETURNING
    return NewToken(
        id=token_id, token=text, scopes=order.scopes, created_at=row["created_at"], expires_at=row["expires_at"]
    )


async def page(tx: Tx, *, before: UUID | None, limit: int, with_ci: bool) -> list[ApplicationToken]:
    """The team's tokens, newest first, also those that open nothing any more."""
    return [_token(row) for row in await tx.all(SQL["list_tokens"], before, limit, with_ci)]


async def revoke(tx: Tx, actor: Actor, token_id: UUID) -> ApplicationToken:
    """Make a token worthless, everywhere within a second. Twice is fine. Raises NotFound."""
    revoked = await tx.one(SQL["revoke_token"], token_id)
    if revoked is not None:
        subject = f"application_token:{token_id}"
        await audit.record(tx, actor.label, "application_token.revoked", subject, {"name": revoked["name"]})
        assert actor.team_id is not None  # the scope is an owner's
        told = _told(token_id, revoked["name"], revoked["expires_at"])
        await events.record(tx, actor.team_id, ["team"], "token.revoked", told)
    row = await tx.one(SQL["find_token"], token_id)
    if row is None:
        raise NotFound("there is no such application token")
    return _token(row)


async def tell(database: Database) -> int:
    """Tell of tokens that end soon or have ended, each step once; for a service's clock. Answers how many were told.

    Raises Unavailable.
    """
    async with database.serving() as tx:
        due = await tx.all(SQL["tokens_to_tell"])
    told = 0
    for row in due:
        async with database.serving(row["team_id"]) as tx:
            taken = await tx.one(SQL["tell_token"], row["id"])
            if taken is not None:
                event = "token.expired" if taken["told"] == _EXPIRED else "token.expiring"
                data = _told(taken["id"], taken["name"], taken["expires_at"])
                await events.record(tx, row["team_id"], ["team"], event, data)
                told += 1
    return told


def _told(token_id: UUID, name: str, expires_at: datetime) -> dict[str, Any]:
    return {"id": str(token_id), "name": name, "expiresAt": expires_at}


def _token(row: Row) -> ApplicationToken:
    return ApplicationToken(**row)
