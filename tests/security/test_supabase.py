"""People who come through PostgREST or Supabase: the same rights, by the same policies."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from sfp_server.db.database import run_script
from sfp_server.db.migrate import migrate

TASKS = """
INSERT INTO tasks (team_id, type, data, priority, schedule_type, timeout_seconds, lease_seconds, network, created_by,
                   created_by_name)
SELECT $1, 'command', '{}', 'normal', 'immediate', 60, 15, 'none', 'a', 'a' FROM generate_series(1, $2)
"""


@pytest.fixture
async def people(admin) -> dict[str, UUID]:
    """ann owns acme, max is a member there; bob owns beta."""
    ids = {}
    for email, team, role in (("ann", "acme", "owner"), ("max", "acme", "member"), ("bob", "beta", "owner")):
        await admin.execute("INSERT INTO teams (slug, name) VALUES ($1, $1) ON CONFLICT DO NOTHING", team)
        ids[email] = await admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", f"{email}@x.example")
        ids[team] = await admin.fetchval("SELECT id FROM teams WHERE slug = $1", team)
        await admin.execute(
            "INSERT INTO memberships (team_id, user_id, role) VALUES ($1, $2, $3)", ids[team], ids[email], role
        )
    await admin.execute(TASKS, ids["acme"], 2)
    await admin.execute(TASKS, ids["beta"], 3)
    return ids


@asynccontextmanager
async def asking(admin: asyncpg.Connection, role: str = "authenticated", **settings: str) -> AsyncIterator[None]:
    """As PostgREST opens a transaction: the role, and what the token said."""
    transaction = admin.transaction()
    await transaction.start()
    for name, value in settings.items():
        await admin.execute("SELECT set_config($1, $2, true)", name.replace("__", "."), value)
    await admin.execute(f"SET LOCAL ROLE {role}")
    try:
        yield
    finally:
        await transaction.rollback()


def claims(sub: object, **more: object) -> str:
    return json.dumps({"sub": str(sub), "role": "authenticated", **more})


async def test_a_member_sees_its_team_however_the_claims_arrive(admin, people):
    for settings in ({"request__jwt__claims": claims(people["max"])}, {"request__jwt__claim__sub": str(people["max"])}):
        async with asking(admin, **settings):
            assert await admin.fetchval("SELECT count(id) FROM tasks") == 2
            assert [row[0] for row in await admin.fetch("SELECT slug FROM teams")] == ["acme"]
            assert await admin.fetchval("SELECT count(id) FROM audit_log") == 0


@pytest.mark.parametrize("settings", [{}, {"request__jwt__claims": ""}, {"request__jwt__claims": claims("service")}])
async def test_claims_that_name_nobody_show_nothing(admin, people, settings):
    async with asking(admin, **settings):
        assert await admin.fetchval("SELECT count(id) FROM tasks") == 0
        assert await admin.fetchval("SELECT count(id) FROM users") == 0


async def test_claims_open_nothing_to_other_roles(admin, people):
    for role in ("anon", "service_role"):
        async with asking(admin, role, request__jwt__claims=claims(people["ann"])):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await admin.fetch("SELECT id FROM sfp.tasks")


async def test_leaving_and_being_disabled_count_in_the_next_statement(admin, people):
    settings = {"request__jwt__claims": claims(people["max"])}
    await admin.execute("UPDATE users SET disabled_at = now() WHERE id = $1", people["max"])
    async with asking(admin, **settings):
        assert await admin.fetchval("SELECT count(id) FROM tasks") == 0
    await admin.execute("UPDATE users SET disabled_at = NULL WHERE id = $1", people["max"])
    await admin.execute("DELETE FROM memberships WHERE user_id = $1", people["max"])
    async with asking(admin, **settings):
        assert await admin.fetchval("SELECT count(id) FROM tasks") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(id) FROM tasks",
        "SELECT id FROM tasks WHERE status = 'pending'",
        "SELECT seq FROM events WHERE channel = 'tasks' AND seq > 1 ORDER BY seq LIMIT 20",
        "SELECT * FROM channels",
    ],
)
async def test_the_policy_is_asked_once_and_uses_an_index(admin, people, statement):
    await admin.execute(TASKS, people["beta"], 5000)
    record = "SELECT record_event($1, '{tasks}', 'task.created', '{}') FROM generate_series(1, $2)"
    await admin.execute(record, people["beta"], 200)
    await admin.execute(record, people["acme"], 3)
    await admin.execute("ANALYZE tasks, events")
    async with asking(admin, request__jwt__claims=claims(people["max"]), enable_seqscan="off"):
        plan = "\n".join(row[0] for row in await admin.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {statement}"))
    assert "InitPlan" in plan
    assert "Seq Scan" not in plan
    assert "loops=1)" in next(line for line in plan.splitlines() if "ProjectSet" in line)
    assert "ANY (" in next(line for line in plan.splitlines() if "Index Cond" in line), plan


async def test_auth_functions_are_made_and_read_the_claims(admin, people):
    async with asking(admin, request__jwt__claims=claims(people["max"])):
        row = await admin.fetchrow("SELECT auth.uid(), auth.role(), auth.jwt() ->> 'sub' AS sub")
    assert tuple(row) == (people["max"], "authenticated", str(people["max"]))


async def test_the_auth_functions_of_a_supabase_project_stay(cluster):
    name = f"test_{uuid.uuid4().hex}"
    await run_script(cluster.url("postgres"), f"CREATE DATABASE {name}")
    theirs = "CREATE SCHEMA auth; CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql AS $$ SELECT NULL::uuid $$"
    try:
        await run_script(cluster.url(name), theirs)
        await migrate(cluster.url(name), {})
        connection = await asyncpg.connect(cluster.url(name))
        try:
            source = await connection.fetchval("SELECT prosrc FROM pg_proc WHERE oid = 'auth.uid()'::regprocedure")
            made = await connection.fetchval("SELECT to_regprocedure('auth.jwt()') IS NOT NULL")
        finally:
            await connection.close()
    finally:
        await run_script(cluster.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")
    assert (source.strip(), made) == ("SELECT NULL::uuid", True)


async def test_no_function_is_open_because_nobody_said_otherwise(admin):
    """Each would be a procedure that PostgREST offers: a migration that makes one says who may call it."""
    rows = await admin.fetch(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'sfp'::regnamespace"
        " AND EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner))) WHERE grantee = 0)"
    )
    assert [row[0] for row in rows] == []
