"""The life of a task, from its row to its result, with real workers."""

import asyncio
import json

import asyncpg
import msgspec
import pytest

from sfp_server.credentials import service as secrets
from sfp_server.errors import AlreadyFinal, Malformed, UnknownSecret, Unprocessable
from sfp_server.tasks import service
from sfp_server.tasks.attempt import Ending


async def test_a_command_runs_and_its_result_is_read_back(world):
    task = await world.run("/bin/sh", "-c", "echo out; echo err >&2; exit 0")
    assert (task["status"], task["attempt"], task["error"]) == ("completed", 1, None)
    result = msgspec.json.decode(task["result"])
    assert (result["exitCode"], result["signal"], result["output"], result["artifacts"]) == (0, None, None, [])
    assert sorted(await world.lines(task["id"])) == ["err", "out"]


async def test_events_tell_the_whole_life_in_order(world):
    task = await world.run("/bin/echo", "hello")
    rows = await world.admin.fetch(
        "SELECT seq, event FROM events WHERE channel = $1 ORDER BY seq", f"task:{task['id']}"
    )
    assert [tuple(row) for row in rows] == [
        (1, "task.created"), (2, "task.started"), (3, "task.log"), (4, "task.completed"),
    ]  # fmt: skip


async def test_an_unwanted_exit_status_fails_the_task(world):
    task = await world.run("/bin/sh", "-c", "exit 3")
    assert task["status"] == "failed"
    assert json.loads(task["error"]) == {
        "code": "exit_code",
        "message": "the program exited with status 3",
        "retryable": True,
    }


async def test_a_success_code_is_a_success(world):
    task = await world.run("/bin/sh", "-c", "exit 3", data={"successCodes": [0, 3]})
    assert task["status"] == "completed"


async def test_a_declared_secret_is_in_the_environment_and_nowhere_else(world):
    async with world.api.transaction(world.owner) as tx:
        await secrets.put(tx, world.owner, world.keys, name="NPM_TOKEN", value="npm-s3cret-value")
    task = await world.run(
        "/bin/sh", "-c", 'echo "token $NPM"; test ${#NPM} = 16 || exit 9; printf \'{"t":"%s"}\' "$NPM" > "$SFP_RESULT"',
        credentials=[{"type": "secret", "name": "NPM_TOKEN", "env": "NPM"}],
    )  # fmt: skip
    assert task["status"] == "completed", task["error"]
    assert await world.lines(task["id"]) == ["token ***"]
    assert json.loads(task["result"])["output"] == {"t": "***"}
    for (table,) in await world.admin.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'sfp'"):
        dump = str(await world.admin.fetch(f"SELECT t::text FROM sfp.{table} t"))
        assert "s3cret" not in dump, table
        assert b"s3cret".hex() not in dump, table
    leases = await world.admin.fetch("SELECT name, version, ended_at IS NOT NULL AS ended FROM leases")
    assert [tuple(row) for row in leases] == [("NPM_TOKEN", 1, True)]
    audit = await world.admin.fetch("SELECT actor, action, subject FROM audit_log WHERE action = 'credential.lease'")
    assert [tuple(row) for row in audit] == [(world.owner.label, "credential.lease", "secret:NPM_TOKEN")]


async def test_an_unknown_secret_is_refused_at_submission(world):
    with pytest.raises(UnknownSecret):
        await world.submit("true", credentials=[{"type": "secret", "name": "NONE", "env": "X"}])


async def test_a_secret_moved_between_rows_cannot_be_opened(world):
    async with world.api.transaction(world.owner) as tx:
        await secrets.put(tx, world.owner, world.keys, name="ONE", value="first-value")
        await secrets.put(tx, world.owner, world.keys, name="TWO", value="second-value")
    await world.admin.execute(
        "UPDATE secret_versions AS one SET sealed_key = two.sealed_key, ciphertext = two.ciphertext"
        "  FROM secret_versions AS two"
        " WHERE one.secret_id = (SELECT id FROM secrets WHERE name = 'ONE')"
        "   AND two.secret_id = (SELECT id FROM secrets WHERE name = 'TWO')"
    )
    task = await world.run("/bin/true", credentials=[{"type": "secret", "name": "ONE", "env": "X"}])
    assert json.loads(task["error"])["code"] == "credential"


async def test_no_more_tasks_run_at_once_than_the_queue_has_slots(world):
    await world.admin.execute("UPDATE queues SET slots = 2 WHERE name = 'normal'")
    ids = [await world.submit("/bin/sh", "-c", "sleep 0.2") for _ in range(5)]
    for task_id in ids:
        assert (await world.until(task_id))["status"] == "completed"
    overlap = await world.admin.fetchval(
        "SELECT max((SELECT count(*) FROM attempts b WHERE b.started_at <= a.started_at AND b.ended_at > a.started_at))"
        " FROM attempts a"
    )
    assert overlap == 2


async def test_a_pending_task_is_cancelled_at_once(world):
    await world.admin.execute("UPDATE queues SET paused = true WHERE name = 'batch'")
    task_id = await world.submit("/bin/true", priority="batch")
    async with world.api.transaction(world.owner) as tx:
        assert await service.cancel(tx, world.owner, task_id) == "cancelled"
    task = await world.until(task_id, "cancelled")
    assert task["attempt"] == 0
    async with world.api.transaction(world.owner) as tx:
        with pytest.raises(AlreadyFinal):
            await service.cancel(tx, world.owner, task_id)


async def test_an_active_task_is_cancelled_with_its_whole_tree(world):
    task_id = await world.submit("/bin/sh", "-c", "trap '' TERM; sleep 60 & wait; sleep 60")
    await world.until(task_id, "active")
    async with world.api.transaction(world.owner) as tx:
        assert await service.cancel(tx, world.owner, task_id) == "active"
    task = await world.until(task_id)
    assert (task["status"], json.loads(task["error"])["code"]) == ("cancelled", "cancelled")


async def test_a_task_that_runs_too_long_times_out(world):
    task = await world.run("/bin/sleep", "60", timeoutSeconds=0.3)
    assert (task["status"], json.loads(task["error"])["code"]) == ("failed", "timeout")


async def test_progress_result_and_artifacts_are_kept(world):
    script = 'echo "40 half way" > "$SFP_PROGRESS"; echo \'{"n": 1}\' > "$SFP_RESULT"; mkdir out; echo kept > out/a.txt; sleep 0.3'
    task = await world.run("/bin/sh", "-c", script, data={"artifacts": ["out/*.txt"]})
    result = json.loads(task["result"])
    assert result["output"] == {"n": 1}
    (kept,) = result["artifacts"]
    assert (kept["name"], kept["size"]) == ("out/a.txt", 5)
    assert (world.settings.directory / "artifacts" / kept["id"]).read_text() == "kept\n"
    progress = await world.admin.fetch("SELECT data FROM events WHERE event = 'task.progress'")
    assert [(json.loads(row["data"])["progress"], json.loads(row["data"])["step"]) for row in progress] == [
        (40, "half way")
    ]


async def test_a_failed_attempt_is_retried_until_none_is_left(world):
    retry = {"maxAttempts": 3, "delaySeconds": 0, "backoff": "fixed", "jitter": False}
    task = await world.run("/bin/sh", "-c", 'test "$SFP_ATTEMPT" = 3', retryConfig=retry)
    assert (task["status"], task["attempt"]) == ("completed", 3)
    rows = await world.admin.fetch("SELECT attempt, status FROM attempts ORDER BY attempt")
    assert [tuple(row) for row in rows] == [(1, "failed"), (2, "failed"), (3, "completed")]


async def test_a_stale_attempt_can_write_nothing(world, admin):
    task_id = await world.submit("/bin/sleep", "30", retryConfig={"maxAttempts": 2, "delaySeconds": 0, "jitter": False})
    await world.until(task_id, "active")
    # somebody else decided that the lease ran out
    lost = {
        "task_id": task_id,
        "attempt": 1,
        "status": "failed",
        "error": {"code": "x", "message": "y"},
        "attempt_status": "lost",
        "retry_after": 0,
    }
    assert await admin.fetchval("SELECT finish($1)", json.dumps([lost], default=str)) == task_id
    stale = {"task_id": task_id, "attempt": 1, "status": "completed", "result": {}, "attempt_status": "completed"}
    assert await admin.fetchval("SELECT finish($1)", json.dumps([stale], default=str)) is None
    assert await admin.fetchval("SELECT log_lines($1, 1, 0, '{}')", task_id) is None
    assert not await admin.fetchval("SELECT progress($1, 1, 50, 'x')", task_id)


async def test_a_final_task_stays_final(world, admin):
    task = await world.run("/bin/true")
    with pytest.raises(asyncpg.RestrictViolationError):
        await admin.execute("UPDATE tasks SET status = 'failed', error = '{}' WHERE id = $1", task["id"])


async def test_an_expired_lease_is_rescued_and_ends_as_worker_lost(world, admin):
    task_id = await world.submit(
        "/bin/true", priority="batch", scheduleType="scheduled", scheduledFor="2999-01-01T00:00:00Z"
    )
    # an attempt of a dispatcher that no longer exists
    await admin.execute("UPDATE tasks SET status = 'active', reason = NULL, attempt = 1 WHERE id = $1", task_id)
    await admin.execute(
        "INSERT INTO attempts (task_id, attempt, team_id, queue, dispatcher_id, runtime, lease_expires_at)"
        " VALUES ($1, 1, $2, 'batch', gen_random_uuid(), 'sandbox', now() - interval '1 s')", task_id, world.owner.team_id,
    )  # fmt: skip
    task = await world.until(task_id)
    assert (task["status"], json.loads(task["error"])["code"]) == ("failed", "worker_lost")


async def test_a_stopped_dispatcher_ends_what_ran_and_a_new_one_goes_on(world):
    task_id = await world.submit("/bin/sleep", "30")
    await world.until(task_id, "active")
    first, running = world.dispatchers.pop()
    for attempt in first._running.values():
        attempt.end(Ending.SHUTDOWN)
    first.stop()
    await running
    assert json.loads((await world.until(task_id))["error"])["code"] == "worker_lost"
    world.dispatch()
    assert (await world.run("/bin/true"))["status"] == "completed"


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"argv": []}, "data.argv"),
        ({"argv": ["a\0b"]}, "data"),
        ({"argv": ["true"], "workdir": "../x"}, "data"),
        ({"argv": ["true"], "workspace": {"files": {"/etc/x": ""}}}, "data.workspace"),
        (
            {"argv": ["true"], "workspace": {"files": {}, "artifact": "0198c0de-0000-7000-8000-000000000000"}},
            "data.workspace",
        ),
        ({"argv": ["true"], "workspace": {"git": {"url": "file:///etc"}}}, "data.workspace.git"),
        ({"argv": ["true"], "env": {"SFP_RESULT": "/etc/x"}}, "data"),
        ({"argv": ["true"], "nope": 1}, "data.nope"),
    ],
)
async def test_data_that_does_not_fit_is_refused_with_its_place(world, data, path):
    with pytest.raises(Malformed) as refused:
        await world.submit(*data.pop("argv"), data=data)
    assert refused.value.errors[0].path == path


async def test_what_this_release_cannot_do_is_said(world):
    for fields in (
        {"limits": {"memoryMb": 10**9}},
        {"credentials": [{"type": "salesforce", "org": "x"}]},
    ):
        with pytest.raises(Unprocessable):
            await world.submit("true", **fields)


async def test_two_dispatchers_never_run_one_task_twice(world):
    world.dispatch("elsewhere")
    ids = [await world.submit("/bin/true") for _ in range(20)]
    await asyncio.gather(*(world.until(task_id) for task_id in ids))
    assert await world.admin.fetchval("SELECT count(*) FROM attempts") == 20
