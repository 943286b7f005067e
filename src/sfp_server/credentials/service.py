"""What an owner can do with secrets: set, restore, list, delete. Nobody can read one back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from sfp_server.actor import Actor
from sfp_server.audit import service as audit
from sfp_server.credentials.model import VERSIONS_KEPT, Secret, SecretVersion, secret_place
from sfp_server.credentials.public import PublicKeys
from sfp_server.db.database import Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, FieldError, NotFound, UnknownSecret
from sfp_server.web.preconditions import Expectation

SQL = load("sfp_server.credentials", "credentials.sql")

_ANY = Expectation()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    """The row of a secret, locked, at the version that this transaction makes."""

    id: UUID
    version: int


def _secret(row: Row) -> Secret:
    return Secret(**{name: row[name] for name in Secret.__dataclass_fields__})


async def put(
    tx: Tx,
    actor: Actor,
    keys: PublicKeys,
    *,
    name: str,
    value: str | Mapping[str, str],
    expected: Expectation = _ANY,
) -> Secret:
    """Store a value under `name`, or a reference to where it is kept, as its next version.

    Raises Conflict when two first versions race, VersionConflict as `expected` says, Unavailable.
    """
    assert actor.team_id is not None  # the route's scope is an owner's
    sealer = await keys.sealer(tx)
    head = await _next_version(tx, actor, name, expected)
    reference = None if isinstance(value, str) else dict(value)
    place = secret_place(
        secret_id=head.id, team_id=actor.team_id, name=name, version=head.version, is_reference=reference is not None
    )
    sealed = sealer.seal(value.encode() if isinstance(value, str) else msgspec.json.encode(reference), place)
    await tx.execute(
        SQL["add_version"],
        head.id,
        head.version,
        reference,
        sealed.key_version,
        sealed.sealed_key,
        sealed.ciphertext,
        actor.label,
    )
    detail = {"version": head.version, **({"reference": reference} if reference else {})}
    return await _changed(tx, actor, name, "secret.set", detail)


async def restore(tx: Tx, actor: Actor, *, name: str, version: int, expected: Expectation = _ANY) -> Secret:
    """Bring the value of an earlier version back, as the next version.

    Raises NotFound: there is no such secret or version. VersionConflict.
    """
    if await tx.one(SQL["version_of"], name, version) is None:
        raise NotFound(f"there is no version {version} of a secret {name}")
    head = await _next_version(tx, actor, name, expected)
    await tx.execute(SQL["restore_version"], head.id, head.version, version, actor.label)
    return await _changed(tx, actor, name, "secret.restored", {"version": head.version, "from": version})


async def _next_version(tx: Tx, actor: Actor, name: str, expected: Expectation) -> _Head:
    row = await tx.one(SQL["lock_secret"], name)
    expected.check(row["version"] if row else 0)
    if row is not None:
        await tx.execute(SQL["raise_version"], row["id"])
        return _Head(id=row["id"], version=row["version"] + 1)
    try:
        made = await tx.one(SQL["add_secret"], name, actor.label)
    except Violation as error:
        if error.constraint != "secrets_name_unique":
            raise
        raise Conflict(f"the secret {name} was just made by another request; set it again") from error
    assert made is not None  # INSERT … RETURNING
    return _Head(id=made["id"], version=1)


async def _changed(tx: Tx, actor: Actor, name: str, action: str, detail: Mapping[str, object]) -> Secret:
    row = await tx.one(SQL["get_secret"], name)
    assert row is not None
    await tx.execute(SQL["forget_versions"], row["id"], row["version"] - VERSIONS_KEPT)
    await audit.record(tx, actor.label, action, f"secret:{name}", detail)
    return _secret(row)


async def get(tx: Tx, name: str) -> Secret:
    """What is known of one secret. Raises NotFound."""
    row = await tx.one(SQL["get_secret"], name)
    if row is None:
        raise NotFound(f"there is no secret {name}")
    return _secret(row)


async def listed(tx: Tx, *, after: str, limit: int) -> Sequence[Secret]:
    """Secrets of the actor's team by name, after `after`."""
    return [_secret(row) for row in await tx.all(SQL["list_secrets"], after, limit)]


async def versions(tx: Tx, name: str, *, before: int | None, limit: int) -> Sequence[SecretVersion]:
    """The versions of a secret, newest first, before version `before`. Raises NotFound."""
    await get(tx, name)
    rows = await tx.all(SQL["list_versions"], name, before, limit)
    return [SecretVersion(**{field: row[field] for field in SecretVersion.__dataclass_fields__}) for row in rows]


async def delete(tx: Tx, actor: Actor, name: str, expected: Expectation = _ANY) -> None:
    """Forget a secret with all its versions. Running attempts keep what they drew.

    Raises NotFound, VersionConflict.
    """
    row = await tx.one(SQL["lock_secret"], name)
    if row is None:
        raise NotFound(f"there is no secret {name}")
    expected.check(row["version"])
    await tx.execute(SQL["delete_secret"], name)
    await audit.record(tx, actor.label, "secret.deleted", f"secret:{name}", {"version": row["version"]})


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
