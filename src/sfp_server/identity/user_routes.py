"""`/users`: oneself, and for owners the members of their team."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.db.queries import load
from sfp_server.errors import Forbidden, LastOwner, NotFound
from sfp_server.identity import teams, users
from sfp_server.identity.attempts import normal_email
from sfp_server.identity.authenticate import Authenticator
from sfp_server.identity.model import Scope
from sfp_server.identity.passwords import Passwords, check_policy
from sfp_server.identity.seal import AnswerSeal
from sfp_server.identity.team_routes import Done, Email, TeamRole, UserTeam, teams_of
from sfp_server.web.guard import address_of, bearer
from sfp_server.web.idempotency import once
from sfp_server.web.paging import DEFAULT_LIMIT, Limit
from sfp_server.web.wire import ApiRequest, Wire

SQL = load(__package__ or "", "identity.sql")

PersonName = Annotated[str, msgspec.Meta(max_length=200)]
Offset = Annotated[int, QueryParameter(ge=0, le=1_000_000)]


class UserAnswer(Wire):
    id: UUID
    email: str
    first_name: str
    last_name: str
    role: str
    #: of oneself all; of others the one that the caller acts in
    teams: list[UserTeam]
    created_at: datetime


class Users(Wire):
    users: list[UserAnswer]
    total: int


class AddUser(Wire):
    email: Email
    first_name: PersonName = ""
    last_name: PersonName = ""
    team: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] | None = None
    role: TeamRole | None = None
    #: only for a new user; without one, signing in is up to an identity provider
    password: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)] | None = None


class ChangeUser(Wire):
    first_name: PersonName | None = None
    last_name: PersonName | None = None
    role: TeamRole | None = None


class RemoveUser(Wire):
    email: Email


@get("/users/me", opt={"scope": "users:self"})
async def me(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> UserAnswer:
    """The user of the token that calls this."""
    return await _oneself(db, actor)


@get("/users", opt={"scope": "users:manage", "team": "query"})
async def list_users(
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    team: FromQuery[str | None] = None,
    role: FromQuery[TeamRole | None] = None,
    limit: Limit = DEFAULT_LIMIT,
    offset: Offset = 0,
) -> Users:
    """The users of a team (`team`, else that of the header), by e-mail address."""
    del team  # the guard has made it the actor's team
    own = await _team(db, actor)
    async with db.transaction(actor) as tx:
        found, total = await teams.members(tx, role=role, limit=limit, offset=offset)
    return Users(users=[_answer(member, own) for member in found], total=total)


@get("/users/{email:str}", opt={"scope": "users:self"})
async def get_user(email: FromPath[str], actor: NamedDependency[Actor], db: NamedDependency[Database]) -> UserAnswer:
    """A user of the team; oneself, for whoever is no owner."""
    address = normal_email(email)
    if address == actor.name:
        return await _oneself(db, actor)
    _manages_users(actor)
    own = await _team(db, actor)
    async with db.transaction(actor) as tx:
        return _answer(await teams.member(tx, address), own)


@post("/users", opt={"scope": "users:manage", "anywhere": True, "errors": (LastOwner,)})
async def add_user(
    data: JSONBody[AddUser],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    authenticator: NamedDependency[Authenticator],
    passwords: NamedDependency[Passwords],
    answer_seal: NamedDependency[AnswerSeal],
) -> Response[UserAnswer]:
    """Make a user a member of a team (`team`, else that of the header); repeating it changes nothing.

    Needs the owner role in that team. Names and password count for a new user only.
    """
    acting = await _in_team(request, actor, authenticator, data.team)
    email = users.email_address(data.email)
    password_hash = None
    if data.password is not None:
        check_policy(data.password, email)
        password_hash = await passwords.hash(data.password)
    own = await _team(db, acting)

    async def make() -> UserAnswer:
        added = await users.add(
            tx,
            acting,
            email=email,
            first_name=data.first_name,
            last_name=data.last_name,
            password_hash=password_hash,
            role=Role(data.role) if data.role else None,
        )
        return _answer(added, own)

    async with db.transaction(acting) as tx:
        made = await once(tx, acting, request, make, fingerprint=answer_seal.fingerprint)
    return made.response()


@put("/users/{email:str}", opt={"scope": "users:self", "errors": (LastOwner,)})
async def change_user(
    email: FromPath[str], data: JSONBody[ChangeUser], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> UserAnswer:
    """Change a user of the team, or the own names. A role counts at once; nobody raises their own."""
    address = normal_email(email)
    if address != actor.name or data.role not in {None, actor.role}:
        _manages_users(actor)
        own = await _team(db, actor)
        role = Role(data.role) if data.role else None
        async with db.transaction(actor) as tx:
            changed = await users.change(
                tx, actor, address, first_name=data.first_name, last_name=data.last_name, role=role
            )
        return _answer(changed, own)
    async with db.transaction(actor) as tx:
        await users.rename(tx, actor, actor.id, data.first_name, data.last_name)
    return await _oneself(db, actor)


@delete("/users", opt={"scope": "users:manage", "errors": (LastOwner,)}, status_code=200)
async def remove_user(data: JSONBody[RemoveUser], actor: NamedDependency[Actor], db: NamedDependency[Database]) -> Done:
    """Take a user out of the team, and away altogether when it was in no other: all its sessions end."""
    async with db.transaction(actor) as tx:
        await users.remove(tx, actor, normal_email(data.email))
    return Done(success=True)


ROUTES = [me, list_users, get_user, add_user, change_user, remove_user]


async def _in_team(request: ApiRequest, actor: Actor, authenticator: Authenticator, team: str | None) -> Actor:
    """The caller in the team that the body names. Raises NotFound (not the caller's), Forbidden (no owner there)."""
    if team is not None and team != actor.team_slug:
        actor = await authenticator.actor(bearer(request), team=team, address=address_of(request))
    _manages_users(actor)
    return actor


def _manages_users(actor: Actor) -> None:
    if Scope.USERS_MANAGE not in actor.scopes:
        raise Forbidden(f"this needs the scope {Scope.USERS_MANAGE}")


async def _oneself(db: Database, actor: Actor) -> UserAnswer:
    async with db.identifying(user_id=actor.id) as tx:
        user = await tx.one(SQL["user_by_id"], actor.id)
    assert user is not None  # the actor's own session names it
    return UserAnswer(**user, role=actor.role, teams=await teams_of(db, actor))


async def _team(db: Database, actor: Actor) -> UserTeam:
    """The team in which the actor acts. Raises NotFound: it was taken away meanwhile."""
    own = next((team for team in await teams_of(db, actor) if team.slug == actor.team_slug), None)
    if own is None:
        raise NotFound("there is no such team")
    return own


def _answer(member: teams.Member, team: UserTeam) -> UserAnswer:
    return UserAnswer(
        id=member.id,
        email=member.email,
        first_name=member.first_name,
        last_name=member.last_name,
        role=member.role,
        teams=[UserTeam(slug=team.slug, name=team.name, role=member.role)],
        created_at=member.created_at,
    )
