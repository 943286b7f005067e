"""Lists of tasks: what they show, and that labels are found by their index."""

from datetime import timedelta

from sfp_server.actor import Actor, Role
from sfp_server.tasks import service
from sfp_server.tasks.model import Status

OTHERS = """
INSERT INTO tasks (team_id, type, data, priority, schedule_type, labels, status, reason, finished_at, timeout_seconds,
                   lease_seconds, network, created_by, created_by_name)
SELECT $1, 'command', '{"argv": ["true"]}', 'batch', 'immediate', jsonb_build_object('pr', n::text), 'completed', NULL, now(),
       60, 60, 'none', 'x', 'x'
  FROM generate_series(1, $2::int) AS n
"""


async def listed(world, actor=None, *, after=None, limit=50, **wanted):
    actor = actor or world.owner
    async with world.api.transaction(actor) as tx:
        rows = await service.listed(tx, service.Filter(**wanted), after=after, limit=limit)
    return [row["id"] for row in rows]


async def test_labels_are_found_by_their_index_among_many_tasks(world):
    await world.admin.execute("UPDATE queues SET paused = true")
    rare = [await world.submit("/bin/true", labels={"pr": "rare", "by": "ann"}) for _ in range(3)]
    await world.admin.execute(OTHERS, world.owner.team_id, 1500)
    newest = [await world.submit("/bin/true", labels={"pr": "rare"}) for _ in range(2)]
    await world.admin.execute("ANALYZE tasks")
    scans = "SELECT coalesce(sum(idx_scan), 0) FROM pg_stat_user_indexes WHERE indexrelname LIKE '%labels%'"
    before = await world.admin.fetchval(scans)
    assert await listed(world, labels={"pr": "rare"}) == [*reversed(newest), *reversed(rare)]
    assert await listed(world, labels={"pr": "rare", "by": "ann"}, limit=2) == [rare[2], rare[1]]
    assert await listed(world, labels={"pr": "rare"}, after=newest[0], limit=1) == [rare[2]]
    assert await listed(world, labels={"pr": "rare"}, status=Status.COMPLETED) == []
    await world.api.close()  # its sessions report what they used
    async with world.api.transaction(world.owner):
        pass
    assert await world.admin.fetchval(scans) > before


async def test_a_list_shows_what_fits_all_filters(world):
    await world.admin.execute("UPDATE queues SET paused = true")
    first = await world.submit("/bin/true", priority="batch")
    second = await world.submit("/bin/true")
    row = await world.admin.fetchrow("SELECT created_at FROM tasks WHERE id = $1", second)
    assert await listed(world) == [second, first]
    assert await listed(world, limit=1) == [second]
    assert await listed(world, after=second) == [first]
    assert await listed(world, priority="batch", status=Status.PENDING, type="command") == [first]
    assert await listed(world, created_before=row["created_at"]) == [first]
    assert await listed(world, created_after=row["created_at"] - timedelta(microseconds=1)) == [second]


async def test_a_list_shows_nothing_of_another_team(world):
    await world.admin.execute("UPDATE queues SET paused = true")
    await world.submit("/bin/true", labels={"pr": "1"})
    team = await world.admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    bob = Actor(
        id=world.owner.id, role=Role.OWNER, team_id=team, team_slug="beta", name="bob", scopes=world.owner.scopes
    )
    assert await listed(world, bob) == []
    assert await listed(world, bob, labels={"pr": "1"}) == []
