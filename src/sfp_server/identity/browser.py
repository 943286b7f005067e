"""Browsers: the cookie in which a sign-in began, the cookie of a signed-in one, and the proof in every form.

Both cookies are opaque, HttpOnly, for this host alone (`__Host-` on https) and not sent with requests of other sites
(SameSite=Lax; a plain link brings them, a form of somebody else does not). The database has their hashes. They open
pages only; the API takes tokens.
"""

import hmac
import re
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from litestar import Request, Response
from litestar.datastructures import Cookie

from sfp_server.db.database import Database
from sfp_server.db.queries import load
from sfp_server.errors import Forbidden
from sfp_server.identity.external import Person
from sfp_server.identity.flows import FLOW_SECONDS, derived, new_secret
from sfp_server.identity.sessions import Sessions
from sfp_server.identity.tokens import hash_of
from sfp_server.settings import Settings

SQL = load(__package__ or "", "sign_in.sql")

#: seconds that a browser stays signed in; `sign_in.sql` has the same number
COOKIE_SECONDS = 12 * 3600

_SECRET = re.compile(r"[A-Za-z0-9_-]{43}")


class FormExpired(Forbidden):
    """A form came without the proof that this browser was given it."""

    code = "form_expired"
    is_for_people = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who looks at a page: a browser, and the person who has signed in there."""

    #: the secret of the cookie in which sign-ins begin
    browser: str
    #: whether this browser was given it only now
    is_new: bool
    person: Person | None
    session_id: UUID | None
    _cookie: str | None

    @property
    def csrf(self) -> str:
        """The proof for forms on pages of this visitor."""
        return derived(self._cookie or self.browser, "", "csrf")

    def check_csrf(self, sent: str) -> None:
        """Raises FormExpired."""
        if (self.is_new and self._cookie is None) or not hmac.compare_digest(sent.encode(), self.csrf.encode()):
            raise FormExpired("this form is too old, or was not opened in this browser: open the page again")


class Browsers:
    """Reads and writes the cookies."""

    def __init__(self, db: Database, sessions: Sessions, settings: Settings) -> None:
        self._db = db
        self._sessions = sessions
        self._is_secure = settings.origin.startswith("https://")
        prefix = "__Host-" if self._is_secure else ""
        self._browser_name, self._session_name = f"{prefix}sfp_browser", f"{prefix}sfp_session"

    def secret_of(self, request: Request[Any, Any, Any]) -> str | None:
        """The secret of the browser's cookie, when it has one of ours."""
        return _sane(request.cookies.get(self._browser_name))

    async def visitor(self, request: Request[Any, Any, Any]) -> Visitor:
        """Who looks at this page."""
        known = self.secret_of(request)
        cookie = _sane(request.cookies.get(self._session_name))
        row = None
        if cookie is not None:
            digest = hash_of(cookie)
            async with self._db.identifying(presented_hash=digest) as tx:
                row = await tx.one(SQL["cookie"], digest)
        return Visitor(
            browser=known or new_secret(),
            is_new=known is None,
            person=Person(id=row["user_id"], email=row["email"]) if row else None,
            session_id=row["session_id"] if row else None,
            _cookie=cookie if row else None,
        )

    def remember(self, response: Response[bytes], visitor: Visitor) -> Response[bytes]:
        """Give the browser its cookie with this answer, or let the one it has live on."""
        self._set(response, self._browser_name, visitor.browser, FLOW_SECONDS * 6)
        return response

    def sign_in(self, response: Response[bytes], cookie: str) -> Response[bytes]:
        """Sign the browser in with this answer; the other cookie has done its work and is replaced."""
        self._set(response, self._session_name, cookie, COOKIE_SECONDS)
        self._set(response, self._browser_name, "", 0)
        return response

    async def sign_out(self, response: Response[bytes], visitor: Visitor) -> Response[bytes]:
        """End the browser's session, and its cookie with this answer."""
        if visitor.person is not None and visitor.session_id is not None:
            await self._sessions.sign_out(visitor.person.id, visitor.session_id)
        self._set(response, self._session_name, "", 0)
        return response

    def _set(self, response: Response[bytes], name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            Cookie(
                key=name,
                value=value,
                max_age=seconds,
                path="/",
                secure=self._is_secure,
                httponly=True,
                samesite="lax",
            )
        )


def _sane(value: str | None) -> str | None:
    return value if value is not None and _SECRET.fullmatch(value) else None
