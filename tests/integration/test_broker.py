"""A ticket opens once, for one connection, with an audit entry or not at all."""

import asyncio
import hashlib
from dataclasses import dataclass, replace
from uuid import uuid4

import asyncpg
import pytest

from sfp_server.actor import Actor
from sfp_server.credentials import service as secrets
from sfp_server.credentials.broker import Broker
from sfp_server.credentials.leasing import Leasing, Presented, Refused
from sfp_server.db.database import Database
from sfp_server.kinds import KINDS
from sfp_server.tasks import service as tasks
from sfp_server.tasks import wire
from sfp_server.web.wire import convert
from vaults import Vault

DECLARED = [{"type": "secret", "name": "TOKEN", "env": "T"}]


@dataclass
class Stage:
    """A team whose task runs; nobody runs it really."""

    api: Database
    admin: asyncpg.Connection
    owner: Actor
    vault: Vault

    async def put(self, name, value, actor=None):
        async with self.api.transaction(actor or self.owner) as tx:
            await secrets.put(tx, actor or self.owner, self.vault.public, name=name, value=value)


@pytest.fixture
async def stage(api_database, admin, owner, vault):
    made = Stage(api_database, admin, owner, vault)
    await made.put("TOKEN", "the-value")
    return made


@pytest.fixture
async def task_id(stage, settings):
    """A running task that declares a secret; its ticket is not drawn yet."""
    body = convert({"type": "command", "data": {"argv": ["x"]}, "credentials": DECLARED}, wire.SubmitTask)
    async with stage.api.transaction(stage.owner) as tx:
        submission = tasks.check(body, KINDS, settings)
        row = await tasks.submit(tx, stage.owner, submission, settings, request_id="test")
    await stage.admin.execute("UPDATE tasks SET status = 'active', reason = NULL, attempt = 1 WHERE id = $1", row["id"])
    await stage.admin.execute(
        "INSERT INTO attempts (task_id, attempt, team_id, queue, dispatcher_id, runtime, lease_expires_at)"
        " VALUES ($1, 1, $2, 'normal', uuid7(), 'sandbox', now() + interval '1 minute')",
        row["id"],
        stage.owner.team_id,
    )
    await stage.admin.execute(
        "INSERT INTO worker_tickets (token_hash, team_id, task_id, attempt, expires_at)"
        " VALUES (sha256('ticket'), $1, $2, 1, now() + interval '1 minute')",
        stage.owner.team_id,
        row["id"],
    )
    return row["id"]


@pytest.fixture
async def broker_database(clone):
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        yield database


@pytest.fixture
def draw(broker_database, vault, task_id):
    leasing = Leasing(broker_database, vault.sources)

    async def drawn(connection=None):
        presented = Presented(ticket="ticket", connection=connection or uuid4())
        return (await leasing.redeem(vault.opener, presented)).credentials

    return drawn


async def test_a_ticket_is_drawn_by_one_connection_which_may_ask_again(draw):
    mine, other = uuid4(), uuid4()
    drawn = [await draw(mine) for _ in range(2)]
    assert drawn == [[{"type": "secret", "name": "TOKEN", "env": "T", "value": "the-value"}]] * 2
    with pytest.raises(Refused):
        await draw(other)


async def test_of_many_that_draw_at_once_one_gets_it(draw):
    answers = await asyncio.gather(*(draw() for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(answer, list) for answer in answers) == 1
    assert sum(isinstance(answer, Refused) for answer in answers) == 7


async def test_a_ticket_of_an_ended_attempt_opens_nothing(stage, draw):
    await stage.admin.execute("UPDATE attempts SET lease_expires_at = now() - interval '1 s'")
    with pytest.raises(Refused):
        await draw()


FAULTS = {
    "the audit entry cannot be written": "REVOKE INSERT ON audit_log FROM sfp_broker",
    "the lease cannot be written": "REVOKE INSERT ON leases FROM sfp_broker",
    "the disk is full": """
        CREATE FUNCTION sfp.full() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$;
        CREATE TRIGGER full_disk BEFORE INSERT ON sfp.audit_log EXECUTE FUNCTION sfp.full()""",
    "the database is read-only": "ALTER ROLE sfp_broker IN DATABASE {name} SET default_transaction_read_only = on",
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_what_cannot_be_written_down_is_not_handed_out_and_not_drawn(stage, clone, vault, task_id, fault):
    await stage.admin.execute(fault.format(name=clone.name))
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        with pytest.raises(Exception, match=r"permission denied|database is away|read-only"):
            await Leasing(database).redeem(vault.opener, Presented(ticket="ticket", connection=uuid4()))
    assert await stage.admin.fetchval("SELECT count(*) FROM leases") == 0
    assert await stage.admin.fetchval("SELECT count(*) FROM audit_log WHERE action = 'credential.lease'") == 0
    assert await stage.admin.fetchval("SELECT drawn_at FROM worker_tickets WHERE token_hash = sha256('ticket')") is None


async def test_a_fault_reaches_the_worker_without_what_it_was(stage, vault, broker_database, task_id):
    await stage.admin.execute("REVOKE INSERT ON audit_log FROM sfp_broker")
    keys = vault.keyring(broker_database)
    await keys.load()
    answer = await Broker(keys, Leasing(broker_database)).answer(b'{"ticket": "ticket"}\n', False)
    assert answer == {"error": {"code": "credential", "message": "the broker failed; see its log"}}


MOVES = {
    "to another name": "UPDATE secrets SET name = CASE name WHEN 'TOKEN' THEN 'X' ELSE 'TOKEN' END",
    "to another row": """
        UPDATE secret_versions SET (key_version, sealed_key, ciphertext) = (
               SELECT key_version, sealed_key, ciphertext FROM secret_versions AS other
                WHERE other.secret_id = (SELECT id FROM secrets WHERE name = 'OTHER'))
         WHERE version = 2""",
    "to another version": """
        UPDATE secret_versions SET (sealed_key, ciphertext) = (
               SELECT sealed_key, ciphertext FROM secret_versions AS older
                WHERE older.secret_id = secret_versions.secret_id AND older.version = 1)
         WHERE version = 2""",
    "a key of another value": """
        UPDATE secret_versions SET sealed_key = (
               SELECT sealed_key FROM secret_versions AS older
                WHERE older.secret_id = secret_versions.secret_id AND older.version = 1)
         WHERE version = 2""",
    "to be a reference": """UPDATE secret_versions SET reference = '{"source": "vault", "path": "x", "key": "y"}'""",
    "to another key pair": """
        INSERT INTO vault_keys VALUES (2, '\\x00', '\\x00', now()); UPDATE secret_versions SET key_version = 2""",
}


@pytest.mark.parametrize("move", MOVES.values(), ids=MOVES.keys())
async def test_a_value_that_a_writer_of_the_database_moved_does_not_open(stage, draw, move):
    await stage.put("TOKEN", "the-newer-value")
    await stage.put("OTHER", "another-value")
    await stage.admin.execute(move)
    with pytest.raises(Refused, match="cannot be opened"):
        await draw()


async def test_two_teams_have_a_secret_of_one_name_and_neither_opens_the_others(stage, draw, admin):
    team = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('other', 'Other') RETURNING id")
    await stage.put("TOKEN", "the-other-teams", replace(stage.owner, team_id=team))
    await admin.execute(
        "UPDATE secret_versions SET (sealed_key, ciphertext) = (SELECT sealed_key, ciphertext FROM secret_versions"
        " WHERE team_id = $1) WHERE team_id <> $1",
        team,
    )
    with pytest.raises(Refused, match="cannot be opened"):
        await draw()


async def test_an_end_waits_for_the_draw_that_is_under_way_and_ends_its_leases(stage, clone, vault, draw, task_id):
    """Else a lease that was written while the task ended would stay open for ever."""
    connection = await asyncpg.connect(clone.role_url("sfp_broker"), server_settings={"search_path": "sfp"})
    drawing = connection.transaction()
    await drawing.start()
    for name, value in (("presented_hash", hashlib.sha256(b"ticket").hexdigest()), ("team_id", stage.owner.team_id)):
        await connection.execute("SELECT set_config($1, $2, true)", f"sfp.{name}", str(value))
    await connection.execute("UPDATE worker_tickets SET drawn_at = now()")
    await connection.execute(
        "INSERT INTO leases (team_id, task_id, attempt, kind, name, version) VALUES ($1, $2, 1, 'secret', 'TOKEN', 1)",
        stage.owner.team_id,
        task_id,
    )
    ending = asyncio.create_task(stage.admin.execute("SELECT end_leases(ARRAY[$1::uuid])", task_id))
    async with asyncio.timeout(10):
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        while not await connection.fetchval(waiting):
            await asyncio.sleep(0.01)
    await drawing.commit()
    await ending
    await connection.close()
    assert await stage.admin.fetchval("SELECT count(*) FROM leases WHERE ended_at IS NULL") == 0
