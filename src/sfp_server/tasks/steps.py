"""The statements of a dispatcher, and patience with a database that is away."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sfp_server.db.queries import load
from sfp_server.errors import Unavailable

SQL = load("sfp_server.tasks", "dispatch.sql")

#: seconds between tries while the database is away
_RETRY_SECONDS = 0.5

Answer = TypeVar("Answer")


async def persistently(step: Callable[[], Awaitable[Answer]], *, wanted: Callable[[], bool] = lambda: True) -> Answer:
    """Repeat a database step until the database is there: what a worker did must not be lost to a restart.

    Raises Unavailable when it is not `wanted` any more.
    """
    while True:
        try:
            return await step()
        except Unavailable:
            if not wanted():
                raise
            await asyncio.sleep(_RETRY_SECONDS)
