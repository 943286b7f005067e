"""The right to look goes on being checked while somebody looks: a role or token taken away ends it within a second."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import structlog

from sfp_server.actor import Actor
from sfp_server.errors import Forbidden, NotFound, SfpError, TokenExpired, Unavailable
from sfp_server.web.guard import Authenticate

SCOPE = "events:read"
#: seconds between two checks of the same viewer, unless we hear of a change (the authenticator may be 0.5 s old)
CHECK_EVERY = 0.4
#: seconds for which nobody can be asked (the database is away) until everybody is sent away
UNCHECKED_MAX = 30.0
_AT_ONCE = 8

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What somebody showed to be let in: the token, and the team's slug where one was chosen."""

    token: str = field(repr=False)
    team: str | None
    address: str = ""


@dataclass(slots=True, kw_only=True, eq=False)
class Viewer:
    """Somebody who looks at events now."""

    ticket: Ticket
    actor: Actor
    #: done when the right has ended, with the reason
    ended: asyncio.Future[SfpError]

    @property
    def is_gone(self) -> bool:
        """Whether the right has ended for good; who renews an expired token resumes and misses nothing."""
        return self.ended.done() and not isinstance(self.ended.result(), TokenExpired | Unavailable)


class Rights:
    """Lets viewers in, and checks all of them again and again while `run` runs."""

    def __init__(self, authenticate: Authenticate) -> None:
        self._authenticate = authenticate
        self._viewers: dict[Ticket, set[Viewer]] = {}
        self._checked_at: dict[Ticket, float] = {}
        self._hurry = asyncio.Event()

    async def actor(self, ticket: Ticket) -> Actor:
        """Who shows this ticket.

        Raises:
            Unauthenticated: the token is unknown, expired or revoked.
            NotFound: the team is not the caller's.
            Forbidden: it may not see events.
            Unavailable: nobody can be asked now.
        """
        actor = await self._authenticate(ticket.token, team=ticket.team, address=ticket.address)
        if SCOPE not in actor.scopes:
            raise Forbidden(f"this needs the scope {SCOPE}")
        if actor.team_id is None:
            raise Forbidden("you belong to no team")
        return actor

    @contextmanager
    def viewing(self, ticket: Ticket, actor: Actor) -> Generator[Viewer]:
        """Keep an eye on somebody who was let in, for as long as the block lasts."""
        viewer = Viewer(ticket=ticket, actor=actor, ended=asyncio.get_running_loop().create_future())
        self._remember(viewer)
        try:
            yield viewer
        finally:
            self._forget(viewer)

    def exchange(self, viewer: Viewer, ticket: Ticket, actor: Actor) -> None:
        """From now on this viewer stands on another ticket, for which `actor` was answered."""
        self._forget(viewer)
        viewer.ticket, viewer.actor = ticket, actor
        self._remember(viewer)

    def hurry(self) -> None:
        """Something about identity has changed: check everybody now."""
        self._hurry.set()

    async def run(self) -> None:
        """Check until cancelled. Viewers with the same ticket are checked together."""
        gate = asyncio.Semaphore(_AT_ONCE)
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), CHECK_EVERY)
            self._hurry.clear()
            async with asyncio.TaskGroup() as group:
                for ticket in list(self._viewers):
                    group.create_task(self._check(ticket, gate))

    async def _check(self, ticket: Ticket, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                actor = await self.actor(ticket)
            except Unavailable as error:
                if _now() - self._checked_at.get(ticket, _now()) > UNCHECKED_MAX:
                    self._end(ticket, error)
            except SfpError as error:
                self._end(ticket, error)
            except Exception:  # a bug in a check must not let anybody go on looking
                _log.exception("a viewer's right could not be checked")
                self._end(ticket, Forbidden("the right could not be checked"))
            else:
                self._checked_at[ticket] = _now()
                self._renew(ticket, actor)

    def _renew(self, ticket: Ticket, actor: Actor) -> None:
        for viewer in list(self._viewers.get(ticket, ())):
            if viewer.actor.team_id != actor.team_id:
                _finish(viewer, NotFound("you do not belong to this team any more"))
            else:
                viewer.actor = actor

    def _end(self, ticket: Ticket, why: SfpError) -> None:
        for viewer in list(self._viewers.get(ticket, ())):
            _finish(viewer, why)

    def _remember(self, viewer: Viewer) -> None:
        self._viewers.setdefault(viewer.ticket, set()).add(viewer)
        self._checked_at.setdefault(viewer.ticket, _now())

    def _forget(self, viewer: Viewer) -> None:
        viewers = self._viewers.get(viewer.ticket, set())
        viewers.discard(viewer)
        if not viewers:
            self._viewers.pop(viewer.ticket, None)
            self._checked_at.pop(viewer.ticket, None)


def _finish(viewer: Viewer, why: SfpError) -> None:
    if not viewer.ended.done():
        viewer.ended.set_result(why)


def _now() -> float:
    return asyncio.get_running_loop().time()
