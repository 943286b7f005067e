"""Pristine workers that wait for their job, so that no task waits for a sandbox to be built.

Why this stays clean: a waiting worker has run nothing, holds no descriptor but its control socket, and has
seen no job, secret or file of any team; its sandbox was made by the same steps as a cold one's, only
earlier. It is given exactly one job and exits with it; nothing ever comes back into the pool. It cannot
be reached meanwhile either: its namespaces are its own, and it does nothing but wait for one message.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from sfp_server.runtimes.base import RuntimeUnavailable
from sfp_server.runtimes.worker import Worker

_log: Any = structlog.get_logger(__name__)

#: waiting workers at most, of all toolchains together; one that was forked has 1 MB of its own, one that was built 6
MAX_WARM = 32
#: seconds without a start after which the pool is filled, unless it is empty
QUIET_SECONDS = 0.05
#: seconds after the death of a waiting worker after which another one is made: whatever killed it may kill the next
DEATH_SECONDS = 1.0


class WarmPool:
    def __init__(self, size: int, make: Callable[[], Awaitable[Worker]]) -> None:
        self._size = min(max(size, 0), MAX_WARM)
        self._make = make
        self._waiting: deque[Worker] = deque()
        self._filling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._discarding: set[asyncio.Task[None]] = set()
        self._closed = False

    def take(self) -> Worker | None:
        """A waiting worker that is alive, or None. Its place is filled in the background."""
        found = None
        while self._waiting and found is None:
            worker = self._waiting.popleft()
            if worker.is_alive:
                found = worker
            else:
                asyncio.get_running_loop().create_task(worker.discard())
        self._fill_when_quiet()
        return found

    def _fill_when_quiet(self) -> None:
        """To build a sandbox slows down what is running: leave short tasks alone while others wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(QUIET_SECONDS, self.fill)
        else:
            self.fill()

    def fill(self) -> None:
        """Bring the pool to its size, one after the other, without anybody waiting for it."""
        if not self._closed and (self._filling is None or self._filling.done()):
            self._filling = asyncio.get_running_loop().create_task(self._fill())

    async def filled(self) -> None:
        """Return when the filling that is under way is over."""
        if self._filling is not None:
            await asyncio.shield(self._filling)

    async def _fill(self) -> None:
        while len(self._waiting) < self._size and not self._closed:
            try:
                self._add(await self._make())
            except RuntimeUnavailable as error:
                _log.warning("runtime.warm_worker_failed", reason=str(error))
                return  # the next task tries again, and says why to its dispatcher

    def _add(self, worker: Worker) -> None:
        self._waiting.append(worker)
        worker.process.call_when_ended(lambda: self._lost(worker))

    def _lost(self, worker: Worker) -> None:
        """One that dies while it waits is no help to anybody, and holds its group."""
        if any(worker is one for one in self._waiting):
            self._waiting = deque(one for one in self._waiting if one is not worker)
            self._discarding.add(discarding := asyncio.get_running_loop().create_task(worker.discard()))
            discarding.add_done_callback(self._discarding.discard)
            asyncio.get_running_loop().call_later(DEATH_SECONDS, self.fill)

    async def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._filling is not None:
            self._filling.cancel()
            await asyncio.gather(self._filling, return_exceptions=True)
        while self._waiting:
            await self._waiting.popleft().discard()
