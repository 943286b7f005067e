"""Slowing down whoever guesses passwords. In PostgreSQL: neither a restart nor a flushed cache resets it.

After a few failures each further one makes the wait longer, up to a quarter of an hour: nobody is locked out for ever.
Failures count for the account, whatever address they come from, and for the address, whatever account it tries. A
user who lately signed in from an address has a count of their own there, so that a stranger elsewhere cannot
keep them out. A success forgets the account's failures.
"""

import asyncio
import hashlib
import ipaddress
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sfp_server.db.database import Tx
from sfp_server.db.queries import load
from sfp_server.errors import TooManyRequests

SQL = load(__package__ or "", "identity.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """`free` failures cost nothing; then one waits `first` seconds, doubled by each further failure up to `longest`."""

    free: int
    first: int
    longest: int = 900


ACCOUNT = Limit(free=5, first=15)
ADDRESS = Limit(free=50, first=15)
#: sign-ins for one account that may wait for each other in one process
_WAITING = 20


def account_subject(email: str, *, home: str = "") -> str:
    """The subject that counts for `email`; `home`: an address that the user has signed in from."""
    digest = hashlib.sha256(f"{email.strip().lower()}\n{home}".encode()).hexdigest()
    return f"account:{digest}"


def address_subject(address: str) -> str:
    """The subject that counts for an address; IPv6 hosts have a whole /64 to themselves."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "address:unknown"
    if parsed.version == 6:
        return f"address:{ipaddress.ip_network((parsed, 64), strict=False).network_address}"
    return f"address:{parsed}"


async def check(tx: Tx, account: str, address: str) -> None:
    """Raises TooManyRequests while either subject has to wait."""
    limits = {account: ACCOUNT, address: ADDRESS}
    wait = await tx.value(
        SQL["blocked"],
        list(limits),
        [limit.free for limit in limits.values()],
        [limit.first for limit in limits.values()],
        [limit.longest for limit in limits.values()],
    )
    if wait is not None:
        raise TooManyRequests("too many failed sign-ins; wait before the next", retry_after=math.ceil(wait))


async def failed(tx: Tx, *subjects: str) -> None:
    """Count one failure for each subject."""
    await tx.execute(SQL["count_failure"], list(subjects))


async def succeeded(tx: Tx, *subjects: str) -> None:
    """Forget the failures of these subjects."""
    await tx.execute(SQL["forget_failures"], list(subjects))


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
