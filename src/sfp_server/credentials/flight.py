"""Single flight: who asks for what is being fetched waits for that, instead of fetching it once more."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

Made = TypeVar("Made")


class Flights:
    """What is under way, by key. Nothing is kept: whoever asks after the end starts anew."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Future[Any]] = {}

    async def share(self, key: Hashable, make: Callable[[], Awaitable[Made]]) -> Made:
        """The outcome of `make`, which runs once for all that ask meanwhile; its error reaches them all.

        One that stops waiting does not end it for the others.
        """
        flight = self._under_way.get(key)
        if flight is None:
            flight = asyncio.ensure_future(make())
            self._under_way[key] = flight
            flight.add_done_callback(lambda done: self._landed(key, done))
        return await asyncio.shield(flight)

    def _landed(self, key: Hashable, done: "asyncio.Future[Any]") -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # it counts as seen, should nobody wait any more
