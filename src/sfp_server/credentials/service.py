"""What an owner can do with secrets: set, list, delete. Nobody can read one back."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.credentials.vault import KEY_VERSION, Place, Sealer
from sfp_server.db.database import Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, FieldError, NotFound, UnknownSecret

SQL = load("sfp_server.credentials", "credentials.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """What may be known of a stored secret: everything but its value."""

    id: UUID
    name: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime


def _secret(row: Row) -> Secret:
    return Secret(**{name: row[name] for name in Secret.__dataclass_fields__})


async def put(tx: Tx, actor: Actor, sealer: Sealer, *, name: str, value: str) -> Secret:
    """Store a value under `name`, as its next version. Raises Conflict when two first versions race."""
    assert actor.team_id is not None  # the route's scope is an owner's
    current = await tx.one(SQL["current_secret"], name)
    secret_id: UUID = current["id"] if current else await tx.value("SELECT uuid7()")
    version: int = current["version"] + 1 if current else 1
    place = Place(table="secrets", row_id=secret_id, team_id=actor.team_id, field=name, version=version)
    sealed = sealer.seal(value.encode(), place)
    if current:
        row = await tx.one(SQL["replace_secret"], secret_id, version, KEY_VERSION, sealed.sealed_key, sealed.ciphertext)
    else:
        row = await _add(tx, secret_id, name, KEY_VERSION, sealed.sealed_key, sealed.ciphertext, actor.label)
    assert row is not None
    await audit.record(tx, actor.label, "secret.set", f"secret:{name}", {"version": version})
    return _secret(row)


async def _add(tx: Tx, secret_id: UUID, name: str, *values: object) -> Row | None:
    try:
        return await tx.one(SQL["add_secret"], secret_id, name, *values)
    except Violation as error:
        if error.constraint != "secrets_name_unique":
            raise
        raise Conflict(f"the secret {name} was just made by another request; set it again") from error


async def listed(tx: Tx, *, after: str, limit: int) -> Sequence[Secret]:
    """Secrets of the actor's team by name, after `after`."""
    return [_secret(row) for row in await tx.all(SQL["list_secrets"], after, limit)]


async def delete(tx: Tx, actor: Actor, name: str) -> None:
    """Forget a secret. Running attempts keep what they drew. Raises NotFound."""
    if await tx.one(SQL["delete_secret"], name) is None:
        raise NotFound(f"there is no secret {name}")
    await audit.record(tx, actor.label, "secret.deleted", f"secret:{name}")


async def require_secrets(tx: Tx, names: Sequence[str], *, at: str) -> None:
    """Raises UnknownSecret for the first of `names` that the actor's team does not have.

    Args:
        at: where they stand in the request, for the error.
    """
    known = {row["name"] for row in await tx.all(SQL["secrets_named"], list(names))} if names else set[str]()
    for name in names:
        if name not in known:
            message = f"there is no secret {name}: set it first with PUT /secrets/{name}"
            raise UnknownSecret(message, errors=(FieldError(path=at, message=message),))
