"""`/secrets`: write-only for everybody; names and times come back, values never. `/leases`: who holds what now."""

from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import unquote
from uuid import UUID

from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from sfp_server.actor import Actor
from sfp_server.credentials import service
from sfp_server.credentials.asking import Asking
from sfp_server.credentials.model import SHORTEST_VALUE
from sfp_server.credentials.public import PublicKeys
from sfp_server.db.database import Database
from sfp_server.errors import FieldError, Malformed, NotFound
from sfp_server.settings import Settings
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, after_number, after_text, page
from sfp_server.web.preconditions import expectation, versioned
from sfp_server.web.wire import ApiRequest, Wire, WrongField


class ReferenceBody(Wire):
    """Where a value is kept instead: an entry of what stands at a path of a source that the instance is set up for."""

    source: Literal["vault", "aws", "infisical"]
    path: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"^[A-Za-z0-9_./@+=-]+$")]
    key: Annotated[str, Meta(min_length=1, max_length=255)] = "value"

    def __post_init__(self) -> None:
        if ".." in self.path.split("/") or "//" in self.path:
            raise WrongField("path", "must not have .. or // in it")


class PutSecret(Wire):
    """Exactly one of a new value (64 KiB at most), a reference, and an earlier version to restore."""

    value: Annotated[str, Meta(max_length=65_536)] | None = None
    reference: ReferenceBody | None = None
    restore: Annotated[int, Meta(ge=1)] | None = None
    #: the version that it is thought to be at; If-Match means the same
    version: Annotated[int, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.value, self.reference, self.restore)) != 1:
            raise ValueError("exactly one of value, reference and restore is needed")
        if self.value is not None and len(self.value.strip()) < SHORTEST_VALUE:
            raise WrongField("value", f"has fewer than {SHORTEST_VALUE} characters: it could not be hidden in output")


class SecretAnswer(Wire):
    name: str
    version: int
    reference: dict[str, Any] | None
    created_by: str
    created_at: datetime
    updated_at: datetime


class SecretVersionAnswer(Wire):
    """One version; `isCurrent`: the one that tasks get."""

    version: int
    restored_from: int | None
    reference: dict[str, Any] | None
    created_by: str
    created_at: datetime
    is_current: bool


class KeyPair(Wire):
    """A key pair of the vault, and how many values are sealed to it."""

    version: int
    created_at: datetime
    sealed: int
    is_current: bool


class VaultKeys(Wire):
    """Of the whole instance. More than one: a rotation is under way. `broken` values were changed in the database."""

    items: list[KeyPair]
    broken: int


class RotationAnswer(Wire):
    """The key pair that is in use now; GET of the same path shows how far the others are."""

    version: int


class LeaseAnswer(Wire):
    """That an attempt drew a credential; `endedAt` is null while it may hold it."""

    id: UUID
    operation_id: UUID
    attempt: int
    kind: str
    name: str
    version: int
    source: str | None
    leased_at: datetime
    ended_at: datetime | None


def _answer(secret: service.Secret) -> SecretAnswer:
    return SecretAnswer(**{name: getattr(secret, name) for name in SecretAnswer.__struct_fields__})


def _checked(name: str) -> str:
    text = unquote(name)
    allowed = text.isascii() and text.replace("_", "a").replace(".", "a").replace("-", "a").isalnum()
    if not allowed or not (text[0].isalpha() or text[0] == "_") or len(text) > 128:
        message = "must begin with a letter or _ and have letters, digits, _ . - only, 128 at most"
        raise Malformed(f"name: {message}", errors=(FieldError(path="name", message=message),))
    return text


def _allowed(reference: ReferenceBody, actor: Actor, settings: Settings) -> dict[str, str]:
    """The reference, if it is below what the instance's admin opened for the team. Raises Malformed."""
    prefixes = [
        prefix.replace("{team}", actor.team_slug) for prefix in settings.reference_sources().get(reference.source, ())
    ]
    if not any(reference.path.startswith(prefix) and reference.path != prefix for prefix in prefixes):
        message = f"must begin with {' or '.join(prefixes)}" if prefixes else "this instance has no such source"
        place = "reference.path" if prefixes else "reference.source"
        raise Malformed(f"{place}: {message}", errors=(FieldError(path=place, message=message),))
    return {"source": reference.source, "path": reference.path, "key": reference.key}


@put("/secrets/{name:str}", opt={"scope": "secrets:manage"}, status_code=200)
async def put_secret(
    name: FromPath[str],
    data: JSONBody[PutSecret],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    settings: NamedDependency[Settings],
    public_keys: NamedDependency[PublicKeys],
) -> Response[SecretAnswer]:
    """Store a value or a reference as the next version, or bring an earlier version back. Honours If-Match."""
    checked = _checked(name)
    expected = expectation(request, data.version)
    value = data.value if data.reference is None else _allowed(data.reference, actor, settings)
    async with db.transaction(actor) as tx:
        if data.restore is not None:
            stored = await service.restore(tx, actor, name=checked, version=data.restore, expected=expected)
        else:
            assert value is not None  # exactly one is given: __post_init__
            stored = await service.put(tx, actor, public_keys, name=checked, value=value, expected=expected)
    return versioned(_answer(stored), stored.version)


@get("/secrets/{name:str}", opt={"scope": "secrets:manage"})
async def get_secret(
    name: FromPath[str], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> Response[SecretAnswer]:
    """Name, version and times; never the value."""
    async with db.transaction(actor) as tx:
        found = await service.get(tx, _checked(name))
    return versioned(_answer(found), found.version)


@get("/secrets", opt={"scope": "secrets:manage"})
async def list_secrets(
    actor: NamedDependency[Actor], db: NamedDependency[Database], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[SecretAnswer]:
    """Names, versions and times."""
    async with db.transaction(actor) as tx:
        secrets = await service.listed(tx, after=after_text(cursor) or "", limit=limit + 1)
    return page([_answer(secret) for secret in secrets], limit, key=lambda answer: answer.name)


@get("/secrets/{name:str}/versions", opt={"scope": "secrets:manage"})
async def list_versions(
    name: FromPath[str],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[SecretVersionAnswer]:
    """Every version that is kept, newest first: when it came and from whom."""
    before = after_number(cursor)
    async with db.transaction(actor) as tx:
        found = await service.versions(
            tx, _checked(name), before=None if before is None else min(before, 2**31 - 1), limit=limit + 1
        )
    answers = [
        SecretVersionAnswer(**{field: getattr(item, field) for field in SecretVersionAnswer.__struct_fields__})
        for item in found
    ]
    return page(answers, limit, key=lambda answer: answer.version)


@delete("/secrets/{name:str}", opt={"scope": "secrets:manage"})
async def delete_secret(
    name: FromPath[str], request: ApiRequest, actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> None:
    """Forget a secret with all its versions; tasks that declare it fail from now on. Honours If-Match."""
    checked = _checked(name)
    async with db.transaction(actor) as tx:
        await service.delete(tx, actor, checked, expectation(request))


@post("/secrets/rotate-keys", opt={"scope": "secrets:manage"}, status_code=202)
async def rotate_keys(actor: NamedDependency[Actor], asking: NamedDependency[Asking]) -> RotationAnswer:
    """Give the instance's vault a new key pair. It is in use at once; what is stored is sealed anew in the background.

    The keys are the instance's: an owner of any team may ask. No value changes, and none fails to open meanwhile.
    """
    return RotationAnswer(version=await asking.rotate(actor.label, actor.team_id))


@get("/secrets/rotate-keys", opt={"scope": "secrets:manage"})
async def list_keys(actor: NamedDependency[Actor], asking: NamedDependency[Asking]) -> VaultKeys:
    """The vault's key pairs and how much is sealed to each: how far a rotation is. Numbers of the whole instance."""
    told = await asking.keys(actor.label)
    items = [
        KeyPair(
            version=item["version"],
            created_at=datetime.fromisoformat(item["created_at"]),
            sealed=item["sealed"],
            is_current=item["is_current"],
        )
        for item in told["keys"]
    ]
    return VaultKeys(items=items, broken=told["broken"])


@get("/leases", opt={"scope": "leases:read"})
async def list_leases(
    actor: NamedDependency[Actor], db: NamedDependency[Database], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[LeaseAnswer]:
    """Which credentials the team's running attempts hold now, newest first."""
    return await _leases(db, actor, None, limit, cursor)


@get("/tasks/{task_id:uuid}/leases", opt={"scope": "leases:read"})
async def task_leases(
    task_id: FromPath[UUID],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[LeaseAnswer]:
    """Which credentials the attempts of a task drew, newest first."""
    return await _leases(db, actor, task_id, limit, cursor)


async def _leases(db: Database, actor: Actor, task: UUID | None, limit: int, cursor: str | None) -> Page[LeaseAnswer]:
    """Raises NotFound for a task that the team does not have."""
    async with db.transaction(actor) as tx:
        if task is not None and await tx.one(service.SQL["task_exists"], task) is None:
            raise NotFound("there is no such task")
        rows = await tx.all(service.SQL["leases"], task, after(cursor), limit + 1)
    names = [name for name in LeaseAnswer.__struct_fields__ if name != "operation_id"]
    answers = [LeaseAnswer(operation_id=row["task_id"], **{name: row[name] for name in names}) for row in rows]
    return page(answers, limit, key=lambda answer: answer.id)


ROUTES = [
    put_secret,
    get_secret,
    list_secrets,
    list_versions,
    delete_secret,
    rotate_keys,
    list_keys,
    list_leases,
    task_leases,
]
