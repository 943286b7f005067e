"""Signing in on a machine without a browser (RFC 8628).

The device gets two codes: a long one that it polls with, and a short one that its user types (or opens as a link)
where they are signed in. The user sees who asks and from where, and says yes or no; the next poll ends with tokens or
with a refusal. Both codes live ten minutes and are used once; which of two polls or two users is first, the database
decides. Guesses of the short code are counted per user and per address.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Row, Tx
from sfp_server.db.queries import load
from sfp_server.errors import (
    AccessDenied,
    AuthorizationPending,
    DeviceCodeExpired,
    InvalidGrant,
    NotFound,
    SfpError,
    SlowDown,
    TooManyRequests,
)
from sfp_server.identity import attempts
from sfp_server.identity.sessions import Caller, Sessions, SignedIn
from sfp_server.identity.tokens import hash_of

SQL = load(__package__ or "", "device.sql")
SIGN_IN = load(__package__ or "", "sign_in.sql")

#: no vowels, so no words; no letter that looks like another one (RFC 8628, 6.1)
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_LENGTH = 8
#: seconds
LIFE = 600
INTERVAL = 5
#: devices of one address that may wait at once
_WAITING = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCodes:
    """What a device gets: the code that it polls with and the one that it shows."""

    device_code: str
    user_code: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A device that waits for consent, as its user sees it; `client` is what it says of itself."""

    id: UUID
    client: str
    address: str
    created_at: datetime


class DeviceFlow:
    """The use cases; each opens its own transactions, because a refusal must be written down too."""

    def __init__(self, db: Database, sessions: Sessions) -> None:
        self._db = db
        self._sessions = sessions

    async def begin(self, caller: Caller) -> DeviceCodes:
        """Two new codes for a device. Raises TooManyRequests."""
        codes = DeviceCodes(device_code=f"sfp_dc_{secrets.token_urlsafe(32)}", user_code=_new_user_code())
        digest = hash_of(codes.device_code)
        async with self._db.identifying(presented_hash=digest) as tx:
            await tx.execute(SQL["clear_devices"])
            if await tx.value(SQL["devices_waiting"], caller.address) >= _WAITING:
                raise TooManyRequests("too many devices wait for consent; wait until some have expired", retry_after=60)
            shown = caller.user_agent[:200]
            await tx.execute(
                SQL["add_device"], digest, _user_hash(codes.user_code), shown, caller.address, LIFE, INTERVAL
            )
        return codes

    async def poll(self, device_code: str, caller: Caller) -> SignedIn:
        """Tokens, once, when the user has said yes.

        Raises AuthorizationPending, SlowDown, AccessDenied, DeviceCodeExpired, InvalidGrant.
        """
        digest = hash_of(device_code)
        async with self._db.identifying(presented_hash=digest) as tx:
            redeemed = await tx.one(SQL["redeem_device"], digest)
            if redeemed is not None:
                return await self._signed_in(tx, redeemed, caller)
            row = await tx.one(SQL["poll_device"], digest)  # its count is committed, so it raises afterwards
        if row is None:
            raise InvalidGrant("there is no such device code")
        raise _reason(is_over=row["is_over"], is_approved=row["is_approved"], is_early=row["is_early"])

    async def waiting(self, user_code: str, user_id: UUID, caller: Caller) -> Waiting:
        """The device that shows `user_code`. Raises NotFound (whatever is wrong with the code), TooManyRequests."""
        digest = await self._guess(user_code, user_id, caller)
        async with self._db.identifying(user_id=user_id, presented_hash=digest) as tx:
            row = await tx.one(SQL["waiting_device"], digest)
            if row is not None:
                await attempts.uncount(tx, _tried(user_id, caller))
                return Waiting(**row)
        raise _unknown()

    async def decide(self, user_code: str, user_id: UUID, caller: Caller, *, approve: bool) -> Waiting:
        """Say yes or no to a device. Raises NotFound, TooManyRequests."""
        digest = await self._guess(user_code, user_id, caller)
        async with self._db.identifying(user_id=user_id, presented_hash=digest) as tx:
            row = await tx.one(SQL["decide_device"], digest, user_id, approve)
            if row is not None:
                await attempts.uncount(tx, _tried(user_id, caller))
                action = "device.approved" if approve else "device.denied"
                detail = {"client": row["client"], "address": row["address"], "approvedFrom": caller.address}
                await audit.record(tx, f"user:{user_id}", action, f"device:{row['id']}", detail)
                return Waiting(**row)
        raise _unknown()

    async def _signed_in(self, tx: Tx, redeemed: Row, caller: Caller) -> SignedIn:
        """A session of the user who said yes. Raises AccessDenied: who is disabled since leaves the code unused."""
        await tx.identify(redeemed["decided_by"])
        user = await tx.one(SIGN_IN["user_who_may_sign_in"], redeemed["decided_by"])
        if user is None:
            raise AccessDenied("the user who agreed may not sign in any more")
        session_id = await self._sessions.begin(tx, user["id"], caller, via=f"device:{redeemed['id']}")
        return await self._sessions.pair(tx, session_id, user["id"], user["email"])

    async def _guess(self, user_code: str, user_id: UUID, caller: Caller) -> bytes:
        """Count a try before it is looked at. Raises TooManyRequests."""
        async with self._db.identifying() as tx:
            await attempts.admit(tx, _tried(user_id, caller))
        return _user_hash(user_code)


def _tried(user_id: UUID, caller: Caller) -> attempts.Guess:
    return attempts.guess(attempts.Kind.DEVICE_CODE, account=str(user_id), address=caller.address)


def _new_user_code() -> str:
    """As in `BCDF-GHJK`."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return f"{letters[:4]}-{letters[4:]}"


def _user_hash(user_code: str) -> bytes:
    """Of the letters alone: people leave out the dash, type small letters, add spaces."""
    letters = "".join(letter for letter in user_code.upper() if letter in _LETTERS)
    return hash_of(f"device user code {letters}")


def _reason(*, is_over: bool, is_approved: bool | None, is_early: bool) -> SfpError:
    if is_over:
        return DeviceCodeExpired("the codes have expired or were used; ask for new ones")
    if is_approved is False:
        return AccessDenied("the user has refused")
    if is_early:
        return SlowDown("polled before the interval was over; wait 5 seconds longer each time")
    return AuthorizationPending("the user has not decided yet")


def _unknown() -> NotFound:
    return NotFound("no device waits for this code; it may have expired: ask the device for a new one")
