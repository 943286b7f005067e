"""Enrol a machine, end its enrolment, list them. For the operator, with the database's administrator.

Each machine gets a login role of its own, which may call the functions of `sfp_remote` and nothing else. Ending an
enrolment takes effect with the statement; the role and its connections go right after.
"""

import re
import secrets
from collections.abc import Sequence
from contextlib import suppress

import structlog

from sfp_server.audit.tag import tag
from sfp_server.db.database import Row, Violation, fetch, run_script
from sfp_server.errors import Conflict, NotFound, Unavailable
from sfp_server.remote.token import Token

log = structlog.get_logger()

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
#: what the login roles of dispatchers begin with; the courier lets no other role reach the database
ROLE_PREFIX = "sfp_at_"
#: of one machine: three times its pool (dead ones may take a while to be noticed), and far below what would keep
#: others out of the database
SESSIONS_PER_ROLE = 21

_LISTED = """
SELECT enrolments.name, enrolments.slots, enrolments.role, enrolments.created_at, dispatchers.host, dispatchers.version,
       dispatchers.runtimes, dispatchers.toolchains, nullif(dispatchers.seen_at, '-infinity') AS seen_at,
       coalesce(dispatchers.seen_at > now() - interval '15 seconds', false) AS alive,
       (SELECT count(*) FROM sfp.attempts WHERE dispatcher_id = dispatchers.id AND status = 'active') AS active
  FROM sfp.enrolments
  LEFT JOIN LATERAL (SELECT * FROM sfp.dispatchers WHERE enrolment = enrolments.id ORDER BY seen_at DESC LIMIT 1)
         AS dispatchers ON true
 ORDER BY enrolments.name
"""
_CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"


async def enrol(admin_url: str, name: str, token: Token, *, slots: int, audit_key: bytes | None = None) -> str:
    """Let a machine run tasks; answers its login role. `audit_key` vouches for the audit entry.

    Raises Conflict (the name is taken), Unavailable.
    """
    assert NAME.fullmatch(name)  # the command checked it
    role = f"{ROLE_PREFIX}{name.replace('-', '_')}_{secrets.token_hex(3)}"
    await run_script(
        admin_url,
        f"CREATE ROLE {role} LOGIN INHERIT CONNECTION LIMIT {SESSIONS_PER_ROLE} "
        f"PASSWORD '{token.password_verifier()}' IN ROLE sfp_remote_dispatcher;"
        f"ALTER ROLE {role} SET search_path = sfp_remote",
    )
    try:
        await fetch(
            admin_url,
            "SELECT sfp.enrol($1, $2, $3, $4, $5, $6)",
            name,
            role,
            token.courier_hash(),
            token.public_key(),
            slots,
            _tag(audit_key, "dispatcher.enrolled", name, {"slots": slots}),
        )
    except Violation as error:
        await _drop(admin_url, role)
        raise Conflict(f"there is a dispatcher {name} already: remove it first, or choose another name") from error
    return role


async def unenrol(admin_url: str, name: str, *, audit_key: bytes | None = None) -> None:
    """End an enrolment: nothing that the machine holds can be written from here on. Raises NotFound, Unavailable."""
    made = _tag(audit_key, "dispatcher.removed", name, {})
    rows = await fetch(admin_url, "SELECT sfp.unenrol($1, $2) AS role", name, made)
    role = rows[0]["role"]
    if role is None:
        raise NotFound(f"there is no dispatcher {name}")
    await _drop(admin_url, role)


async def enrolled(admin_url: str) -> Sequence[Row]:
    """All enrolments, with what their dispatchers said last."""
    return await fetch(admin_url, _LISTED)


def _tag(key: bytes | None, action: str, name: str, detail: dict[str, int]) -> bytes | None:
    """Of the audit entry that the function writes."""
    return key and tag(key, team=None, actor="admin", action=action, subject=f"dispatcher:{name}", detail=detail)


async def _drop(admin_url: str, role: str) -> None:
    # Who is no superuser may end sessions only of roles that it is a member of.
    await run_script(admin_url, f"ALTER ROLE {role} NOLOGIN; GRANT {role} TO CURRENT_USER")
    with suppress(Unavailable):
        await fetch(admin_url, _CUT, role)
    await run_script(admin_url, f"DROP ROLE {role}")
