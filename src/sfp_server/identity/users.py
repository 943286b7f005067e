"""Users: made and removed by owners of a team they belong to."""

import re
from uuid import UUID

from sfp_server.actor import Actor, Role
from sfp_server.audit import service as audit
from sfp_server.db.database import Tx
from sfp_server.errors import FieldError, Malformed
from sfp_server.identity import teams
from sfp_server.identity.attempts import normal_email
from sfp_server.identity.teams import SQL, Member

_EMAIL = re.compile(r"[^\s@\x00-\x1f]{1,200}@[^\s@\x00-\x1f]{1,200}")


def email_address(text: str) -> str:
    """The address in its one form. Raises Malformed: it is none."""
    address = normal_email(text)
    if _EMAIL.fullmatch(address) is None:
        message = "that is no e-mail address"
        raise Malformed(message, errors=(FieldError(path="email", message=message),))
    return address


async def add(
    tx: Tx, actor: Actor, *, email: str, first_name: str, last_name: str, password_hash: str | None, role: Role | None
) -> Member:
    """A member of the actor's team with this e-mail address; the user is made when there is none.

    Names and password count for a new user only: who is named in one more team keeps both. Raises LastOwner, Forbidden.
    """
    made = await tx.one(SQL["add_user"], email, first_name, last_name, password_hash)
    assert made is not None  # a function of one row
    if made["is_new"]:
        await audit.record(tx, actor.label, "user.created", f"user:{made['id']}", {"email": email})
    return await teams.join(tx, actor, made["id"], email, role)


async def change(
    tx: Tx, actor: Actor, email: str, *, first_name: str | None, last_name: str | None, role: Role | None
) -> Member:
    """Change what is not None of a member of the actor's team. Raises NotFound, LastOwner, Forbidden."""
    found = await teams.member(tx, email)
    await rename(tx, actor, found.id, first_name, last_name)
    return await teams.set_role(tx, actor, email, role) if role is not None else await teams.member(tx, email)


async def rename(tx: Tx, actor: Actor, user_id: UUID, first_name: str | None, last_name: str | None) -> None:
    """Replace the names that are not None."""
    await tx.execute(SQL["rename_user"], user_id, first_name, last_name)
    if first_name is not None or last_name is not None:
        await audit.record(tx, actor.label, "user.renamed", f"user:{user_id}")


async def remove(tx: Tx, actor: Actor, email: str) -> None:
    """Take a user out of the actor's team, and away altogether when that was the last one: all sessions end.

    What the user made stays: application tokens belong to the team. Raises NotFound, LastOwner, Forbidden.
    """
    user_id = await teams.remove(tx, actor, email)
    if await tx.value(SQL["remove_user"], user_id):
        await audit.record(tx, actor.label, "user.deleted", f"user:{user_id}", {"email": email})
