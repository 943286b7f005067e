"""Order, fairness, room, rhythm: what the queue promises beyond running a task."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import pytest

from sfp_server.actor import Actor, Role
from sfp_server.errors import Conflict, Malformed, NotFinished, QuotaExceeded
from sfp_server.kinds import KINDS
from sfp_server.settings import Settings
from sfp_server.tasks import answers, explain, service, wire
from sfp_server.tasks.reports import persistently
from sfp_server.web.wire import convert


async def slots(world, critical: int, normal: int, batch: int) -> None:
    for name, number in (("critical", critical), ("normal", normal), ("batch", batch)):
        await world.admin.execute("UPDATE queues SET slots = $2 WHERE name = $1", name, number)


async def second_team(world) -> Actor:
    team = await world.admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    user = await world.admin.fetchval("INSERT INTO users (email) VALUES ('bob@beta.example') RETURNING id")
    return Actor(id=user, role=Role.OWNER, team_id=team, team_slug="beta", name="bob", scopes=frozenset())


async def started_order(world) -> list:
    rows = await world.admin.fetch("SELECT task_id FROM attempts ORDER BY started_at")
    return [row["task_id"] for row in rows]


async def test_a_flood_of_one_team_delays_another_by_one_task_per_slot(world):
    await slots(world, 1, 0, 1)
    flood = [await world.submit("/bin/true") for _ in range(15)]
    bob = await second_team(world)
    ann, world.owner = world.owner, bob
    single = await world.submit("/bin/true")
    world.owner = ann
    await slots(world, 1, 1, 1)
    await asyncio.gather(*(world.until(task_id) for task_id in [*flood, single]))
    assert (await started_order(world)).index(single) <= 1


async def test_batch_uses_idle_capacity_and_makes_room_for_normal_work(world):
    await slots(world, 1, 1, 1)
    first = await world.submit("/bin/sleep", "30", priority="batch")
    second = await world.submit("/bin/sleep", "30", priority="batch")
    await world.until(first, "active")
    await world.until(second, "active")
    urgent = await world.submit("/bin/true")
    assert (await world.until(urgent))["status"] == "completed"
    task = await world.until(second, "active")
    assert (task["preemptions"], task["attempt"]) == (1, 2)
    assert (await world.until(first, "active"))["preemptions"] == 0
    statuses = await world.admin.fetch("SELECT status FROM attempts WHERE task_id = $1 ORDER BY attempt", second)
    assert [row["status"] for row in statuses] == ["preempted", "active"]


async def test_a_task_makes_room_only_so_often(world):
    await slots(world, 1, 1, 1)
    await world.admin.execute("UPDATE queues SET paused = false")
    long = [await world.submit("/bin/sleep", "30", priority="batch") for _ in range(2)]
    for task_id in long:
        await world.until(task_id, "active")
    await world.admin.execute("UPDATE tasks SET preemptions = 3 WHERE id = ANY ($1)", long)
    urgent = await world.submit("/bin/true")
    async with world.engine.database.serving() as tx:
        assert await tx.one("SELECT * FROM claim(gen_random_uuid(), '{sandbox}', 0, 3, 1)") is None
    assert await world.admin.fetchval("SELECT count(*) FROM attempts WHERE preempt_asked_at IS NOT NULL") == 0
    async with world.api.transaction(world.owner) as tx:
        await service.cancel(tx, world.owner, long[0])
    assert (await world.until(urgent))["status"] == "completed"


async def test_critical_work_has_a_lane_that_nothing_else_takes(world):
    await slots(world, 1, 1, 1)
    for priority in ("normal", "batch", "batch", "normal"):
        await world.submit("/bin/sleep", "30", priority=priority)
    assert (await world.run("/bin/true", priority="critical"))["status"] == "completed"


async def test_a_concurrency_key_holds_across_queues(world):
    await slots(world, 1, 2, 1)
    first = await world.submit("/bin/sleep", "30", concurrencyKey="env:UAT")
    await world.until(first, "active")
    second = await world.submit("/bin/true", concurrencyKey="env:UAT", priority="critical")
    await world.until_reason(second, "concurrency")
    async with world.api.transaction(world.owner) as tx:
        told = answers.status(await service.get(tx, second))
        assert told.reason_detail == f"the key env:UAT is held by task {first}"
        await service.cancel(tx, world.owner, first)
    assert (await world.until(second))["status"] == "completed"
    assert await world.admin.fetchval("SELECT count(*) FROM held_keys") == 0


async def test_a_team_at_its_limit_waits_and_says_so(world):
    world.dispatchers[0][0]._rules = (1, 3)
    first = await world.submit("/bin/sleep", "30")
    await world.until(first, "active")
    second = await world.submit("/bin/true")
    assert (await world.until_reason(second, "quota"))["status"] == "pending"


async def test_too_many_waiting_tasks_are_refused(world, tmp_path):
    limited = Settings(directory=tmp_path, team_pending_max=2)
    await world.admin.execute("UPDATE queues SET paused = true")
    async with world.api.transaction(world.owner) as tx:
        await service.require_room(tx, limited, more=2)
    await world.submit("/bin/true")
    async with world.api.transaction(world.owner) as tx:
        with pytest.raises(QuotaExceeded):
            await service.require_room(tx, limited, more=2)


async def test_bulk_is_all_or_nothing(world):
    bodies = [
        {"type": "command", "data": {"argv": ["true"]}, "priority": name} for name in ("batch", "normal", "critical")
    ]
    checked = [service.check(convert(body, wire.SubmitTask), KINDS, world.settings) for body in bodies]
    async with world.api.transaction(world.owner) as tx:
        rows = await service.submit_all(tx, world.owner, checked, world.settings, request_id="x")
    for row in rows:
        assert (await world.until(row["id"]))["status"] == "completed"
    with pytest.raises(Malformed) as refused:
        service.check(
            convert({"type": "command", "data": {"argv": []}}, wire.SubmitTask), KINDS, world.settings, at="tasks[1]."
        )
    assert refused.value.errors[0].path == "tasks[1].data.argv"


async def test_a_finished_task_is_retried_as_a_new_one(world):
    old = await world.run("/bin/sh", "-c", "exit 4", labels={"pr": "12"})
    async with world.api.transaction(world.owner) as tx:
        new = await service.retry(tx, world.owner, old["id"], request_id="x")
    task = await world.until(new["id"])
    assert (task["retry_of"], task["data"], json.loads(task["labels"])) == (old["id"], old["data"], {"pr": "12"})
    assert json.loads(task["error"])["code"] == "exit_code"


async def test_no_due_pending_task_is_ever_without_a_true_reason(world):
    await world.admin.execute("UPDATE queues SET paused = true WHERE name = 'batch'")
    paused = await world.submit("/bin/true", priority="batch")
    nowhere = await world.submit("/bin/true", runtime="kubernetes")
    later = await world.submit("/bin/true", scheduleType="scheduled", scheduledFor="2999-01-01T00:00:00Z")
    assert (await world.until_reason(paused, "paused"))["reason_detail"] == "the queue batch is paused"
    assert "kubernetes" in (await world.until_reason(nowhere, "no_runtime"))["reason_detail"]
    assert (await world.until_reason(later, "scheduled"))["status"] == "pending"


async def test_explain_tells_position_and_estimate(world):
    await world.run("/bin/sleep", "0.2")
    await slots(world, 1, 1, 1)
    blocker = await world.submit("/bin/sleep", "30")
    await world.until(blocker, "active")
    first, second = await world.submit("/bin/true"), await world.submit("/bin/true")
    async with world.api.transaction(world.owner) as tx:
        told = await explain.explain(tx, await service.get(tx, second))
        active = await explain.explain(tx, await service.get(tx, blocker))
        head = await explain.explain(tx, await service.get(tx, first))
    assert (told.position, head.position, told.queue_active, told.queue_slots) == (2, 1, 1, 1)
    assert [reason.reason for reason in told.reasons] == ["queued"]
    assert 0 < head.estimated_wait_seconds.p50 < told.estimated_wait_seconds.p50
    assert (active.reasons, active.position) == ([], None)


async def test_a_place_in_line_is_told_to_its_own_team_only(world):
    await world.admin.execute("UPDATE queues SET paused = true")
    task_id = await world.submit("/bin/true")
    async with world.api.transaction(await second_team(world)) as tx:
        assert await tx.one(service.SQL["place"], task_id) is None


async def test_an_interval_makes_one_task_per_occurrence_until_its_last(world):
    task_id = await world.submit(
        "/bin/true", scheduleType="recurring", recurrenceConfig={"intervalSeconds": 1, "maxRuns": 2, "overlap": "allow"}
    )
    definition = await world.until(task_id)
    assert definition["status"] == "completed"
    async with world.api.transaction(world.owner) as tx:
        runs = await service.instances(tx, task_id, after=None, limit=10)
        latest = await world.until(runs[0]["id"])
        result = await service.result(tx, task_id)
    assert len(runs) == 2
    assert (latest["status"], result["id"], latest["series_id"]) == ("completed", latest["id"], task_id)


async def test_occurrences_that_overlap_are_skipped(world):
    task_id = await world.submit("/bin/sleep", "30", scheduleType="recurring", recurrenceConfig={"intervalSeconds": 1})
    await world.until_count("SELECT skipped FROM schedules WHERE task_id = $1", task_id, at_least=1)
    assert await world.admin.fetchval("SELECT count(*) FROM tasks WHERE series_id = $1", task_id) == 1
    async with world.api.transaction(world.owner) as tx:
        with pytest.raises(NotFinished):
            await service.result(tx, task_id)
        await service.stop_recurring(tx, world.owner, task_id)
    assert (await world.until(task_id))["status"] == "cancelled"
    assert await world.admin.fetchval("SELECT next_at FROM schedules WHERE task_id = $1", task_id) is None


async def test_missed_occurrences_run_once(world):
    start = datetime.now(UTC) - timedelta(hours=5)
    config = {"intervalSeconds": 3600, "startAt": start.isoformat(), "missed": "once"}
    task_id = await world.submit("/bin/true", scheduleType="recurring", recurrenceConfig=config)
    # as if the instance had been down since the start
    await world.admin.execute("UPDATE schedules SET next_at = $2 WHERE task_id = $1", task_id, start)
    await world.until_count("SELECT runs FROM schedules WHERE task_id = $1", task_id, at_least=1)
    row = await world.admin.fetchrow("SELECT runs, skipped, next_at FROM schedules WHERE task_id = $1", task_id)
    # the sixth occurrence is due this very moment, or was
    assert (row["runs"], row["skipped"]) in {(1, 4), (1, 5), (2, 4)}
    assert row["next_at"] > datetime.now(UTC)


async def test_two_dispatchers_make_each_occurrence_once(world):
    world.dispatch("elsewhere")
    config = {"intervalSeconds": 1, "maxRuns": 3, "overlap": "allow"}
    ids = [await world.submit("/bin/true", scheduleType="recurring", recurrenceConfig=config) for _ in range(3)]
    for task_id in ids:
        await world.until(task_id)
    rows = await world.admin.fetch("SELECT series_id, count(*), count(DISTINCT at) FROM occurrences GROUP BY 1")
    assert sorted(tuple(row)[1:] for row in rows) == [(3, 3)] * 3
    assert await world.admin.fetchval("SELECT count(*) FROM tasks WHERE series_id IS NOT NULL") == 9


async def test_what_is_not_recurring_cannot_be_stopped_as_such(world):
    task_id = await world.submit("/bin/true", scheduleType="scheduled", scheduledFor="2999-01-01T00:00:00Z")
    async with world.api.transaction(world.owner) as tx:
        with pytest.raises(Conflict):
            await service.stop_recurring(tx, world.owner, task_id)


async def test_old_months_are_dropped_whole_and_living_tasks_keep_theirs(world):
    old = datetime(2020, 3, 15, tzinfo=UTC)
    done = await world.run("/bin/true")
    await world.close()  # making months needs locks that a busy dispatcher would contend for
    await world.admin.execute("SET ROLE sfp_migrator")
    for month in ("2020-03-01", "2020-04-01"):
        for table in ("tasks", "attempts", "events"):
            await world.admin.execute("SELECT make_partition($1, $2::date)", table, datetime.fromisoformat(month))
    await world.admin.execute("RESET ROLE")
    copy = (
        "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('id', uuid7_from($2), 'status', $3::text,"
        " 'reason', $4::text, 'finished_at', $5::timestamptz))).* FROM tasks t WHERE id = $1"
    )
    await world.admin.execute(copy, done["id"], old, "completed", None, old)
    await world.admin.execute(copy, done["id"], old + timedelta(days=31), "pending", "paused", None)
    await world.admin.execute("UPDATE queues SET paused = true")
    assert await world.admin.fetchval("SELECT count(*) FROM tasks_2020_03") == 1

    async def drop(what: str) -> None:
        async with world.engine.database.serving() as tx:
            await tx.all(f"SELECT drop_old_{what}(now() - interval '90 days')")

    for what in ("events", "tasks"):
        await persistently(lambda what=what: drop(what))
    tables = await world.admin.fetch("SELECT tablename FROM pg_tables WHERE tablename LIKE '%_2020_%' ORDER BY 1")
    assert [row["tablename"] for row in tables] == ["attempts_2020_04", "tasks_2020_04"]
    assert await world.admin.fetchval("SELECT count(*) FROM tasks WHERE id = $1", done["id"]) == 1
