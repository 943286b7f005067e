"""What a worker reports on its way, written down as it comes.

While the database is away a report waits, and so does the worker. An attempt that is no longer the current one
writes nothing: the statements name the attempt, and its end is asked for.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from sfp_server.db.database import Database
from sfp_server.db.queries import load
from sfp_server.errors import Unavailable
from sfp_server.runtimes.base import Failure, LogLine
from sfp_server.tasks.artifacts import ArtifactStore, Draft
from sfp_server.tasks.model import Claimed

SQL = load("sfp_server.tasks", "dispatch.sql")

#: seconds between tries while the database is away
_RETRY_SECONDS = 0.5

Answer = TypeVar("Answer")


async def persistently(step: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a database step until the database is there: what a worker did must not be lost to a restart."""
    while True:
        try:
            return await step()
        except Unavailable:
            await asyncio.sleep(_RETRY_SECONDS)


class Reports:
    """The attendant of one attempt: writes what the worker reports, and notices when the attempt is stale."""

    def __init__(self, database: Database, store: ArtifactStore, task: Claimed, stale: Callable[[], None]) -> None:
        self.ticket: str | None = None
        self.kept: list[dict[str, Any]] = []
        self.failure: Failure | None = None
        self._database = database
        self._store = store
        self._task = task
        self._stale = stale
        self._draft: Draft | None = None
        #: lines handed over so far: a batch whose answer was lost is told from the next one by it
        self._logged = 0

    async def log(self, lines: Sequence[LogLine]) -> None:
        events = [
            {
                "stream": line.stream,
                "level": "error" if line.stream == "stderr" else "info",
                "message": line.message,
                "attempt": self._task.attempt,
            }
            for line in lines
        ]
        after, self._logged = self._logged, self._logged + len(events)
        await self._tell(SQL["log_lines"], self._task.id, self._task.attempt, after, events)

    async def progress(self, percent: int, text: str) -> None:
        await self._tell(SQL["progress"], self._task.id, self._task.attempt, percent, text)

    async def artifact(self, name: str, chunk: bytes, *, last: bool) -> None:
        if self.failure is not None:
            return
        try:
            if self._draft is None:
                self._draft = self._store.draft()
            self._draft.write(chunk)
            if last:
                draft, self._draft = self._draft, None
                await self._keep(name, draft)
        except OSError as error:
            self.failure = Failure(code="artifact", message=f"{name} could not be kept: {error.strerror}")
            self.close()

    def close(self) -> None:
        """Forget a file whose end never came."""
        if self._draft is not None:
            self._draft.discard()
            self._draft = None

    async def _keep(self, name: str, draft: Draft) -> None:
        stored = draft.keep()
        task = self._task
        if await self._write(SQL["add_kept"], stored.id, task.id, task.attempt, name, stored.size, stored.sha256):
            self.kept.append({"id": str(stored.id), "name": name, "size": stored.size, "sha256": stored.sha256})
        else:
            self._store.remove(stored.id)

    async def _write(self, statement: str, *values: Any) -> Any:
        async def once() -> Any:
            async with self._database.serving(self._task.team_id) as tx:
                return await tx.value(statement, *values)

        return self._checked(await persistently(once))

    async def _tell(self, statement: str, *values: Any) -> None:
        """As `_write`, for functions of the database that enter the task's team by themselves: one round trip."""

        async def once() -> Any:
            async with self._database.separately() as tx:
                return await tx.value(statement, *values)

        self._checked(await persistently(once))

    def _checked(self, answer: Any) -> Any:
        if answer is None or answer is False:
            self._stale()
        return answer
