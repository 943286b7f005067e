"""`/application-tokens`: what machines come in with. Owners only, signed in as themselves."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.errors import Forbidden
from sfp_server.identity import application_tokens
from sfp_server.identity.model import SCOPES, ApplicationToken, granted, networks
from sfp_server.identity.seal import AnswerSeal
from sfp_server.web.idempotency import once
from sfp_server.web.operations import Operations
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, page
from sfp_server.web.wire import ApiRequest, Wire

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Days = Annotated[int, msgspec.Meta(ge=1, le=365)]
ScopeName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
Address = Annotated[str, msgspec.Meta(min_length=2, max_length=50)]


class CreateToken(Wire):
    name: Name
    #: days
    expires_in: Days = 30
    #: of GET /application-tokens/scopes; all of them unless named
    scopes: list[ScopeName] | None = None
    #: addresses or networks that it may be used from; anywhere unless named
    allowed_addresses: Annotated[list[Address], msgspec.Meta(max_length=50)] = msgspec.field(default_factory=list[str])


class CreatedToken(Wire):
    id: UUID
    name: str
    #: shown once
    token: str
    team: str
    scopes: list[str]
    allowed_addresses: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    status: str


class TokenRow(Wire):
    id: UUID
    name: str
    team: str
    scopes: list[str]
    allowed_addresses: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    last_used_at: datetime | None
    last_used_address: str | None
    status: str


@post("/application-tokens", opt={"scope": "application-tokens:manage"})
async def create_token(
    data: JSONBody[CreateToken],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    answer_seal: NamedDependency[AnswerSeal],
    operations: NamedDependency[Operations],
) -> Response[CreatedToken]:
    """Make a token for a machine; its text is shown in this answer only."""
    _only_users(actor)
    order = application_tokens.Order(
        name=data.name,
        scopes=granted(data.scopes, grantable(operations)),
        life=data.expires_in * 86_400,
        addresses=networks(data.allowed_addresses),
    )

    async def make() -> CreatedToken:
        made = await application_tokens.create(tx, actor, order)
        return CreatedToken(
            id=made.id,
            name=data.name,
            token=made.token,
            team=actor.team_slug,
            scopes=made.scopes,
            allowed_addresses=[str(network) for network in order.addresses],
            created_at=made.created_at,
            created_by=actor.name,
            expires_at=made.expires_at,
            status="active",
        )

    async with db.transaction(actor) as tx:
        made = await once(tx, actor, request, make, seal=answer_seal.seal, unseal=answer_seal.unseal)
    return made.response()


@get("/application-tokens", opt={"scope": "application-tokens:manage"})
async def list_tokens(
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
    *,
    ci: FromQuery[bool] = False,
) -> Page[TokenRow]:
    """The team's tokens, newest first; with `ci=true` also the short ones that CI systems got for theirs."""
    _only_users(actor)
    async with db.transaction(actor) as tx:
        tokens = await application_tokens.page(tx, before=after(cursor), limit=limit + 1, with_ci=ci)
    now = datetime.now(UTC)
    return page([_row(token, now) for token in tokens], limit, key=lambda row: row.id)


@delete("/application-tokens/{token_id:uuid}", opt={"scope": "application-tokens:manage"}, status_code=200)
async def revoke_token(
    token_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> TokenRow:
    """Make a token worthless, at once and everywhere."""
    _only_users(actor)
    async with db.transaction(actor) as tx:
        revoked = await application_tokens.revoke(tx, actor, token_id)
    return _row(revoked, datetime.now(UTC))


class GrantableScope(Wire):
    scope: str
    #: what it opens, as `GET /sfp/api/tasks`
    operations: list[str]


@get("/application-tokens/scopes", opt={"scope": "application-tokens:manage"})
async def list_scopes(actor: NamedDependency[Actor], operations: NamedDependency[Operations]) -> Page[GrantableScope]:
    """What a token can be given: the scopes that operations declare, and that an application may have."""
    _only_users(actor)
    allowed = grantable(operations)
    opened = operations.by_scope()
    return Page(items=[GrantableScope(scope=scope, operations=opened[scope]) for scope in sorted(allowed)])


ROUTES = [create_token, list_tokens, list_scopes, revoke_token]


def grantable(operations: Operations) -> frozenset[str]:
    """The scopes that a token can be given."""
    return SCOPES[Role.APPLICATION] & frozenset(operations.by_scope())


def _only_users(actor: Actor) -> None:
    """No token of a machine makes or ends tokens, whatever its scopes say. Raises Forbidden."""
    if actor.role is not Role.OWNER:
        raise Forbidden("application tokens are managed by owners, signed in as themselves")


def _row(token: ApplicationToken, now: datetime) -> TokenRow:
    return TokenRow(
        id=token.id,
        name=token.name,
        team=token.team,
        scopes=token.scopes,
        allowed_addresses=[str(network) for network in token.allowed_addresses],
        created_at=token.created_at,
        created_by=token.created_by,
        expires_at=token.expires_at,
        last_used_at=token.last_used_at,
        last_used_address=token.last_used_address,
        status=token.status(now),
    )
