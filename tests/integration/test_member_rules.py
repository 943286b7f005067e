"""What the database itself keeps about teams and members, whatever the code believes."""

import asyncio

import asyncpg
import pytest


@pytest.fixture
async def acme(admin):
    """A team with the owners ann and bea and the member max; name → id."""
    ids = {"acme": await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")}
    for name, role in (("ann", "owner"), ("bea", "owner"), ("max", "member")):
        ids[name] = await admin.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", f"{name}@x.example")
        await admin.execute(
            "INSERT INTO memberships (team_id, user_id, role) VALUES ($1, $2, $3)", ids["acme"], ids[name], role
        )
    return ids


def refused(name):
    return pytest.raises(asyncpg.RestrictViolationError, match=name)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM memberships WHERE role = 'owner'",
        "UPDATE memberships SET role = 'member'",
        "DELETE FROM users WHERE email IN ('ann@x.example', 'bea@x.example')",
    ],
)
async def test_no_statement_takes_all_owners(admin, acme, statement):
    with refused("keeps an owner"):
        await admin.execute(statement)


async def test_an_owner_who_cannot_sign_in_does_not_count(admin, acme):
    await admin.execute("UPDATE users SET disabled_at = now() WHERE id = $1", acme["bea"])
    with refused("keeps an owner"):
        await admin.execute("DELETE FROM memberships WHERE user_id = $1", acme["ann"])


@pytest.mark.parametrize("verb", ["DELETE FROM memberships", "UPDATE memberships SET role = 'member'"])
async def test_of_two_owners_who_go_at_the_same_time_one_stays(admin, acme, clone, verb):
    one, two = [await asyncpg.connect(clone.admin_url, server_settings={"search_path": "sfp"}) for _ in range(2)]
    try:
        async with one.transaction():
            await one.execute(f"{verb} WHERE user_id = $1", acme["ann"])
            other = asyncio.create_task(two.execute(f"{verb} WHERE user_id = $1", acme["bea"]))
            await _waits(admin)
        with refused("keeps an owner"):
            await other
    finally:
        await one.close()
        await two.close()
    assert await admin.fetchval("SELECT count(*) FROM memberships WHERE role = 'owner'") == 1


async def _waits(admin):
    """Until a statement waits for another one's lock."""
    async with asyncio.timeout(10):
        while not await admin.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE memberships SET role = 'owner' WHERE user_id = $1",
        "DELETE FROM memberships WHERE user_id <> $1",
        (
            "INSERT INTO memberships (team_id, user_id, role) SELECT team_id, users.id, 'owner' FROM memberships, users"
            " WHERE user_id = $1 AND email = 'new@x.example'"
        ),
    ],
)
async def test_who_is_no_owner_changes_nothing_in_the_team(admin, acme, statement):
    await admin.execute("INSERT INTO users (email) VALUES ('new@x.example')")
    async with admin.transaction():
        await admin.execute("SELECT set_config('sfp.user_id', $1, true)", str(acme["max"]))
        with refused("only its owners"):
            async with admin.transaction():
                await admin.execute(statement, acme["max"])
        await admin.execute("DELETE FROM memberships WHERE user_id = $1", acme["max"])  # but leave


async def test_a_membership_is_not_moved(admin, acme):
    other = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    with refused("keeps its team"):
        await admin.execute("UPDATE memberships SET team_id = $1 WHERE user_id = $2", other, acme["max"])


async def test_a_team_goes_with_its_members_but_not_the_last_one(admin, acme):
    with refused("last team"):
        await admin.execute("DELETE FROM teams")
    await admin.execute("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta')")
    await admin.execute("DELETE FROM teams WHERE slug = 'acme'")
    assert await admin.fetchval("SELECT count(*) FROM memberships") == 0


async def test_a_token_is_made_by_a_member_and_outlives_the_membership(admin, acme):
    made = (
        "INSERT INTO application_tokens (team_id, name, token_hash, scopes, created_by, created_by_name, expires_at)"
        " VALUES ($1, 'x', '\\x01', '{}', $2, 'max', now() + interval '1 day')"
    )
    stranger = await admin.fetchval("INSERT INTO users (email) VALUES ('eve@x.example') RETURNING id")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await admin.execute(made, acme["acme"], stranger)
    await admin.execute(made, acme["acme"], acme["max"])
    await admin.execute("DELETE FROM users WHERE id = $1", acme["max"])
    row = await admin.fetchrow("SELECT team_id, created_by, created_by_name FROM application_tokens")
    assert tuple(row) == (acme["acme"], None, "max")
