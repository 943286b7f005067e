"""The database's clock is set: forwards it takes no task from anybody, backwards it keeps nobody waiting."""

LATER = "1 hour"


async def test_a_clock_set_forward_takes_no_task_from_who_renews_it(world):
    task_id = await world.submit("/bin/sleep", "8")
    await world.until(task_id, "active")
    world.dispatch(place="there")  # which would rescue it
    await world.admin.execute("UPDATE attempts SET lease_expires_at = lease_expires_at - $1::text::interval", LATER)
    row = await world.until(task_id)
    assert (row["status"], row["attempt"]) == ("completed", 1)


async def test_a_clock_set_back_keeps_no_task_waiting(world):
    await world.admin.execute("UPDATE queues SET paused = true")
    immediate = await world.submit("/bin/true")
    again = await world.submit("/bin/true", retryConfig={"maxAttempts": 2, "delaySeconds": 1, "maxDelaySeconds": 1})
    at = await world.admin.fetchval("SELECT (now() + interval '1 day')::timestamptz")
    scheduled = await world.submit("/bin/true", scheduleType="scheduled", scheduledFor=at.isoformat())
    await world.admin.execute("UPDATE tasks SET reason = 'retry' WHERE id = $1", again)
    await world.admin.execute(
        "UPDATE tasks SET due_at = due_at + $2::text::interval WHERE id = ANY ($1)", [immediate, again], LATER
    )
    await world.admin.execute("INSERT INTO turns SELECT 'normal', id, now() + $1::text::interval FROM teams", LATER)
    await world.admin.execute("UPDATE queues SET paused = false")
    world.dispatchers[0][0]._clock._ahead += 3600  # what it saw before: the test cannot set the machine's clock
    assert (await world.until(immediate))["status"] == "completed"
    assert (await world.until(again))["status"] == "completed"
    assert (await world.admin.fetchrow("SELECT due_at, status FROM tasks WHERE id = $1", scheduled)) == (at, "pending")
    assert await world.admin.fetchval("SELECT count(*) FROM turns WHERE served_at > now()") == 0
