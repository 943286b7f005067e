"""Requests per minute, per actor and per address, over all API processes.

Each process counts by itself and exchanges the counts with Valkey four times a second, so a request costs no
round trip; several processes together may let through what arrives within that quarter of a second. Without
Valkey each process still enforces its own count. Guessing passwords is limited elsewhere, in PostgreSQL
(`sfp_server.identity.attempts`): a cache that is flushed must not reset that.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import structlog
from valkey.asyncio import Valkey
from valkey.exceptions import ValkeyError

from sfp_server.errors import TooManyRequests
from sfp_server.web.asgi import Scope

#: seconds
WINDOW = 60
_EXCHANGE = 0.25
#: subjects counted per process and window; whoever comes after these is not counted: memory stays bounded
_MOST = 20_000

_log = structlog.get_logger("ratelimit")


@dataclass(slots=True, kw_only=True)
class _Count:
    """Requests of one subject in this window: what all processes had at the last exchange, and ours since."""

    known: int = 0
    pending: int = 0


class RateLimiter:
    """Counts per subject. `check` is synchronous and cheap; `run` exchanges counts until cancelled."""

    def __init__(self, cache: Valkey | None, *, clock: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._clock = clock
        self._window = 0
        self._counts: dict[str, _Count] = {}
        self._exchanging = True

    def check(self, scope: Scope, subject: str, policy: str, limit: int) -> None:
        """Count one request of `subject`, and leave the header fields for the answer in the ASGI scope.

        Raises TooManyRequests when `limit` (requests per minute, 0: unlimited) is used up.
        """
        if limit == 0 or not subject:
            return
        now = self._clock()
        self._turn(int(now // WINDOW))
        count = self._counts.get(subject)
        if count is None:
            if len(self._counts) >= _MOST:
                return
            count = self._counts[subject] = _Count()
        used = count.known + count.pending
        reset = WINDOW - int(now) % WINDOW
        scope["sfp.ratelimit"] = (policy, limit, max(0, limit - used - 1), reset)
        if used >= limit:
            raise TooManyRequests("too many requests; slow down", retry_after=reset)
        count.pending += 1

    def _turn(self, window: int) -> None:
        if window != self._window:
            self._window = window
            self._counts = {}

    async def run(self) -> None:
        """Exchange counts with the other processes until cancelled; without a cache there is nothing to do."""
        if self._cache is None:
            return
        while True:
            await asyncio.sleep(_EXCHANGE)
            try:
                async with asyncio.timeout(2):
                    await self._exchange(self._cache)
                self._say(reached=True)
            except (ValkeyError, OSError, TimeoutError):
                self._say(reached=False)

    async def _exchange(self, cache: Valkey) -> None:
        window, counts = self._window, self._counts
        changed = [(subject, count, count.pending) for subject, count in counts.items() if count.pending]
        if not changed:
            return
        pipeline = cache.pipeline(transaction=False)
        for subject, _, pending in changed:
            key = f"sfp:rate:{window}:{subject}"
            pipeline.incrby(key, pending)
            pipeline.expire(key, 2 * WINDOW)
        answers = cast("list[int]", await pipeline.execute())  # INCRBY and EXPIRE answer with numbers
        for (_, count, pending), total in zip(changed, answers[::2], strict=True):
            count.known = total
            count.pending -= pending

    def _say(self, *, reached: bool) -> None:
        """Log the change, not each failure."""
        if reached != self._exchanging:
            self._exchanging = reached
            _log.info("rate limits are shared again") if reached else _log.warning(
                "rate limits are per process: no cache"
            )


def headers_of(scope: Scope) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and `RateLimit-Policy` of the last count in this scope."""
    with suppress(KeyError):
        policy, limit, remaining, reset = scope["sfp.ratelimit"]
        return [
            (b"ratelimit-policy", f'"{policy}";q={limit};w={WINDOW}'.encode()),
            (b"ratelimit", f'"{policy}";r={remaining};t={reset}'.encode()),
        ]
    return []
