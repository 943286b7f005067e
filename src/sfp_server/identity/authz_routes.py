"""`POST /authz/check`: may this actor do this, and by which rule. Answers from what the guard itself goes by."""

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database, Tx
from sfp_server.db.queries import load
from sfp_server.errors import FieldError, Forbidden, Malformed, NotFound, Unauthenticated
from sfp_server.identity.attempts import normal_email
from sfp_server.identity.authenticate import Authenticator, application_actor, member_actor
from sfp_server.identity.model import Scope
from sfp_server.web.guard import PUBLIC, Decision, address_of, decide
from sfp_server.web.operations import Operations
from sfp_server.web.wire import ApiRequest, Wire, WrongField

SQL = load(__package__ or "", "identity.sql")

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
_RESOURCES = ("task", "artifact", "secret", "application_token")


class Check(Wire):
    #: as `POST /tasks` or `DELETE /tasks/{task_id}`; this or `scope`
    operation: Text | None = None
    scope: Text | None = None
    #: `user:<id>`, `application:<id>` or an e-mail address, of the caller's team; owners only. The caller unless named
    actor: Text | None = None
    #: whose token this is, instead of `actor`; owners only
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)] | None = None
    #: what it is to be done to, as `task:<id>`; also artifact, secret, application_token
    resource: Text | None = None

    def __post_init__(self) -> None:
        if (self.operation is None) == (self.scope is None):
            raise WrongField("operation", "name an operation or a scope")
        if self.actor is not None and self.token is not None:
            raise WrongField("token", "name an actor or show a token, not both")


class Checked(Wire):
    allowed: bool
    #: `public`, `scope:<scope>`, `undeclared`, `team:<slug>`, `token:<code>`
    rule: str
    reason: str
    #: whom this is about; null: nobody, for the token opens nothing
    actor: str | None


@post("/authz/check", opt={"scope": "authz:check"}, status_code=200)
async def check(
    data: JSONBody[Check],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    authenticator: NamedDependency[Authenticator],
    operations: NamedDependency[Operations],
) -> Checked:
    """May this actor do this, and by which rule."""
    opt = _declared(data, operations)
    if data.token is not None:
        _only_owners(actor)
        try:
            asked = await authenticator.actor(data.token, team=actor.team_slug, address=address_of(request))
        except (Unauthenticated, Forbidden, NotFound) as error:
            return Checked(allowed=False, rule=f"token:{error.code}", reason=str(error), actor=None)
        return await _checked(db, actor, asked, opt, data.resource)
    async with db.transaction(actor) as tx:
        asked = actor if data.actor in {None, actor.label, actor.name} else await _other(tx, actor, data.actor or "")
    return await _checked(db, actor, asked, opt, data.resource)


ROUTES = [check]


def _declared(data: Check, operations: Operations) -> dict[str, object]:
    """What the operation's route declares, or as much as if one declared the scope. Raises Malformed."""
    if data.operation is not None:
        found = operations.find(data.operation)
        if found is None:
            raise _wrong("operation", "there is no such operation; they are named as in the API document: POST /tasks")
        return dict(found.opt)
    if data.scope not in {*Scope, PUBLIC}:
        raise _wrong("scope", "there is no such scope")
    return {"scope": data.scope}


async def _checked(db: Database, actor: Actor, asked: Actor, opt: dict[str, object], resource: str | None) -> Checked:
    decision = decide(opt, asked)
    if decision.allowed and resource is not None:
        async with db.transaction(actor) as tx:
            decision = await _seen(tx, asked, opt, resource) or decision
    return Checked(allowed=decision.allowed, rule=decision.rule, reason=decision.reason, actor=asked.label)


async def _seen(tx: Tx, asked: Actor, opt: dict[str, object], resource: str) -> Decision | None:
    """What a thing adds: it must be of the team, and somebody else's may need one more scope. Raises Malformed."""
    kind, _, name = resource.partition(":")
    if kind not in _RESOURCES or (kind != "secret" and _uuid(name) is None):
        raise _wrong("resource", "as task:<id>, artifact:<id>, application_token:<id> or secret:<name>")
    row = await tx.one(SQL[f"{kind}_as_resource"], name if kind == "secret" else _uuid(name))
    if row is None:
        return Decision(allowed=False, rule=f"team:{asked.team_slug}", reason="the team has no such thing")
    others: object = opt.get("others")
    if isinstance(others, str) and row["created_by"] != asked.label:
        return decide({"scope": others}, asked)
    return None


def _only_owners(actor: Actor) -> None:
    if actor.role is not Role.OWNER:
        raise Forbidden("only owners ask about others")


async def _other(tx: Tx, actor: Actor, named: str) -> Actor:
    """Somebody of the caller's team. Raises Forbidden, NotFound."""
    _only_owners(actor)
    kind, _, number = named.partition(":")
    found = None
    if kind == "application":
        row = await tx.one(SQL["token_as_actor"], _uuid(number))
        found = application_actor(row) if row else None
    else:
        row = await tx.one(SQL["member_as_actor"], _uuid(number) if kind == "user" else None, normal_email(named))
        found = member_actor(row) if row else None
    if found is None:
        raise NotFound("there is no such actor in this team")
    return found


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _wrong(path: str, message: str) -> Malformed:
    return Malformed(f"{path}: {message}", errors=(FieldError(path=path, message=message),))
