"""Passwords: argon2id, 19 MiB, two passes, one lane (OWASP's recommendation), about 30 ms of one core each.

Hashing runs in threads, few at a time: sign-ins never take the event loop, and a crowd of them takes at most
`_AT_ONCE` cores and `_AT_ONCE` x 19 MiB.
"""

import asyncio
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from sfp_server.errors import FieldError, Malformed, Unavailable

if TYPE_CHECKING:
    from argon2 import PasswordHasher

Answer = TypeVar("Answer")

_AT_ONCE = 2
#: sign-ins that may wait for a core before more are turned away
_WAITING = 64


def check_policy(password: str, email: str) -> None:
    """What may become a password: 12 to 1024 characters, and not the address. Raises Malformed."""
    if not 12 <= len(password) <= 1024:
        message = "a password has 12 to 1024 characters"
    elif password.strip().lower() in {email, email.partition("@")[0]}:
        message = "the e-mail address is no password"
    elif len(set(password)) < 4:
        message = "a password has more than three different characters"
    else:
        return
    raise Malformed(message, errors=(FieldError(path="password", message=message),))


class Passwords:
    """Hashes and checks passwords; one per process."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0
        self._dummy: str | None = None

    async def hash(self, password: str) -> str:
        """A hash to store. Raises Unavailable when too many wait."""
        return await self._run(hash_now, password)

    async def matches(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one that was stored. Without one it costs the same, and is False.

        Raises Unavailable when too many wait.
        """
        if self._dummy is None:
            self._dummy = await self._run(hash_now, "nobody's password")
        answer = await self._run(_verify, stored or self._dummy, password)
        return answer and stored is not None

    async def _run(self, work: Callable[..., Answer], *values: str) -> Answer:
        if self._waiting >= _WAITING:
            raise Unavailable("too many sign-ins at once", retry_after=2)
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(work, *values)
        finally:
            self._waiting -= 1


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher, Type

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)


def hash_now(password: str) -> str:
    """Hash in this thread, for commands."""
    return _hasher().hash(password)


def _verify(stored: str, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(stored, password)
    except (VerificationError, InvalidHashError):
        return False
