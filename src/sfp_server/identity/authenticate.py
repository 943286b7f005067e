"""A token becomes an Actor.

What an actor may do is read from the database, not from the token: roles, memberships, revocations. An answer is
used again for at most half a second, and dropped at once when the database says (NOTIFY `sfp_identity`, sent by
triggers) that something about identity has changed; without that connection the half second still holds.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database, Row
from sfp_server.db.queries import load
from sfp_server.errors import (
    AddressNotAllowed,
    NotFound,
    TokenExpired,
    TokenInvalid,
    TokenRevoked,
    TooManyRequests,
    Unavailable,
)
from sfp_server.identity import compact
from sfp_server.identity.attempts import Kind, guess, normal_email, refuse
from sfp_server.identity.jwt import Claims, Signer
from sfp_server.identity.model import NO_TEAM, SCOPES, Network, is_within
from sfp_server.identity.tokens import hash_of, is_application_token
from sfp_server.identity.trusted import ExternalClaims, Trusted

SQL = load(__package__ or "", "identity.sql")

#: seconds an answer may be used again
_FRESH = 0.5
#: answers kept at once
_MOST = 10_000

_log = structlog.get_logger("identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """An answer and until when (monotonic seconds) it may be used again."""

    actor: Actor
    until: float
    #: where the token may be used from; none: anywhere
    networks: Sequence[Network] = ()


class Authenticator:
    """Finds the actor of a token. One per process; `watch` keeps its memory honest."""

    def __init__(self, db: Database, signer: Signer, trusted: Trusted) -> None:
        self._db = db
        self._signer = signer
        self._trusted = trusted
        self._known: dict[tuple[bytes, str | None], _Known] = {}
        self._generation = 0
        self._told: list[Callable[[], None]] = []

    async def actor(self, token: str, *, team: str | None, address: str = "") -> Actor:
        """The actor of `token`, acting in `team` (a slug; None: the first joined, or the token's own).

        Raises TokenInvalid, TokenExpired, TokenRevoked, NotFound (a team that is not the actor's), AddressNotAllowed,
        TooManyRequests (unknown tokens from there), Unavailable.
        """
        if len(token) > compact.MAX_SIZE:
            raise compact.invalid()
        key = (hash_of(token), team)
        known = self._known.get(key)
        if known is None or time.monotonic() >= known.until:
            generation = self._generation
            known = await self._look_up(token, key[0], team, address)
            if generation == self._generation:  # else something changed while we read: do not keep what may be old
                self._remember(key, known)
        if not is_within(address, known.networks):
            raise AddressNotAllowed("this token may not be used from this address")
        return known.actor

    def tell(self, told: Callable[[], None]) -> None:
        """Call `told` whenever something about identity has changed."""
        self._told.append(told)

    def forget(self) -> None:
        """Drop every answer: something about identity has changed."""
        self._generation += 1
        self._known.clear()
        for told in self._told:
            told()

    async def watch(self) -> None:
        """Listen for changes of identity until cancelled."""
        while True:
            try:
                await self._db.listen("sfp_identity", lambda _: self.forget(), connected=self.forget)
            except Unavailable:
                _log.debug("not listening for changes of identity: the database is away")
            await asyncio.sleep(1)

    def _remember(self, key: tuple[bytes, str | None], known: _Known) -> None:
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = known

    async def _look_up(self, token: str, digest: bytes, team: str | None, address: str) -> _Known:
        if token.startswith("sfp_at_"):
            if not is_application_token(token):
                raise compact.invalid()
            return await self._application(digest, team, address)
        now = time.time()
        if self._trusted.is_issuer(token):
            external = await self._trusted.verify_external(token)
            return _kept(await self._external(external, team), external.dead_at - now)
        claims = self._signer.verify(token, now=int(now))
        return _kept(await self._user(claims, team), claims.dead_at - now)

    async def _application(self, digest: bytes, team: str | None, address: str) -> _Known:
        waits: TooManyRequests | None = None
        async with self._db.identifying(presented_hash=digest) as tx:
            row = await tx.one(SQL["presented_token"], digest)
            if row is None:
                waits = await refuse(tx, guess(Kind.APPLICATION_TOKEN, address=address))
            elif row["stale"] and not row["revoked"] and not row["expired"]:
                await tx.execute(SQL["touch_token"], digest, address)
        if row is None:  # raised out here, so that what was counted is committed
            raise waits or compact.invalid()
        if row["revoked"]:
            raise TokenRevoked("the token has been revoked")
        if row["expired"]:
            raise TokenExpired("the token has expired; application tokens are not renewed: create another")
        if team is not None and team != row["slug"]:
            raise NotFound("there is no such team")
        lives = row["expires_at"].timestamp() - time.time()
        return _kept(application_actor(row), lives, row["allowed_addresses"])

    async def _user(self, claims: Claims, team: str | None) -> Actor:
        async with self._db.identifying(user_id=claims.user_id) as tx:
            session = await tx.one(SQL["session"], claims.session_id, claims.user_id)
            if session is None:
                raise TokenRevoked("the session has ended: sign in again")
            if session["stale"]:
                await tx.execute(SQL["touch_session"], claims.session_id)
            memberships = await tx.all(SQL["memberships"], claims.user_id)
        return _user_actor(claims.user_id, session["email"], memberships, team, session_id=claims.session_id)

    async def _external(self, claims: ExternalClaims, team: str | None) -> Actor:
        """The user of a token of the trusted service. Raises TokenInvalid (there is no such user here), NotFound."""
        user = await self._by_id(claims) or await self._by_email(claims)
        if user is None:
            raise TokenInvalid("the token's user is not known here")
        async with self._db.identifying(user_id=user["id"]) as tx:
            memberships = await tx.all(SQL["memberships"], user["id"])
        return _user_actor(user["id"], user["email"], memberships, team)

    async def _by_id(self, claims: ExternalClaims) -> Row | None:
        if claims.user_id is None:
            return None
        async with self._db.identifying(user_id=claims.user_id) as tx:
            return await tx.one(SQL["live_user"], claims.user_id)

    async def _by_email(self, claims: ExternalClaims) -> Row | None:
        if not claims.email_is_verified:
            return None
        async with self._db.identifying() as tx:
            found = await tx.one(SQL["user_by_email"], normal_email(claims.email))
        return None if found is None or found["disabled"] else found


def _kept(actor: Actor, lives: float, networks: Sequence[Network] = ()) -> _Known:
    return _Known(actor=actor, until=time.monotonic() + min(_FRESH, lives), networks=networks)


def application_actor(row: Row) -> Actor:
    """From id, name, scopes, team_id, slug of an application token."""
    return Actor(
        id=row["id"],
        role=Role.APPLICATION,
        team_id=row["team_id"],
        team_slug=row["slug"],
        name=row["name"],
        # what was granted, and never more than the role may have today
        scopes=frozenset(row["scopes"]) & SCOPES[Role.APPLICATION],
    )


def member_actor(row: Row) -> Actor:
    """From id, email, role, team_id, slug of a member: what it may do in this team."""
    return _user_actor(row["id"], row["email"], [row], row["slug"])


def _chosen(memberships: Sequence[Row], team: str | None) -> Row | None:
    """The membership in `team`, or the first. Raises NotFound."""
    chosen = next((row for row in memberships if team is None or row["slug"] == team), None)
    if chosen is None and team is not None:
        raise NotFound("there is no such team")
    return chosen


def _user_actor(
    user_id: UUID, email: str, memberships: Sequence[Row], team: str | None, *, session_id: UUID | None = None
) -> Actor:
    """Raises NotFound: the team is not the user's."""
    membership = _chosen(memberships, team)
    role = Role(membership["role"]) if membership else Role.MEMBER
    return Actor(
        id=user_id,
        role=role,
        team_id=membership["team_id"] if membership else None,
        team_slug=membership["slug"] if membership else "",
        name=email,
        scopes=SCOPES[role] if membership else NO_TEAM,
        session_id=session_id,
        anywhere=NO_TEAM.union(*(SCOPES[Role(row["role"])] for row in memberships)),
    )
