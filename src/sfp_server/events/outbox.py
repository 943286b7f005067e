"""What waits to be sent to one client: bounded, so that a client that does not read costs nobody else anything."""

import asyncio
from collections import deque
from collections.abc import Sequence

from sfp_server.events.model import Frame

#: frames and characters that may wait
ITEMS_MAX, SIZE_MAX = 1000, 1024 * 1024
#: seconds: a client that does not make room in this time is slow
STALL = 5.0


class SlowReader(Exception):
    """The client does not read what it asked for."""


class Outbox:
    """A queue of frames (and of ready texts) with one reader; the writers either offer, or wait for room."""

    def __init__(self, *, items_max: int = ITEMS_MAX, size_max: int = SIZE_MAX, stall: float = STALL) -> None:
        self._items_max, self._size_max, self._stall = items_max, size_max, stall
        self._items: deque[Frame | str] = deque()
        self._size = 0
        self._filled = asyncio.Event()
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._is_sending = False
        self._empty = asyncio.Event()
        #: done when it will not be served any more: with what went wrong, or None
        self.broken: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def __len__(self) -> int:
        return len(self._items)

    def offer(self, frames: Sequence[Frame]) -> int:
        """Take as many of `frames` as there is room for, in order, at once; answer how many."""
        for count, frame in enumerate(frames):
            if self._is_full(frame.size):
                self._roomy.clear()
                return count
            self._add(frame, frame.size)
        return len(frames)

    async def put(self, item: Frame | str) -> None:
        """Take one item, waiting for room. Raises SlowReader when none is made in time."""
        size = item.size if isinstance(item, Frame) else len(item)
        while self._is_full(size):
            self._roomy.clear()
            try:
                await asyncio.wait_for(self._roomy.wait(), self._stall)
            except TimeoutError as error:
                raise SlowReader from error
        self._add(item, size)

    async def filled(self) -> None:
        """Wait until there is something to take."""
        while not self._items:
            self._filled.clear()
            await self._filled.wait()

    async def take(self) -> Frame | str:
        """The next item, waiting for one."""
        await self.filled()
        item = self._items.popleft()
        self._is_sending = True
        self._size -= item.size if isinstance(item, Frame) else len(item)
        # Half empty, not one free place: else each waiting writer would be woken for each item.
        if len(self._items) <= self._items_max // 2 and self._size <= self._size_max // 2:
            self._roomy.set()
        return item

    def done(self) -> None:
        """What was taken last has been sent."""
        self._is_sending = False
        if not self._items:
            self._empty.set()

    async def sent(self) -> None:
        """Wait until all of it has been taken and sent."""
        while self._items or self._is_sending:
            self._empty.clear()
            await self._empty.wait()

    def clear(self) -> None:
        """Forget what waits."""
        self._items.clear()
        self._size = 0
        self._roomy.set()

    def fail(self, why: Exception) -> None:
        """Say that this outbox is not served any more; the first reason counts."""
        if not self.broken.done():
            self.broken.set_result(why)

    def _is_full(self, size: int) -> bool:
        """One item always fits into an empty outbox, however large."""
        return bool(self._items) and (len(self._items) >= self._items_max or self._size + size > self._size_max)

    def _add(self, item: Frame | str, size: int) -> None:
        self._items.append(item)
        self._size += size
        self._filled.set()
