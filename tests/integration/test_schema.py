"""What the database itself enforces."""

import asyncpg
import pytest

TEAM_TABLES_WITHOUT_FORCED_RLS = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'sfp' AND c.relkind IN ('r', 'p')
   AND (c.relname = 'teams' OR EXISTS (
         SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'team_id' AND NOT a.attisdropped))
   AND NOT (c.relrowsecurity AND c.relforcerowsecurity)
"""

TEAM_TABLES = """
SELECT DISTINCT table_name FROM information_schema.columns
 WHERE table_schema = 'sfp' AND column_name = 'team_id' ORDER BY 1
"""


async def test_every_team_table_is_protected(admin):
    assert await admin.fetch(TEAM_TABLES_WITHOUT_FORCED_RLS) == []


async def test_no_service_role_can_bypass_row_level_security(admin):
    rows = await admin.fetch(
        "SELECT rolname FROM pg_roles WHERE rolname LIKE 'sfp_%' AND (rolsuper OR rolbypassrls OR rolcreaterole)"
    )
    assert rows == []


@pytest.mark.parametrize("role", ["sfp_api", "sfp_broker"])
async def test_without_a_team_no_team_row_is_visible(admin, clone, role):
    team = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    await admin.execute("SELECT record_event($1, '{tasks}', 'task.created', '{}')", team)
    connection = await asyncpg.connect(clone.role_url(role))
    try:
        for (table,) in await admin.fetch(TEAM_TABLES):
            if await connection.fetchval("SELECT has_any_column_privilege($1, 'SELECT')", f"sfp.{table}"):
                assert await connection.fetchval(f"SELECT count(team_id) FROM sfp.{table}") == 0, table
    finally:
        await connection.close()


@pytest.mark.parametrize("table", ["secret_versions", "integrations"])
@pytest.mark.parametrize("column", ["sealed_key", "ciphertext"])
async def test_the_api_cannot_read_what_is_sealed(clone, table, column):
    connection = await asyncpg.connect(clone.role_url("sfp_api"))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch(f"SELECT {column} FROM sfp.{table}")
    finally:
        await connection.close()


async def test_channel_numbers_have_no_holes_after_a_rollback(admin):
    team = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    record = "SELECT record_event($1, '{tasks,queue:normal}', 'task.created', '{}')"
    await admin.execute(record, team)
    undone = admin.transaction()
    await undone.start()
    await admin.execute(record, team)
    await undone.rollback()
    await admin.execute(record, team)
    rows = await admin.fetch("SELECT channel, seq FROM events ORDER BY channel, seq")
    assert [tuple(row) for row in rows] == [("queue:normal", 1), ("queue:normal", 2), ("tasks", 1), ("tasks", 2)]


async def test_a_batch_numbers_its_events_in_order(admin):
    team = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    data = ['{"n": 1}', '{"n": 2}', '{"n": 3}']
    assert await admin.fetchval("SELECT record_batch($1, 'task:x', 'task.log', $2)", team, data) == 3
    assert await admin.fetchval("SELECT record_batch($1, 'task:x', 'task.log', $2)", team, data[:1]) == 4
    rows = await admin.fetch("SELECT seq, data FROM events ORDER BY seq")
    assert [(row["seq"], row["data"]) for row in rows] == [*enumerate(data, 1), (4, data[0])]


async def test_the_audit_log_is_append_only(admin):
    await admin.execute("INSERT INTO audit_log (actor, action, subject) VALUES ('a', 'b', 'c')")
    for statement in ("UPDATE audit_log SET actor = 'x'", "DELETE FROM audit_log", "TRUNCATE audit_log"):
        with pytest.raises(asyncpg.RestrictViolationError):
            await admin.execute(statement)
