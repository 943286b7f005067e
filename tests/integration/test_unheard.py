"""A claim whose answer never came: the database says that the task is ours, and we do not know it."""

import pytest

from sfp_server.errors import Unavailable
from sfp_server.tasks.dispatcher import Dispatcher


async def test_a_task_claimed_without_our_hearing_of_it_runs_at_once(world, monkeypatch: pytest.MonkeyPatch):
    claim = Dispatcher._claim
    lost: list[object] = []

    async def claim_and_lose(self: Dispatcher) -> object:
        row = await claim(self)
        if row is not None and not lost:
            lost.append(row["id"])
            raise Unavailable("the connection broke after the commit")
        return row

    monkeypatch.setattr(Dispatcher, "_claim", claim_and_lose)
    task_id = await world.submit("/bin/echo", "ran")
    row = await world.until(task_id)
    assert (lost, row["status"], row["attempt"]) == ([task_id], "completed", 1)
    assert await world.lines(task_id) == ["ran"]
