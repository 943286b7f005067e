"""`/teams`: the caller's own, and the members of each. Where the path names a team, the role there counts."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, Forbidden, LastOwner, TeamNotEmpty
from sfp_server.identity import teams
from sfp_server.identity.attempts import normal_email
from sfp_server.identity.model import Scope
from sfp_server.web.idempotency import once
from sfp_server.web.paging import Page
from sfp_server.web.wire import ApiRequest, SnakeWire, Wire

SQL = load(__package__ or "", "identity.sql")

Slug = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
Title = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Email = Annotated[str, msgspec.Meta(min_length=3, max_length=320)]
TeamRole = Literal["member", "owner"]


class UserTeam(Wire):
    slug: str
    name: str
    role: str


class CreateTeam(Wire):
    name: Title
    slug: Slug
    description: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class TeamRow(Wire):
    slug: str
    name: str
    description: str
    role: str
    created_at: datetime


class AddMember(Wire):
    email: Email
    role: TeamRole = "member"


class SetRole(Wire):
    role: TeamRole


class MemberRow(SnakeWire):
    user_id: UUID
    #: the same: a user has one account
    account_id: UUID
    email: str
    first_name: str
    last_name: str
    role: str
    #: when it joined
    created_at: datetime


class Members(SnakeWire):
    members: list[MemberRow]
    total: int


class Done(Wire):
    success: bool


@get("/teams", opt={"scope": "teams:read"})
async def list_teams(actor: NamedDependency[Actor], db: NamedDependency[Database]) -> Page[TeamRow]:
    """The teams of the user of the token that calls this, in the order in which they were joined."""
    async with db.identifying(user_id=actor.id) as tx:
        return Page(items=[TeamRow(**row) for row in await tx.all(teams.SQL["own_teams"], actor.id)])


@post("/teams", opt={"scope": "teams:manage", "anywhere": True, "errors": (Conflict,)})
async def create_team(
    data: JSONBody[CreateTeam], request: ApiRequest, actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> Response[TeamRow]:
    """Make a team; whoever owns any team may, and owns the new one."""

    async def make() -> TeamRow:
        made = await teams.create(tx, actor, slug=data.slug, name=data.name, description=data.description)
        return TeamRow(slug=data.slug, name=data.name, description=data.description, role=Role.OWNER, created_at=made)

    async with db.transaction(actor) as tx:
        made = await once(tx, actor, request, make)
    return made.response()


@delete(
    "/teams/{slug:str}",
    opt={"scope": "teams:manage", "team": "path", "errors": (TeamNotEmpty,)},
    status_code=200,
)
async def delete_team(slug: FromPath[str], actor: NamedDependency[Actor], db: NamedDependency[Database]) -> Done:
    """End a team that has nothing and nobody else any more; not the last one."""
    del slug  # the guard has made it the actor's team
    async with db.transaction(actor) as tx:
        await teams.delete(tx, actor)
    return Done(success=True)


@get("/teams/{slug:str}/members", opt={"scope": "teams:read", "team": "path"})
async def list_members(
    slug: FromPath[str],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    role: FromQuery[TeamRole | None] = None,
) -> Members:
    """The members of a team, by e-mail address; for its members."""
    del slug
    async with db.transaction(actor) as tx:
        found, total = await teams.members(tx, role=role, limit=None, offset=0)
    return Members(members=[_row(member) for member in found], total=total)


@post("/teams/{slug:str}/members", opt={"scope": "teams:manage", "team": "path", "errors": (LastOwner,)})
async def add_member(
    slug: FromPath[str],
    data: JSONBody[AddMember],
    request: ApiRequest,
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
) -> Response[MemberRow]:
    """Make a user who exists a member, or give a member this role."""
    del slug
    email = normal_email(data.email)

    async def make() -> MemberRow:
        return _row(await teams.add(tx, actor, email, Role(data.role)))

    async with db.transaction(actor) as tx:
        made = await once(tx, actor, request, make)
    return made.response()


@put(
    "/teams/{slug:str}/members/{email:str}/role",
    opt={"scope": "teams:manage", "team": "path", "errors": (LastOwner,)},
)
async def set_role(
    slug: FromPath[str],
    email: FromPath[str],
    data: JSONBody[SetRole],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
) -> MemberRow:
    """Give a member a role, at once. The last owner stays one."""
    del slug
    async with db.transaction(actor) as tx:
        return _row(await teams.set_role(tx, actor, normal_email(email), Role(data.role)))


@delete(
    "/teams/{slug:str}/members/{email:str}",
    opt={"scope": "teams:read", "team": "path", "errors": (LastOwner,)},
    status_code=200,
)
async def remove_member(
    slug: FromPath[str], email: FromPath[str], actor: NamedDependency[Actor], db: NamedDependency[Database]
) -> Done:
    """End a membership, at once: an owner anybody's, anybody their own. The last owner cannot leave."""
    del slug
    address = normal_email(email)
    if address != actor.name and Scope.TEAMS_MANAGE not in actor.scopes:
        raise Forbidden(f"this needs the scope {Scope.TEAMS_MANAGE}")
    async with db.transaction(actor) as tx:
        await teams.remove(tx, actor, address)
    return Done(success=True)


async def teams_of(db: Database, actor: Actor) -> list[UserTeam]:
    """The teams of a user, in the order in which they were joined."""
    async with db.identifying(user_id=actor.id) as tx:
        memberships = await tx.all(SQL["memberships"], actor.id)
    return [UserTeam(slug=row["slug"], name=row["name"], role=row["role"]) for row in memberships]


def _row(member: teams.Member) -> MemberRow:
    return MemberRow(
        user_id=member.id,
        account_id=member.id,
        email=member.email,
        first_name=member.first_name,
        last_name=member.last_name,
        role=member.role,
        created_at=member.joined_at,
    )


ROUTES = [list_teams, create_team, delete_team, list_members, add_member, set_role, remove_member]
