"""Teams and their members: made, changed and ended by owners. Each use case acts in the team of its transaction.

What must never happen (a team without an owner, somebody who raises themselves) is refused by the database: see the
trigger `memberships_guarded`. Here it becomes an answer.
"""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sfp_server.actor import Actor, Role
from sfp_server.audit import service as audit
from sfp_server.db.database import Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, Forbidden, LastOwner, NotFound, TeamNotEmpty
from sfp_server.events import service as events

SQL = load(__package__ or "", "teams.sql")
IDENTITY_SQL = load(__package__ or "", "identity.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user, as the member of one team."""

    id: UUID
    email: str
    first_name: str
    last_name: str
    #: of the user
    created_at: datetime
    role: Role
    joined_at: datetime


@contextmanager
def explained() -> Generator[None]:
    """What the database refuses about teams and members, as errors. Raises LastOwner, Forbidden, Conflict."""
    try:
        yield
    except Violation as error:
        match error.constraint:
            case "memberships_last_owner":
                raise LastOwner("a team keeps an owner: make somebody else an owner first") from error
            case "memberships_by_owners":
                raise Forbidden("only its owners change the members of a team") from error
            case "teams_slug_unique":
                raise Conflict("this slug is taken: choose another") from error
            case "teams_last":
                raise Conflict("the last team stays") from error
            case _:
                raise


async def create(tx: Tx, actor: Actor, *, slug: str, name: str, description: str) -> datetime:
    """Make a team that `actor` owns, and answer when. The transaction acts in `actor`'s team again afterwards.

    Raises Conflict: the slug is taken.
    """
    assert actor.team_id is not None  # only owners have the scope
    team_id: UUID = await tx.value("SELECT uuid7()")
    await tx.serve(team_id)
    with explained():
        created_at: datetime = await tx.value(SQL["add_team"], slug, name, description)
        await tx.one(SQL["add_member"], actor.id, Role.OWNER)
    await audit.record(tx, actor.label, "team.created", f"team:{team_id}", {"slug": slug})
    await events.record(tx, team_id, ["team"], "team.created", {"slug": slug, "name": name})
    await tx.serve(actor.team_id)
    return created_at


async def delete(tx: Tx, actor: Actor) -> None:
    """End `actor`'s team, which has nothing and nobody else any more. Raises TeamNotEmpty, Conflict (the last team)."""
    slug = await tx.value(SQL["lock_team"])
    left: list[str] = await tx.value(SQL["leftovers"])
    if await tx.value(SQL["count_members"], None) > 1:
        left = ["other members", *left]
    if left:
        raise TeamNotEmpty(f"the team still has {', '.join(left).replace('_', ' ')}")
    await audit.record(tx, actor.label, "team.deleted", f"team:{actor.team_id}", {"slug": slug})
    with explained():
        await tx.execute(SQL["delete_team"])


async def members(tx: Tx, *, role: str | None, limit: int | None, offset: int) -> tuple[list[Member], int]:
    """The team's members by e-mail address (`limit` None: all), and how many there are."""
    total: int = await tx.value(SQL["count_members"], role)
    return _members(await tx.all(SQL["members"], role, limit, offset)), total


async def member(tx: Tx, email: str) -> Member:
    """Raises NotFound: nobody in this team has the address."""
    row = await tx.one(SQL["member"], email)
    if row is None:
        raise NotFound("there is no such user")
    return _member(row)


async def add(tx: Tx, actor: Actor, email: str, role: Role) -> Member:
    """Make a user who exists a member, or give a member this role. Raises NotFound, LastOwner, Forbidden."""
    user_id: UUID | None = await tx.value(SQL["find_user"], email)
    if user_id is None:
        raise NotFound("there is no such user: POST /users makes one")
    return await join(tx, actor, user_id, email, role)


async def join(tx: Tx, actor: Actor, user_id: UUID, email: str, role: Role | None) -> Member:
    """As `add`, for a user who is known; `role` None: a new one becomes a member, others stay what they are."""
    with explained():
        added = await tx.one(SQL["add_member"], user_id, role or Role.MEMBER)
    if added is not None:
        await _forget_foreign_password(tx, actor, user_id)
        fact = {"userId": str(user_id), "email": email, "role": added["role"]}
        await _tell(tx, actor, "added", user_id, fact)
    elif role is not None:
        await set_role(tx, actor, email, role)
    return await member(tx, email)


async def _forget_foreign_password(tx: Tx, actor: Actor, user_id: UUID) -> None:
    """A password that strangers chose must not open this team: it goes, and whoever signed in with it."""
    if await tx.one(SQL["drop_foreign_password"], user_id) is None:
        return
    await tx.identify(user_id)
    await tx.execute(IDENTITY_SQL["revoke_sessions_of"], user_id)
    await tx.identify(actor.id)
    await audit.record(tx, actor.label, "user.password_dropped", f"user:{user_id}")


async def set_role(tx: Tx, actor: Actor, email: str, role: Role) -> Member:
    """Give a member a role, at once. Raises NotFound, LastOwner, Forbidden."""
    before = await member(tx, email)
    with explained():
        changed = await tx.one(SQL["set_role"], before.id, role)
    if changed is not None:
        fact = {"userId": str(before.id), "email": email, "role": role, "before": before.role}
        await _tell(tx, actor, "role_changed", before.id, fact)
    return await member(tx, email)


async def remove(tx: Tx, actor: Actor, email: str) -> UUID:
    """End a membership, at once; answers whose. Raises NotFound, LastOwner, Forbidden."""
    gone = await member(tx, email)
    with explained():
        await tx.execute(SQL["remove_member"], gone.id)
    await _tell(tx, actor, "removed", gone.id, {"userId": str(gone.id), "email": email, "role": gone.role})
    return gone.id


async def _tell(tx: Tx, actor: Actor, what: str, user_id: UUID, fact: dict[str, Any]) -> None:
    """Write a change of members down, and tell the team."""
    assert actor.team_id is not None
    await audit.record(tx, actor.label, f"membership.{what}", f"user:{user_id}", {**fact, "team": actor.team_slug})
    await events.record(tx, actor.team_id, ["team"], f"team.member_{what}", fact)


def _members(rows: Sequence[Row]) -> list[Member]:
    return [_member(row) for row in rows]


def _member(row: Row) -> Member:
    facts: dict[str, Any] = {**row, "role": Role(row["role"])}
    return Member(**facts)
