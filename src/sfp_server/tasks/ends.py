"""Waiting for the end of a task in a plain HTTP request: nobody has to ask again and again.

Each API process listens for ends (one short notification per task). They only wake: what happened is read from the
table, with the caller's own rights, and is looked for every second anyway.
"""

import asyncio
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

import structlog

from sfp_server.db.database import Database
from sfp_server.errors import SfpError

log = structlog.get_logger()

#: seconds between two looks when no notification comes
_LOOK_SECONDS = 1.0


class End:
    """The end of one task, as one request waits for it."""

    def __init__(self) -> None:
        self.heard = asyncio.Event()

    async def soon(self, deadline: float) -> None:
        """Wait until the task may have ended, a second has passed, or the deadline (the loop's time) has come."""
        left = min(_LOOK_SECONDS, deadline - asyncio.get_running_loop().time())
        try:
            await asyncio.wait_for(self.heard.wait(), max(0.0, left))
        except TimeoutError:
            return
        self.heard.clear()


class Ends:
    """The tasks whose end somebody waits for in this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: defaultdict[UUID, set[End]] = defaultdict(set)

    async def run(self) -> None:
        """Listen until cancelled; while the database is away, those who wait look by themselves."""
        while True:
            try:
                await self._database.listen("sfp_ends", self._heard, connected=lambda: None)
            except SfpError as error:
                log.warning("cannot listen for ends", why=str(error))
                await asyncio.sleep(_LOOK_SECONDS)

    @contextmanager
    def watching(self, task_id: UUID) -> Generator[End]:
        """Hear of a task's end. Enter first and look then, so that no end is missed."""
        end = End()
        self._waiting[task_id].add(end)
        try:
            yield end
        finally:
            self._waiting[task_id].discard(end)
            if not self._waiting[task_id]:
                del self._waiting[task_id]

    def _heard(self, payload: str) -> None:
        for end in self._waiting.get(UUID(payload), ()):
            end.heard.set()
