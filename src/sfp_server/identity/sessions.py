"""Signing in, refreshing, signing out.

Every failure of a sign-in has the same text and costs the same: an unknown account is checked against a hash that
nobody has, and counts like a known one. A refresh token is used once; its second use means that two parties
hold it, so the session ends for both.
"""

import time
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Row, Tx
from sfp_server.db.queries import load
from sfp_server.errors import NotFound, PasswordLoginOff, TokenInvalid, TokenRevoked, Unauthenticated
from sfp_server.identity import attempts
from sfp_server.identity.external import Person
from sfp_server.identity.jwt import Signer
from sfp_server.identity.passwords import Passwords
from sfp_server.identity.tokens import hash_of, is_refresh_token, new_refresh_token

SQL = load(__package__ or "", "identity.sql")
SIGN_IN_SQL = load(__package__ or "", "sign_in.sql")

_NOBODY = UUID(int=0)
_REFUSED = "the e-mail address or the password is wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIn:
    """What a client gets: an access token and the refresh token that renews it once."""

    access_token: str
    refresh_token: str
    #: seconds that the access token opens anything
    expires_in: int
    user_id: UUID
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Where a sign-in comes from."""

    address: str
    user_agent: str


class Sessions:
    """The use cases; each opens its own transactions, because a refusal must be written down too."""

    def __init__(
        self,
        db: Database,
        signer: Signer,
        *,
        refresh_days: int,
        passwords: Passwords,
        passwords_for: Literal["auto", "everyone", "owners", "off"],
    ) -> None:
        self._db = db
        self._who_has_passwords: Literal["auto", "everyone", "owners", "off"] = passwords_for
        self._signer = signer
        self._refresh_days = refresh_days
        self._passwords = passwords
        self._turns = attempts.Turns()

    async def sign_in(self, email: str, password: str, caller: Caller) -> SignedIn:
        """Open a session. Raises what `recognise` raises."""
        person = await self.recognise(email, password, caller)
        async with self._db.identifying(user_id=person.id) as tx:
            session_id = await self.begin(tx, person.id, caller, via="password")
            return await self.pair(tx, session_id, person.id, person.email)

    async def recognise(self, email: str, password: str, caller: Caller) -> Person:
        """Whose password this is. Raises Unauthenticated, PasswordLoginOff, TooManyRequests, Unavailable."""
        who = await self.who_has_passwords()
        if who == "off":
            raise PasswordLoginOff("nobody signs in with a password here: use an identity provider")
        email = attempts.normal_email(email)
        async with self._turns.of(email):
            user, is_owner, tried = await self._admitted(email, caller)
            right = await self._passwords.matches(user["password_hash"] if user else None, password)
            # One answer for all of these, also for a right password that may not be used: it would be confirmed.
            if not right or user is None or user["disabled"] or not (who == "everyone" or is_owner):
                await self._refuse(user, tried, caller)
                raise Unauthenticated(_REFUSED)
            async with self._db.identifying(user_id=user["id"]) as tx:
                await attempts.succeeded(tx, tried)
        return Person(id=user["id"], email=user["email"])

    async def who_has_passwords(self) -> Literal["everyone", "owners", "off"]:
        """Who may sign in with a password now."""
        if self._who_has_passwords != "auto":
            return self._who_has_passwords
        async with self._db.identifying() as tx:
            return "owners" if await tx.value(SIGN_IN_SQL["any_provider_enabled"]) else "everyone"

    async def refresh(self, refresh_token: str, caller: Caller) -> SignedIn:
        """Use a refresh token up for a new pair. Raises TokenInvalid, TokenRevoked (re-use), TooManyRequests."""
        digest = hash_of(refresh_token)
        async with self._db.identifying() as tx:
            if is_refresh_token(refresh_token):
                signed = await self._renewed(tx, digest)
                if signed is not None:
                    return signed
            # Written down and committed, also when it ends in a refusal.
            reused = await tx.one(SQL["revoke_family"], digest)
            waits = await attempts.refuse(tx, attempts.guess(attempts.Kind.REFRESH_TOKEN, address=caller.address))
            if reused is not None:
                await audit.record(
                    tx, f"user:{reused['user_id']}", "session.reuse_detected", f"session:{reused['session_id']}"
                )
        if reused is not None:
            raise TokenRevoked("this refresh token was used before; the session has ended: sign in again")
        raise waits or TokenInvalid("the refresh token is not valid")

    async def _renewed(self, tx: Tx, digest: bytes) -> SignedIn | None:
        """The pair that follows, when the token was not used yet."""
        row = await tx.one(SQL["use_refresh_token"], digest)
        if row is None:
            return None
        await tx.execute(SQL["extend_session"], row["session_id"], self._refresh_days)
        successor = new_refresh_token()
        await tx.execute(SQL["add_refresh_token"], hash_of(successor), row["session_id"], self._refresh_days)
        return self._signed(row, successor)

    async def page(self, user_id: UUID, *, before: UUID | None, limit: int) -> list[Row]:
        """The user's live sessions, newest first."""
        async with self._db.identifying(user_id=user_id) as tx:
            return list(await tx.all(SQL["list_sessions"], user_id, before, limit))

    async def sign_out_everywhere(self, user_id: UUID) -> int:
        """End every session of the user; answers how many."""
        async with self._db.identifying(user_id=user_id) as tx:
            ended = await tx.execute(SQL["revoke_sessions_of"], user_id)
            if ended:
                await audit.record(tx, f"user:{user_id}", "session.ended", f"user:{user_id}", {"sessions": ended})
        return ended

    async def end(self, user_id: UUID, session_id: UUID) -> None:
        """End one of the user's sessions. Raises NotFound: they have no such live session."""
        if not await self.sign_out(user_id, session_id):
            raise NotFound("there is no such session")

    async def sign_out(self, user_id: UUID, session_id: UUID) -> bool:
        """End a session; its access tokens open nothing from now on. False: it had ended, or is not the user's."""
        async with self._db.identifying(user_id=user_id) as tx:
            ended = await tx.execute(SQL["revoke_session"], session_id, user_id)
            if ended:
                await audit.record(tx, f"user:{user_id}", "session.ended", f"session:{session_id}")
        return bool(ended)

    async def _admitted(self, email: str, caller: Caller) -> tuple[Row | None, bool, attempts.Guess]:
        """The user, if any, whether they own a team, and the try that this is. Raises TooManyRequests."""
        async with self._db.identifying() as tx:
            user = await tx.one(SQL["user_by_email"], email)
            await tx.identify(user["id"] if user else _NOBODY)
            is_owner = await tx.value(SIGN_IN_SQL["is_owner_somewhere"], user["id"] if user else _NOBODY)
            at_home = await tx.value(SQL["has_signed_in_from"], user["id"] if user else None, caller.address)
            tried = attempts.guess(attempts.Kind.PASSWORD, account=email, address=caller.address, at_home=at_home)
            await attempts.admit(tx, tried)
        return user, is_owner, tried

    async def _refuse(self, user: Row | None, tried: attempts.Guess, caller: Caller) -> None:
        # What a stranger typed is not written down: it may be a password in the wrong field.
        subject = f"user:{user['id']}" if user else tried.account.removeprefix("password:")
        async with self._db.identifying() as tx:
            await audit.record(tx, "anonymous", "session.refused", subject, {"address": caller.address})

    async def begin(self, tx: Tx, user_id: UUID, caller: Caller, *, via: str) -> UUID:
        """Open a session of a user who was recognised; `via` says how, for the audit trail. Answers its id."""
        session_id: UUID = await tx.value(
            SQL["open_session"], user_id, self._refresh_days, caller.address, caller.user_agent[:500]
        )
        detail = {"address": caller.address, "via": via}
        await audit.record(tx, f"user:{user_id}", "session.opened", f"session:{session_id}", detail)
        return session_id

    async def revoke_reused(self, tx: Tx, user_id: UUID, session_id: UUID) -> None:
        """End a session because what opened it was used a second time."""
        await tx.execute(SQL["revoke_session"], session_id, user_id)
        await audit.record(tx, f"user:{user_id}", "session.reuse_detected", f"session:{session_id}")

    async def pair(self, tx: Tx, session_id: UUID, user_id: UUID, email: str) -> SignedIn:
        """Tokens of a session."""
        refresh_token = new_refresh_token()
        await tx.execute(SQL["add_refresh_token"], hash_of(refresh_token), session_id, self._refresh_days)
        return self._signed({"session_id": session_id, "user_id": user_id, "email": email}, refresh_token)

    def _signed(self, row: Row, refresh_token: str) -> SignedIn:
        """`row`: session_id, user_id, email."""
        user_id, email = row["user_id"], row["email"]
        return SignedIn(
            access_token=self._signer.sign(
                user_id=user_id, email=email, session_id=row["session_id"], now=int(time.time())
            ),
            refresh_token=refresh_token,
            expires_in=self._signer.usable_seconds,
            user_id=user_id,
            email=email,
        )
