"""`/auth/oidc`: CI systems exchange their own tokens, by rules that owners make."""

from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlsplit
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from sfp_server.actor import Actor
from sfp_server.db.database import Database
from sfp_server.errors import TokenInvalid
from sfp_server.identity import ci
from sfp_server.identity.model import granted
from sfp_server.identity.token_routes import grantable
from sfp_server.web.guard import PUBLIC, address_of
from sfp_server.web.idempotency import once
from sfp_server.web.operations import Operations
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, page
from sfp_server.web.wire import ApiRequest, SnakeWire, Wire, WrongField

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
_WILD_MAX = 5


class ExchangeToken(SnakeWire):
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
    #: slug; needed where rules of several teams fit
    team: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] | None = None


class ExchangedToken(SnakeWire):
    access_token: str
    token_type: Literal["bearer"]
    #: seconds
    expires_in: int
    expires_at: datetime
    scopes: list[str]
    team: str
    rule: str


class CreateRule(Wire):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=190)]
    issuer: Annotated[str, msgspec.Meta(min_length=8, max_length=500, pattern=r"^https?://[!-\[\]-~]+$")]
    audience: Text
    #: name → what it must be; `*` stands for one or more of any characters. At least one that is more than `*`
    claims: Annotated[dict[Text, Pattern], msgspec.Meta(min_length=1, max_length=20)]
    scopes: Annotated[list[Text], msgspec.Meta(min_length=1, max_length=100)]
    #: of the tokens that it gives
    ttl_seconds: Annotated[int, msgspec.Meta(ge=60, le=900)] = 900
    #: whether it takes each token once
    single_use: bool = False

    def __post_init__(self) -> None:
        if not all(urlsplit(self.issuer)[:2]) or urlsplit(self.issuer).query or urlsplit(self.issuer).fragment:
            raise WrongField("issuer", "the `iss` of its tokens: a URL without query")
        if all(set(pattern) <= {"*"} for pattern in self.claims.values()):
            raise WrongField("claims", "a rule that takes every token of an issuer is none: name a claim's value")
        if any(pattern.count("*") > _WILD_MAX for pattern in self.claims.values()):
            raise WrongField("claims", f"{_WILD_MAX} times * in one value at most")


class Rule(Wire):
    id: UUID
    name: str
    issuer: str
    audience: str
    claims: dict[str, str]
    scopes: list[str]
    ttl_seconds: int
    single_use: bool
    created_by: str
    created_at: datetime


class Deleted(Wire):
    success: bool


@post("/auth/oidc/exchange", opt={"scope": PUBLIC, "errors": (TokenInvalid,)}, status_code=200)
async def exchange(
    data: JSONBody[ExchangeToken], request: ApiRequest, ci_exchange: NamedDependency[ci.Exchange]
) -> ExchangedToken:
    """A CI system's OpenID Connect token for an application token that lives for minutes."""
    done = await ci_exchange.exchange(data.token, team=data.team, address=address_of(request))
    return ExchangedToken(
        access_token=done.token,
        token_type="bearer",  # noqa: S106 (the name of a kind of token)
        expires_in=done.expires_in,
        expires_at=done.expires_at,
        scopes=done.scopes,
        team=done.team,
        rule=done.rule,
    )


@post("/auth/oidc/trust", opt={"scope": "application-tokens:manage"})
async def create_rule(
    data: JSONBody[CreateRule],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    operations: NamedDependency[Operations],
) -> Response[Rule]:
    """Trust an issuer's tokens whose claims are like these."""
    rule = ci.NewRule(
        name=data.name,
        issuer=data.issuer,
        audience=data.audience,
        claims=data.claims,
        scopes=granted(data.scopes, grantable(operations)),
        ttl_seconds=data.ttl_seconds,
        single_use=data.single_use,
    )

    async def make() -> Rule:
        return Rule(**await ci.add_rule(tx, actor, rule))

    async with db.transaction(actor) as tx:
        made = await once(tx, actor, request, make)
    return made.response()


@get("/auth/oidc/trust", opt={"scope": "application-tokens:manage"})
async def list_rules(
    actor: NamedDependency[Actor], db: NamedDependency[Database], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[Rule]:
    """The team's rules, newest first."""
    async with db.transaction(actor) as tx:
        rows = await tx.all(ci.SQL["list_rules"], after(cursor), limit + 1)
    return page([Rule(**row) for row in rows], limit, key=lambda row: row.id)


@delete("/auth/oidc/trust/{rule_id:uuid}", opt={"scope": "application-tokens:manage"}, status_code=200)
async def delete_rule(rule_id: FromPath[UUID], actor: NamedDependency[Actor], db: NamedDependency[Database]) -> Deleted:
    """Trust it no more; the tokens that it gave are void."""
    async with db.transaction(actor) as tx:
        await ci.drop_rule(tx, actor, rule_id)
    return Deleted(success=True)


ROUTES = [exchange, create_rule, list_rules, delete_rule]
