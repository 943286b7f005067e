"""A claim and an end read what they take, not what else waits: plans are made while tables are empty, and kept."""

import json

import asyncpg
import pytest

CLAIM = "SELECT id, attempt FROM claim('00000000-0000-7000-8000-000000000001', '{sandbox}', 0, 3, 1)"
WAITING = """
INSERT INTO tasks (team_id, type, data, priority, schedule_type, timeout_seconds, lease_seconds, network, created_by,
                   created_by_name)
SELECT $1, 'command', '{"argv": ["true"]}', 'normal', 'immediate', 60, 60, 'none', 'x', 'x' FROM generate_series(1, $2::int)
"""
READ = """
SELECT coalesce(sum(idx_tup_read), 0)::int FROM pg_stat_user_indexes WHERE relname LIKE 'tasks%' OR relname LIKE 'attempts%'
"""


@pytest.fixture
async def team(admin):
    return await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")


async def test_a_claim_and_an_end_read_only_what_they_take(admin, clone, team):
    dispatcher = await asyncpg.connect(clone.role_url("sfp_dispatcher"))
    for waiting in (1, 2000):  # the first makes the plans
        await admin.execute(WAITING, team, waiting)
        before = await _read(admin)
        row = await dispatcher.fetchrow(CLAIM)
        how = {
            "task_id": str(row["id"]),
            "attempt": row["attempt"],
            "status": "completed",
            "attempt_status": "completed",
        }
        assert await dispatcher.fetchval("SELECT finish($1)", json.dumps([how])) == row["id"]
        await dispatcher.execute("SELECT pg_stat_force_next_flush()")
        await dispatcher.execute("SELECT 1")
    assert await _read(admin) - before < 500
    await dispatcher.close()


async def _read(admin):
    await admin.execute("SELECT pg_stat_force_next_flush()")
    await admin.execute("SELECT pg_stat_clear_snapshot()")
    return await admin.fetchval(READ)
