"""The first owner, and the way back in for one who forgot the password: a command on the machine itself."""

import re
from uuid import UUID

from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict, Malformed
from sfp_server.identity.attempts import Kind, forget, guess, normal_email
from sfp_server.identity.passwords import hash_now

SQL = load(__package__ or "", "identity.sql")

_EMAIL = re.compile(r"[^\s@\x00-\x1f]{1,200}@[^\s@\x00-\x1f]{1,200}")
_COMMAND = "command:create-owner"


async def create_owner(url: str, email: str, password: str, *, team_slug: str = "default", team_name: str = "") -> UUID:
    """Make `email` an owner of the team (made when missing) with this password, and answer the user's id.

    Args:
        url: of the role `sfp_api`.

    A user who exists gets the password, is enabled, and is signed out everywhere. Raises Malformed, Conflict (the
    team exists and belongs to others), Unavailable.
    """
    email = normal_email(email)
    if _EMAIL.fullmatch(email) is None:
        raise Malformed("that is no e-mail address")
    if not 8 <= len(password) <= 1024:
        raise Malformed("a password has 8 to 1024 characters")
    password_hash = hash_now(password)
    async with Database(url, application="sfp create-owner", size=1) as db:
        async with db.identifying() as tx:
            user_id = await _user(tx, email, password_hash)
        async with db.identifying(user_id=user_id) as tx:
            await _own(tx, user_id, team_slug, team_name or team_slug)
    return user_id


async def _user(tx: Tx, email: str, password_hash: str) -> UUID:
    found = await tx.one(SQL["user_by_email"], email)
    if found is None:
        user_id: UUID = await tx.value(SQL["add_user"], email, password_hash)
        await audit.record(tx, _COMMAND, "user.created", f"user:{user_id}")
        return user_id
    await tx.execute(SQL["set_password"], found["id"], password_hash)
    await tx.execute(SQL["revoke_sessions_of"], found["id"])
    homes = [row["address"] for row in await tx.all(SQL["addresses_of"], found["id"])]
    at_homes = [guess(Kind.PASSWORD, account=email, address=home, at_home=True) for home in homes]
    await forget(tx, guess(Kind.PASSWORD, account=email), *at_homes)
    await audit.record(tx, _COMMAND, "user.password_replaced", f"user:{found['id']}")
    return found["id"]


async def _own(tx: Tx, user_id: UUID, slug: str, name: str) -> None:
    memberships = await tx.all(SQL["memberships"], user_id)
    existing: UUID | None = next((row["team_id"] for row in memberships if row["slug"] == slug), None)
    team_id: UUID = existing or await tx.value("SELECT uuid7()")
    await tx.serve(team_id)
    if existing is None:
        try:
            await tx.execute(SQL["add_team"], team_id, slug, name)
        except Violation as error:
            raise Conflict(f"the team '{slug}' exists and has other owners, or is no name for a team") from error
        await audit.record(tx, _COMMAND, "team.created", f"team:{team_id}", {"slug": slug})
    await tx.execute(SQL["make_owner"], team_id, user_id)
    await audit.record(tx, _COMMAND, "membership.owner", f"user:{user_id}", {"team": slug})
