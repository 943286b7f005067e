"""Slowing down whoever guesses. In PostgreSQL: neither a restart nor a flushed cache resets it.

After a few failures each further one makes the wait longer, up to a quarter of an hour: nobody is locked out for ever.
Failures count for the account, whatever address they come from, and for the address, whatever account it tries. A
user who lately signed in from an address has a count of their own there, so that a stranger elsewhere cannot
keep them out. A success forgets the account's failures.

    tried = guess(Kind.DEVICE_CODE, account=str(user_id), address=caller.address)
    async with db.identifying() as tx:      # of its own: committed before the guess is looked at
        await admit(tx, tried)              # counts it; raises TooManyRequests, and the block rolls back
    …                                       # compare
    async with … as tx:
        await succeeded(tx, tried)          # only when it was right

Counting first is what makes it hold for guesses sent at once to several processes. What cannot be guessed anyway, as a
token of 256 bits, may do with `refuse`: it costs nothing unless it fails.
"""

import asyncio
import hashlib
import ipaddress
import math
import unicodedata
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum

from sfp_server.db.database import Tx
from sfp_server.db.queries import load
from sfp_server.errors import TooManyRequests

SQL = load(__package__ or "", "identity.sql")


class Kind(StrEnum):
    """What somebody may try to guess. Each has counts of its own."""

    PASSWORD = "password"  # noqa: S105 (a name)
    REFRESH_TOKEN = "refresh-token"  # noqa: S105 (a name)
    APPLICATION_TOKEN = "application-token"  # noqa: S105 (a name)
    AUTHORIZATION_CODE = "authorization-code"
    DEVICE_CODE = "device-code"
    CI_TOKEN = "ci-token"  # noqa: S105 (a name)
    WEBHOOK_SECRET = "webhook-secret"  # noqa: S105 (a name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`free` failures cost nothing; then one waits `first` seconds, doubled by each further failure up to `longest`."""

    free: int
    first: int
    longest: int = 900


_FEW = Limit(free=5, first=15)
_SOME = Limit(free=20, first=15)
_MANY = Limit(free=50, first=15)

#: of an account (whatever that is for the kind), of an address
LIMITS: dict[Kind, tuple[Limit, Limit]] = {
    Kind.PASSWORD: (_FEW, _MANY),
    Kind.DEVICE_CODE: (_FEW, _SOME),  # eight letters: the account is the user who types them
    Kind.REFRESH_TOKEN: (_FEW, _MANY),
    Kind.APPLICATION_TOKEN: (_FEW, _MANY),
    Kind.AUTHORIZATION_CODE: (_FEW, _SOME),
    Kind.CI_TOKEN: (_FEW, _MANY),
    Kind.WEBHOOK_SECRET: (_FEW, _MANY),
}

#: sign-ins for one account that may wait for each other in one process
_WAITING = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One try: the subjects that it counts for, each with its limit."""

    account: str
    limits: Mapping[str, Limit]


def guess(kind: Kind, *, account: str = "", address: str = "", at_home: bool = False) -> Guess:
    """A try of `kind`.

    Args:
        account: what is guessed at, in its one canonical form (for an e-mail address: `normal_email`).
        address: where it comes from, as `address_of` says.
        at_home: the account's own user lately signed in from `address`: this counts for the two together, and what
            others do from there or elsewhere does not.
    """
    of_account, of_address = LIMITS[kind]
    subject = _account_subject(kind, account, address if at_home else "")
    limits = {subject: of_account} if account else {}
    if address and not at_home:
        limits[f"{kind}:{address_subject(address)}"] = of_address
    return Guess(account=subject, limits=limits)


def normal_email(email: str) -> str:
    """The one form of an e-mail address that is stored, looked up and counted: what differs in it is another account.

    Letter case, spaces around it and the ways to write the same character in Unicode are no difference.
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", email).strip().lower())


def address_subject(address: str) -> str:
    """The subject that counts for an address: an IPv6 host has a whole /64, and IPv4 in IPv6's clothes is IPv4."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address:unknown"
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return f"address:{ipaddress.IPv6Network((parsed.packed, 64), strict=False).network_address}"
        parsed = parsed.ipv4_mapped
    return f"address:{parsed}"


async def admit(tx: Tx, tried: Guess) -> None:
    """Count a try before it is looked at. Raises TooManyRequests, and the caller's transaction must then roll back."""
    waits = await refuse(tx, tried)
    if waits is not None:
        raise waits


async def refuse(tx: Tx, tried: Guess) -> TooManyRequests | None:
    """Count a try that failed, after the fact. Answers what to raise instead of the failure, when there were too many.

    The count must be committed: raise only after the transaction's block.
    """
    limits = tried.limits.values()
    rows = await tx.all(
        SQL["count_try"],
        list(tried.limits),
        [limit.free for limit in limits],
        [limit.first for limit in limits],
        [limit.longest for limit in limits],
    )
    waits = [float(row["wait"]) for row in rows if not row["counted"]]
    if not waits:
        return None
    seconds = max(1, math.ceil(max(waits)))
    return TooManyRequests("too many failed attempts; wait before the next", retry_after=seconds)


async def succeeded(tx: Tx, tried: Guess) -> None:
    """It was right: forget the account's failures, and take this try back from the address's."""
    await tx.execute(SQL["forget_failures"], [tried.account])
    await tx.execute(SQL["take_back"], [subject for subject in tried.limits if subject != tried.account])


async def uncount(tx: Tx, tried: Guess) -> None:
    """It was right, and says nothing about those before: being right about one's own things gives no more guesses."""
    await tx.execute(SQL["take_back"], list(tried.limits))


async def forget(tx: Tx, *tries: Guess) -> None:
    """Forget what counts for these accounts, as a command on the machine does."""
    await tx.execute(SQL["forget_failures"], [tried.account for tried in tries])


def _account_subject(kind: Kind, account: str, home: str) -> str:
    digest = hashlib.sha256(f"{account}\n{home and address_subject(home)}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"{kind}:account:{digest}"


class Turns:
    """One sign-in at a time per account, so that guesses sent at once are counted like guesses sent in a row."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._waiting: dict[str, int] = {}

    @asynccontextmanager
    async def of(self, subject: str) -> AsyncGenerator[None]:
        """Wait for the turn of `subject`. Raises TooManyRequests when many wait already."""
        waiting = self._waiting.get(subject, 0)
        if waiting >= _WAITING:
            raise TooManyRequests("too many sign-ins at once", retry_after=2)
        self._waiting[subject] = waiting + 1
        try:
            async with self._locks.setdefault(subject, asyncio.Lock()):
                yield
        finally:
            self._waiting[subject] -= 1
            if not self._waiting[subject]:
                del self._waiting[subject], self._locks[subject]
