"""Rules of waiting, cancelling and timing that were once broken, each from outside the statement that keeps it."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from sfp_server.errors import Conflict, Unprocessable
from sfp_server.kinds import KINDS
from sfp_server.tasks import answers, explain, service, wire
from sfp_server.tasks.model import Status
from sfp_server.web.wire import convert

EVERY_SECOND = {"intervalSeconds": 1}


@pytest.fixture
async def held(world):
    """A world whose dispatcher has left: what happens is what the test makes happen."""
    await world.close()
    world.dispatchers.clear()
    return world


TAKE = "SELECT * FROM take_tasks('00000000-0000-7000-8000-000000000001', '{sandbox}', 0, 3, 1, $1)"


async def claim(world, queue="normal"):
    async with world.engine.database.serving() as tx:
        return await tx.one(TAKE, [queue])


async def finish(world, task_id, attempt, status, *, code=None, delay=None, as_attempt=None):
    error = {"code": code, "message": "it said so", "retryable": True} if code else None
    how = {"task_id": task_id, "attempt": attempt, "status": status, "error": error, "result": {"exitCode": 0}}
    how |= {"exit_code": 0, "attempt_status": as_attempt or status, "retry_after": delay}
    async with world.engine.database.serving() as tx:
        return await tx.value("SELECT finish($1)", [how])


async def cancel(world, task_id):
    async with world.api.transaction(world.owner) as tx:
        return await service.cancel(tx, world.owner, task_id)


async def overdue(world):
    """Ids of the tasks that a look at the queue timeouts fails."""
    failed = []
    while row := await _overdue(world):
        failed.append(row["id"])
    return failed


async def _overdue(world):
    async with world.engine.database.serving() as tx:
        return await tx.one(world.dispatch_sql["overdue"], {"code": "queue_timeout", "message": "x"})


async def test_tasks_of_one_bulk_run_in_their_order(held):
    body = convert({"type": "command", "data": {"argv": ["true"]}}, wire.SubmitTask)
    checked = [service.check(body, KINDS, held.settings)] * 200
    async with held.api.transaction(held.owner) as tx:
        rows = await service.submit_all(tx, held.owner, checked, held.settings, request_id="x")
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert [(await claim(held))["id"] for _ in range(2)] == [row["id"] for row in rows[:2]]


@pytest.mark.parametrize(
    ("status", "code", "delay", "as_attempt"),
    [
        ("completed", None, None, None),
        ("failed", "exit_code", None, None),
        ("failed", "exit_code", 0.0, None),
        ("failed", "worker_lost", 5.0, "lost"),
        ("pending", "preempted", None, "preempted"),
    ],
)
async def test_who_was_told_that_a_task_is_being_cancelled_sees_it_cancelled(held, status, code, delay, as_attempt):
    task_id = await held.submit("/bin/true", retryConfig={"maxAttempts": 5})
    await claim(held)
    assert await cancel(held, task_id) == "active"
    assert await finish(held, task_id, 1, status, code=code, delay=delay, as_attempt=as_attempt)
    task = await held.admin.fetchrow("SELECT status, error, result FROM tasks WHERE id = $1", task_id)
    assert (task["status"], json.loads(task["error"])["code"]) == ("cancelled", "cancelled")
    assert json.loads(task["result"]) == {"exitCode": 0}
    events = await held.admin.fetch("SELECT event FROM events WHERE channel = 'tasks' ORDER BY seq")
    assert [row["event"] for row in events] == ["task.created", "task.started", "task.cancelled"]
    tried = await held.admin.fetchval("SELECT status FROM attempts WHERE task_id = $1", task_id)
    assert tried == ("lost" if as_attempt == "lost" else "cancelled")


async def test_a_queue_timeout_counts_the_time_in_line_only(held):
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    due_later = await held.submit("/bin/true", scheduleType="scheduled", scheduledFor=later, queueTimeoutSeconds=5)
    series = await held.submit(
        "/bin/true", scheduleType="recurring", recurrenceConfig={"intervalSeconds": 3600}, queueTimeoutSeconds=5
    )
    past = await held.submit(
        "/bin/true", scheduleType="scheduled", scheduledFor="2020-01-01T00:00:00Z", queueTimeoutSeconds=5
    )
    assert await overdue(held) == []
    waited = await held.submit("/bin/true", queueTimeoutSeconds=5)
    old = "UPDATE tasks SET created_at = now() - interval '2 hours', due_at = {} WHERE id = $1"
    for task_id in (due_later, series):
        await held.admin.execute(old.format("now() + interval '1 hour'"), task_id)
    await held.admin.execute(old.format("now() - interval '6 seconds'"), waited)
    assert await overdue(held) == [waited]
    assert (await claim(held))["id"] == past  # ours, and it may go on


async def test_a_queue_timeout_does_not_fail_what_made_room(held):
    task_id = await held.submit("/bin/true", priority="batch", queueTimeoutSeconds=5)
    await claim(held, "batch")
    await held.admin.execute(
        "UPDATE tasks SET created_at = now() - interval '1 hour', due_at = now() - interval '1 hour' WHERE id = $1",
        task_id,
    )
    assert await finish(held, task_id, 1, "pending", code="preempted", as_attempt="preempted")
    assert await overdue(held) == []


async def test_urgent_work_borrows_no_slot_that_somebody_waits_for_since_long(held):
    await held.admin.execute("UPDATE queues SET slots = 1")
    urgent = [await held.submit("/bin/true", priority="critical") for _ in range(4)]
    normal = await held.submit("/bin/true")
    assert [(await claim(held, "critical"))["id"] for _ in range(2)] == urgent[:2]  # the second one on a lent slot
    await held.admin.execute("UPDATE tasks SET due_at = now() - interval '31 seconds' WHERE id = $1", normal)
    assert await claim(held, "critical") is None
    assert (await claim(held))["id"] == normal
    assert await claim(held, "critical") is None  # both shared slots are taken now
    batch = await held.submit("/bin/true", priority="batch")
    await finish(held, urgent[1], 1, "completed")
    await held.admin.execute("UPDATE tasks SET due_at = now() - interval '31 seconds' WHERE id = $1", batch)
    assert await claim(held, "critical") is None
    assert (await claim(held, "batch"))["id"] == batch
    await finish(held, normal, 1, "completed")
    assert (await claim(held, "critical"))["id"] == urgent[2]  # nobody else waits


async def test_a_reason_is_not_explained_with_an_older_one(held):
    task_id = await held.submit("/bin/true", priority="batch")
    await claim(held, "batch")
    await finish(held, task_id, 1, "pending", code="preempted", as_attempt="preempted")

    async def told():
        async with held.engine.database.serving() as tx:
            await tx.execute(held.dispatch_sql["explain"], 0)
        return tuple(await held.admin.fetchrow("SELECT reason, reason_detail FROM tasks WHERE id = $1", task_id))

    made_room = await told()
    assert made_room == ("queued", "made room for more urgent work; it runs again")
    await held.admin.execute("UPDATE queues SET paused = true")
    assert await told() == ("paused", "the queue batch is paused")
    await held.admin.execute("UPDATE queues SET paused = false")
    assert await told() == made_room


async def test_what_waits_for_its_time_says_when(held):
    later = await held.submit("/bin/true", scheduleType="scheduled", scheduledFor="2999-01-01T00:00:00Z")
    retried = await held.submit("/bin/false", retryConfig={"maxAttempts": 3})
    await claim(held)
    await finish(held, retried, 1, "failed", code="exit_code", delay=60)
    async with held.api.transaction(held.owner) as tx:
        rows = [await service.get(tx, task_id) for task_id in (later, retried)]
        explained = [await explain.explain(tx, row) for row in rows]
    due = f"{rows[1]['due_at']:%Y-%m-%dT%H:%M:%SZ}"
    wanted = [
        ("scheduled", "due at 2999-01-01T00:00:00Z"),
        ("retry", f"attempt 1 of 3 ended: it said so; the next is due at {due}"),
    ]
    assert [(told.reason, told.reason_detail) for told in map(answers.status, rows)] == wanted
    assert [(told.reasons[0].reason, told.reasons[0].detail) for told in explained] == wanted


async def test_a_program_that_is_not_there_is_not_tried_again(world):
    task = await world.run("no-such-program", retryConfig={"maxAttempts": 3, "delaySeconds": 0})
    error = json.loads(task["error"])
    assert (task["attempt"], error["code"], error["retryable"]) == (1, "cannot_start", False)


async def test_a_retry_is_linked_both_ways(held):
    old = await held.submit("/bin/true")
    await claim(held)
    await finish(held, old, 1, "failed", code="exit_code")
    async with held.api.transaction(held.owner) as tx:
        new = await service.retry(tx, held.owner, old, request_id="x")
    async with held.api.transaction(held.owner) as tx:
        found = [(await service.get(tx, one))["retry_of"] for one in (old, new["id"])]
        retries = [await service.retries(tx, one) for one in (old, new["id"])]
    assert (found, retries) == ([None, old], [[new["id"]], []])


async def test_an_attempt_knows_its_log_lines(world):
    retry = {"maxAttempts": 2, "delaySeconds": 0}
    task = await world.run("/bin/sh", "-c", "echo $SFP_ATTEMPT; exit 1", retryConfig=retry)
    numbers = await world.admin.fetch(
        "SELECT seq FROM events WHERE channel = 'task:' || $1::uuid AND event = 'task.log' ORDER BY seq", task["id"]
    )
    attempts = await world.admin.fetch("SELECT * FROM attempts WHERE task_id = $1 ORDER BY attempt", task["id"])
    assert len(numbers) == 2
    for line, attempt in zip(numbers, attempts, strict=True):
        assert attempt["first_seq"] < line["seq"] <= attempt["last_seq"]


async def test_a_series_is_not_retried(held):
    series = await held.submit("/bin/true", scheduleType="recurring", recurrenceConfig=EVERY_SECOND)
    await cancel(held, series)
    async with held.api.transaction(held.owner) as tx:
        with pytest.raises(Conflict):
            await service.retry(tx, held.owner, series, request_id="x")


async def test_the_clock_of_the_database_decides_when_a_series_begins(held, monkeypatch):
    class Slow(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2020, 1, 1, tzinfo=tz)

    monkeypatch.setattr(service, "datetime", Slow, raising=False)
    config = {"cron": "* * * * *"}
    series = await held.submit("/bin/true", scheduleType="recurring", recurrenceConfig=config)
    first = await held.admin.fetchval("SELECT next_at FROM schedules WHERE task_id = $1", series)
    assert timedelta(0) <= first - datetime.now(UTC) <= timedelta(seconds=61)


async def test_one_broken_series_does_not_stop_the_others(world):
    broken = await world.submit("/bin/true", scheduleType="recurring", recurrenceConfig=EVERY_SECOND)
    await world.admin.execute(
        """UPDATE schedules SET config = '{"cron": "nonsense", "overlap": "skip", "missed": "once"}', next_at = now()"""
        " WHERE task_id = $1",
        broken,
    )
    sound = await world.submit("/bin/true", scheduleType="recurring", recurrenceConfig={**EVERY_SECOND, "maxRuns": 1})
    assert (await world.until(sound))["status"] == "completed"
    ended = await world.until(broken)
    assert (ended["status"], json.loads(ended["error"])["code"]) == ("failed", "internal")


async def test_missed_runs_that_are_all_made_up_for_line_up(held):
    config = {"intervalSeconds": 60, "missed": "all", "overlap": "skip"}
    series = await held.submit("/bin/true", scheduleType="recurring", recurrenceConfig=config)
    began = datetime.now(UTC) - timedelta(minutes=4, seconds=30)
    await held.admin.execute("UPDATE tasks SET created_at = $2 WHERE id = $1", series, began)
    await held.admin.execute("UPDATE schedules SET next_at = $2 WHERE task_id = $1", series, began)
    await held.fire()
    rows = await held.admin.fetch("SELECT DISTINCT concurrency_key FROM tasks WHERE series_id = $1", series)
    made = await held.admin.fetchrow("SELECT runs, skipped FROM schedules WHERE task_id = $1", series)
    assert (tuple(made), [row[0] for row in rows]) == ((5, 0), [f"series:{series}"])


async def test_errors_of_a_bulk_name_their_task(held):
    def body(**fields):
        return {"type": "command", "data": {"argv": ["true"]}, **fields}

    async def refused(last):
        with pytest.raises(Unprocessable) as error:
            await submit_both(body(), last)
        return error.value.errors[0].path

    async def submit_both(*bodies):
        checked = [
            service.check(convert(one, wire.SubmitTask), KINDS, held.settings, at=f"tasks[{number}].")
            for number, one in enumerate(bodies)
        ]
        async with held.api.transaction(held.owner) as tx:
            await service.submit_all(tx, held.owner, checked, held.settings, request_id="x")

    nothing = "00000000-0000-7000-8000-000000000000"
    assert await refused(body(limits={"memoryMb": 10**8})) == "tasks[1].limits.memoryMb"
    assert await refused(body(credentials=[{"type": "salesforce", "org": "x"}])) == "tasks[1].credentials[0]"
    assert await refused(body(credentials=[{"type": "secret", "name": "n", "env": "E"}])) == "tasks[1].credentials"
    artifact = {"argv": ["true"], "workspace": {"artifact": nothing}}
    assert await refused(body(data=artifact)) == "tasks[1].data"
    ended = {"intervalSeconds": 5, "endAt": "2001-01-01T00:00:00Z"}
    assert await refused(body(scheduleType="recurring", recurrenceConfig=ended)) == "tasks[1].recurrenceConfig.endAt"
    assert await held.admin.fetchval("SELECT count(*) FROM tasks") == 0


async def test_uploads_and_occurrences_do_not_stay_for_ever(held):
    add = (
        "INSERT INTO artifacts (team_id, name, size, sha256, created_by, created_at)"
        " VALUES ($1, 'x', 1, '', 'x', now() - $2 * interval '1 day') RETURNING id"
    )
    named, old, young = [await held.admin.fetchval(add, held.owner.team_id, days) for days in (100.0, 100.0, 80.0)]
    series = await held.submit("/bin/true", scheduleType="recurring", recurrenceConfig=EVERY_SECOND)
    await held.submit("/bin/true", data={"workspace": {"artifact": str(named)}})
    await held.admin.execute(
        "INSERT INTO occurrences SELECT $1, now() - days * interval '1 day', $2 FROM unnest('{0,2}'::int[]) AS days",
        series,
        held.owner.team_id,
    )
    async with held.engine.database.serving() as tx:
        removed = await tx.all(held.dispatch_sql["drop_old_tasks"], 90)
        await tx.all(held.dispatch_sql["drop_old_events"], 90)
    assert [row["drop_old_tasks"] for row in removed] == [old]
    assert {row["id"] for row in await held.admin.fetch("SELECT id FROM artifacts")} == {named, young}
    assert await held.admin.fetchval("SELECT count(*) FROM occurrences") == 1


class Hanging:
    """A runtime whose engine never answers."""

    name = "process"

    def __init__(self):
        self.asked, self.left = asyncio.Event(), asyncio.Event()

    async def start(self, workload, attendant):
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    def isolation(self):
        return {"runtime": self.name}


@pytest.mark.parametrize("end", ["cancel", "timeout"])
async def test_a_worker_that_never_comes_up_can_be_ended(world, end):
    runtime = world.engine.runtimes["process"] = Hanging()
    limit = {"timeoutSeconds": 1} if end == "timeout" else {}
    task_id = await world.submit("/bin/true", runtime="process", **limit)
    async with asyncio.timeout(20):
        await runtime.asked.wait()
        if end == "cancel":
            assert await cancel(world, task_id) == "active"
        await runtime.left.wait()
    task = await world.until(task_id)
    wanted = ("cancelled", "cancelled") if end == "cancel" else ("failed", "timeout")
    assert (task["status"], json.loads(task["error"])["code"]) == wanted


EXPLAIN = "SELECT reason, count(*) FROM tasks WHERE status = 'pending' GROUP BY 1 ORDER BY 1"


async def explained(world):
    """How many rows a look at the reasons changed, and what they are then."""
    async with world.engine.database.serving() as tx:
        changed = await tx.execute(world.dispatch_sql["explain"], 0)
    return changed, dict(await world.admin.fetch(EXPLAIN))


async def test_many_tasks_of_one_key_cost_the_others_nothing(held):
    """They are not read at each claim, and not written each time that the key passes on."""
    await held.admin.execute("UPDATE queues SET slots = 5")
    pile = [await held.submit("/bin/true", concurrencyKey="k") for _ in range(30)]
    assert (await claim(held))["id"] == pile[0]
    assert await explained(held) == (29, {"concurrency": 29})
    assert await claim(held) is None
    for before, following in pairwise(pile[:4]):
        await finish(held, before, 1, "completed")
        reasons = dict(await held.admin.fetch(EXPLAIN))
        assert reasons["queued"] == 1  # at once, without a look
        assert await explained(held) == (0, reasons)
        assert (await claim(held))["id"] == following
        assert (await explained(held))[0] <= 1
    async with held.api.transaction(held.owner) as tx:
        last = await service.get(tx, pile[-1])
    assert last["held_by"] == pile[3]


async def test_a_key_passes_on_although_its_next_task_is_cancelled_or_cannot_run(held):
    await held.admin.execute("UPDATE queues SET slots = 5")
    first = await held.submit("/bin/true", concurrencyKey="k")
    await claim(held)
    nowhere = await held.submit("/bin/true", concurrencyKey="k", runtime="kubernetes")
    unwanted = await held.submit("/bin/true", concurrencyKey="k")
    last = await held.submit("/bin/true", concurrencyKey="k", priority="batch")
    await explained(held)
    await finish(held, first, 1, "completed")
    await cancel(held, unwanted)
    _, reasons = await explained(held)
    assert reasons == {"no_runtime": 1, "queued": 1}
    assert (await claim(held, "batch"))["id"] == last
    assert await held.admin.fetchval("SELECT status FROM tasks WHERE id = $1", nowhere) == "pending"


async def test_a_busy_key_is_told_before_anybody_looked(held):
    """With very much waiting, the dispatcher looks at the reasons less often than every second."""
    await held.admin.execute("INSERT INTO dispatchers (id, host, pid, runtimes) VALUES (uuid7(), 'x', 1, '{sandbox}')")
    first, second = [await held.submit("/bin/true", concurrencyKey="k") for _ in range(2)]
    await claim(held)
    async with held.api.transaction(held.owner) as tx:
        task = await service.get(tx, second)
        told = await explain.explain(tx, task)
        rows = await service.listed(tx, service.Filter(status=Status.PENDING), after=None, limit=5)
    wanted = ("concurrency", f"the key k is held by task {first}")
    assert (told.reasons[0].reason, told.reasons[0].detail) == wanted
    assert [(item.reason, item.reason_detail) for item in map(answers.in_list, rows)] == [wanted]
