"""What a worker reports on its way, written down as it comes.

While the database is away a report waits, and so does the worker. An attempt that is no longer the current one
writes nothing: the statements name the attempt, and its end is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sfp_server.db.database import Database
from sfp_server.runtimes.base import Failure, LogLine
from sfp_server.tasks.artifacts import Draft
from sfp_server.tasks.delivery import Delivery
from sfp_server.tasks.model import Claimed
from sfp_server.tasks.steps import SQL, persistently


class Reports:
    """The attendant of one attempt: writes what the worker reports, and notices when the attempt is stale."""

    def __init__(self, database: Database, delivery: Delivery, task: Claimed, stale: Callable[[], None]) -> None:
        self.ticket: str | None = None
        self.kept: list[dict[str, Any]] = []
        self.failure: Failure | None = None
        self._database = database
        self._delivery = delivery
        self._task = task
        self._stale = stale
        self._draft: Draft | None = None
        self._closed = False
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
        if self.failure is not None or self._closed:
            return
        try:
            if self._draft is None:
                self._draft = self._delivery.draft()
            self._draft.write(chunk)
            if last:
                draft, self._draft = self._draft, None
                await self._keep(name, draft)
        except OSError as error:
            self.failure = Failure(code="artifact", message=f"{name} could not be kept: {error.strerror}")
            self._forget_draft()

    def close(self) -> None:
        """Nobody waits for reports any more: forget a file whose end never came."""
        self._closed = True
        self._forget_draft()

    def _forget_draft(self) -> None:
        if self._draft is not None:
            self._draft.discard()
            self._draft = None

    async def _keep(self, name: str, draft: Draft) -> None:
        stored = await self._delivery.keep(self._task, name, draft, wanted=lambda: not self._closed)
        self._checked(stored)
        if stored is not None:
            self.kept.append({"id": str(stored.id), "name": name, "size": stored.size, "sha256": stored.sha256})

    async def _tell(self, statement: str, *values: Any) -> None:
        """The database's functions enter the task's team by themselves: one round trip."""

        async def once() -> Any:
            async with self._database.separately() as tx:
                return await tx.value(statement, *values)

        self._checked(await persistently(once, wanted=lambda: not self._closed))

    def _checked(self, answer: Any) -> Any:
        if answer is None or answer is False:
            self._stale()
        return answer
