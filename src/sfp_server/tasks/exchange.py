"""Where ended attempts are handed in and waiting tasks are taken, in one statement.

One exchange is under way at a time; what ends meanwhile goes with the next one, as PostgreSQL does it with commits. So
a dispatcher's statements never wait for each other's locks, and the busier it is, the less each task costs.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from sfp_server.db.database import Database, Row
from sfp_server.errors import SfpError
from sfp_server.runtimes.base import Exit
from sfp_server.tasks.model import Claimed, Status, TaskError
from sfp_server.tasks.reports import SQL

#: attempts handed in, and tasks taken, at once
MOST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ends."""

    status: Status
    error: TaskError | None = None
    result: Mapping[str, Any] | None = None
    exit: Exit = field(default_factory=Exit)

    @property
    def attempt_status(self) -> str:
        code = self.error.code if self.error else None
        return {"worker_lost": "lost", "preempted": "preempted"}.get(code or "", str(self.status))


def ending(task: Claimed, outcome: Outcome) -> dict[str, Any]:
    """An outcome as the database's type `ending`: with the delay of the retry, where one is left."""
    error, exit_ = outcome.error, outcome.exit
    again = error is not None and error.retryable and outcome.status is Status.FAILED
    return {
        "task_id": task.id,
        "attempt": task.attempt,
        "status": str(outcome.status),
        "error": {"code": error.code, "message": error.message, "retryable": error.retryable} if error else None,
        "result": outcome.result,
        "exit_code": exit_.code,
        "signal": exit_.signal,
        "usage": {
            "cpuSeconds": exit_.usage.cpu_seconds,
            "peakMemoryBytes": exit_.usage.peak_memory_bytes,
            "outputBytes": exit_.usage.output_bytes,
        },
        "attempt_status": outcome.attempt_status,
        "retry_after": task.retry.delay_after(task.attempt - task.preemptions) if again else None,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Handed:
    ending: dict[str, Any]
    #: whether the attempt was the current one
    answer: "asyncio.Future[bool]"


class Exchange:
    """The dispatcher calls `step` whenever it was told that something may have changed."""

    def __init__(self, database: Database, dispatcher_id: UUID, *, wake: Callable[[], None]) -> None:
        self._database = database
        self._dispatcher_id = dispatcher_id
        self._wake = wake
        self._handed: list[_Handed] = []

    @property
    def is_waited_for(self) -> bool:
        """True while attempts have been handed in that no step has taken to the database."""
        return bool(self._handed)

    async def finish(self, task: Claimed, outcome: Outcome) -> bool:
        """End an attempt with its event, or put its task back in line when a retry is left.

        Waits while the database is away. False: the attempt is not the current one, and nothing was changed.
        """
        answer = asyncio.get_running_loop().create_future()
        self._handed.append(_Handed(ending=ending(task, outcome), answer=answer))
        self._wake()
        return await answer

    async def step(self, offered: Sequence[str], rules: tuple[int, int], *, up_to: int) -> list[Row]:
        """Hand in what has ended and take up to `up_to` tasks; answers these.

        What could not be handed in stays for the next step. Raises Unavailable.
        """
        handed, self._handed = self._handed[:MOST], self._handed[MOST:]
        try:
            rows = await self._trade([one.ending for one in handed], offered, rules, min(up_to, MOST))
        except SfpError:
            self._handed = handed + self._handed
            raise
        except Exception:
            if not handed:
                raise
            await self._one_by_one(handed)  # one of them breaks the statement: the others must not suffer
            return []
        ended = {row["ended"] for row in rows}
        for one in handed:
            _tell(one, answer=one.ending["task_id"] in ended)
        return [row for row in rows if row["ended"] is None]

    async def _trade(
        self, endings: list[dict[str, Any]], offered: Sequence[str], rules: tuple[int, int], up_to: int
    ) -> Sequence[Row]:
        async with self._database.separately() as tx:
            return await tx.all(SQL["exchange"], endings, self._dispatcher_id, offered, *rules, up_to)

    async def _one_by_one(self, handed: list[_Handed]) -> None:
        for place, one in enumerate(handed):
            try:
                async with self._database.separately() as tx:
                    _tell(one, answer=bool(await tx.all(SQL["finish"], [one.ending])))
            except SfpError:
                self._handed = handed[place:] + self._handed
                raise
            except Exception as error:
                if not one.answer.done():
                    one.answer.set_exception(error)


def _tell(one: _Handed, *, answer: bool) -> None:
    if not one.answer.done():
        one.answer.set_result(answer)


async def finish_lost(database: Database, task: Claimed, outcome: Outcome) -> bool:
    """End an attempt that nobody runs any more. False: somebody else did. Raises Unavailable."""
    async with database.separately() as tx:
        return bool(await tx.all(SQL["finish"], [ending(task, outcome)]))
