"""The database did it, and the answer never came: nothing is lost, nothing happens twice."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from sfp_server.db.database import Database, Tx
from sfp_server.errors import Unavailable
from sfp_server.tasks.exchange import Exchange


async def test_a_task_claimed_without_our_hearing_of_it_runs_at_once(world, monkeypatch: pytest.MonkeyPatch):
    step = Exchange.step
    lost: list[object] = []

    async def take_and_lose(self: Exchange, *args, **kwargs) -> object:
        rows = await step(self, *args, **kwargs)
        if rows and not lost:
            lost.extend(row["id"] for row in rows)
            raise Unavailable("the connection broke after the commit")
        return rows

    monkeypatch.setattr(Exchange, "step", take_and_lose)
    task_id = await world.submit("/bin/echo", "ran")
    row = await world.until(task_id)
    assert (lost, row["status"], row["attempt"]) == ([task_id], "completed", 1)
    assert await world.lines(task_id) == ["ran"]


async def test_log_lines_written_unheard_are_not_written_again(world, monkeypatch: pytest.MonkeyPatch):
    separately = Database.separately
    lost: list[str] = []

    @asynccontextmanager
    async def separately_and_lose(self: Database) -> AsyncGenerator[Tx]:
        async with separately(self) as tx:
            yield _Losing(tx, lost)

    monkeypatch.setattr(Database, "separately", separately_and_lose)
    task_id = await world.submit("sh", "-c", "for i in 1 2 3; do echo same; sleep 0.3; done")
    assert (await world.until(task_id))["status"] == "completed"
    assert len(lost) >= 2
    assert await world.lines(task_id) == ["same"] * 3


class _Losing:
    """Passes everything on; the first answer to each batch of log lines is lost with its connection."""

    def __init__(self, tx: Tx, lost: list[str]) -> None:
        self._tx = tx
        self._lost = lost

    def __getattr__(self, name: str) -> object:
        return getattr(self._tx, name)

    async def value(self, statement: str, *values: object) -> object:
        answer = await self._tx.value(statement, *values)
        batch = str(values)
        if "log_lines" in statement and batch not in self._lost:
            self._lost.append(batch)
            raise Unavailable("the connection broke after the commit")
        return answer
