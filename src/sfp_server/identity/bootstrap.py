"""The first owner, and the way back in for one who forgot the password: a command on the machine itself."""

from uuid import UUID

from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Conflict
from sfp_server.identity.attempts import Kind, forget, guess
from sfp_server.identity.passwords import check_policy, hash_now
from sfp_server.identity.users import email_address

SQL = load(__package__ or "", "identity.sql")

_COMMAND = "command:create-owner"


async def create_owner(
    url: str,
    email: str,
    password: str,
    *,
    team_slug: str = "default",
    team_name: str = "",
    audit_key: bytes | None = None,
) -> UUID:
    """Make `email` an owner of the team (made when missing) with this password, and answer the user's id.

    Args:
        url: of the role `sfp_api`.
        audit_key: vouches for the audit entries.

    A user who exists gets the password, is enabled, and is signed out everywhere. Raises Malformed, Conflict (the
    team exists and belongs to others), Unavailable.
    """
    email = email_address(email)
    check_policy(password, email)
    password_hash = hash_now(password)
    async with Database(url, application="sfp create-owner", size=1, audit_key=audit_key) as db:
        async with db.identifying() as tx:
            user_id = await _user(tx, email, password_hash)
        async with db.identifying(user_id=user_id) as tx:
            memberships = await tx.all(SQL["memberships"], user_id)
        existing = next((row["team_id"] for row in memberships if row["slug"] == team_slug), None)
        async with db.serving(existing) as tx:
            await _own(tx, user_id, existing, team_slug, team_name or team_slug)
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


async def _own(tx: Tx, user_id: UUID, existing: UUID | None, slug: str, name: str) -> None:
    """Make the user an owner of team `existing`, or of a new one: as the instance, as no user could (the trigger)."""
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
