"""A ticket opens once, for one connection."""

import hashlib
from uuid import uuid4

import pytest

from sfp_server.credentials import service as secrets
from sfp_server.credentials.broker import Refused, redeem
from sfp_server.db.database import Database


@pytest.fixture
async def ticket(world):
    """The ticket of a running task that declares a secret, not drawn yet."""
    async with world.api.transaction(world.owner) as tx:
        await secrets.put(tx, world.owner, world.sealer, name="TOKEN", value="the-value")
    task_id = await world.submit("/bin/sleep", "30")
    await world.until(task_id, "active")
    declared = '[{"type": "secret", "name": "TOKEN", "env": "T"}]'
    await world.admin.execute("UPDATE tasks SET credentials = $2 WHERE id = $1", task_id, declared)
    await world.admin.execute(
        "INSERT INTO worker_tickets (token_hash, team_id, task_id, attempt, expires_at)"
        " VALUES ($1, $2, $3, 1, now() + interval '1 minute')",
        hashlib.sha256(b"ticket").digest(),
        world.owner.team_id,
        task_id,
    )
    return "ticket"


@pytest.fixture
async def broker_database(clone):
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        yield database


async def test_a_ticket_is_drawn_by_one_connection_which_may_ask_again(world, vault, broker_database, ticket):
    mine, other = uuid4(), uuid4()
    drawn = [await redeem(broker_database, vault[1], ticket, connection=mine) for _ in range(2)]
    assert drawn == [[{"type": "secret", "name": "TOKEN", "env": "T", "value": "the-value"}]] * 2
    with pytest.raises(Refused):
        await redeem(broker_database, vault[1], ticket, connection=other)


async def test_a_ticket_of_an_ended_attempt_opens_nothing(world, vault, broker_database, ticket):
    await world.admin.execute("UPDATE attempts SET lease_expires_at = now() - interval '1 s'")
    with pytest.raises(Refused):
        await redeem(broker_database, vault[1], ticket, connection=uuid4())


async def test_without_its_audit_entry_nothing_is_handed_out(world, vault, broker_database, ticket):
    await world.admin.execute("REVOKE INSERT ON audit_log FROM sfp_broker")
    with pytest.raises(Exception, match="permission denied"):
        await redeem(broker_database, vault[1], ticket, connection=uuid4())
    assert await world.admin.fetchval("SELECT count(*) FROM leases") == 0
    assert await world.admin.fetchval("SELECT drawn_at FROM worker_tickets WHERE token_hash = sha256('ticket')") is None
