"""`/auth/sessions`: where the caller is signed in. Everybody sees and ends their own, and nobody else's."""

from datetime import datetime
from uuid import UUID

from litestar import delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from sfp_server.actor import Actor
from sfp_server.identity.sessions import Sessions
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after, page
from sfp_server.web.wire import Wire


class SessionRow(Wire):
    id: UUID
    created_at: datetime
    last_used_at: datetime
    #: unless it is renewed before
    expires_at: datetime
    address: str
    user_agent: str
    #: whether it is the session of the token that asks
    is_current: bool


class SignedOut(Wire):
    success: bool
    #: sessions that were ended
    ended: int


@get("/auth/sessions", opt={"scope": "users:self"})
async def list_sessions(
    actor: NamedDependency[Actor],
    sessions: NamedDependency[Sessions],
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> Page[SessionRow]:
    """Where the caller is signed in, newest first."""
    rows = await sessions.page(actor.id, before=after(cursor), limit=limit + 1)
    found = [SessionRow(**row, is_current=row["id"] == actor.session_id) for row in rows]
    return page(found, limit, key=lambda row: row.id)


@delete("/auth/sessions", opt={"scope": "users:self"}, status_code=200)
async def end_sessions(actor: NamedDependency[Actor], sessions: NamedDependency[Sessions]) -> SignedOut:
    """Sign out everywhere, here too."""
    return SignedOut(success=True, ended=await sessions.sign_out_everywhere(actor.id))


@delete("/auth/sessions/{session_id:uuid}", opt={"scope": "users:self"}, status_code=200)
async def end_session(
    session_id: FromPath[UUID], actor: NamedDependency[Actor], sessions: NamedDependency[Sessions]
) -> SignedOut:
    """End one of the caller's sessions; its tokens open nothing any more, within a second."""
    await sessions.end(actor.id, session_id)
    return SignedOut(success=True, ended=1)


ROUTES = [list_sessions, end_sessions, end_session]
