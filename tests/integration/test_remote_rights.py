"""What a machine elsewhere may do in the database and at the broker: only what concerns the attempts that it holds."""

import asyncio
import dataclasses
import hashlib
import itertools
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg
import pytest

from sfp_server.credentials import service as secrets
from sfp_server.credentials.leasing import Leasing, Presented, Refused
from sfp_server.db.database import Database
from sfp_server.errors import Conflict, NotFound
from sfp_server.remote import enrolments, tls
from sfp_server.remote.token import Token
from sfp_server.tasks import service, wire
from sfp_server.tasks.command import COMMAND
from sfp_server.tasks.model import Machine
from sfp_server.web.wire import convert

#: what only machines elsewhere have in these tests: the dispatcher of `world` passes such tasks over
FAR = dataclasses.replace(COMMAND, toolchain="far")


@dataclass
class Elsewhere:
    """An enrolled machine with a dispatcher, as the database sees it."""

    name: str
    token: Token
    connection: asyncpg.Connection
    id: uuid.UUID

    async def announce(self) -> None:
        await self.connection.execute(
            "SELECT announce($1, 'far-host', 1, '{sandbox}', '{}', $2, 100, '1')", self.id, json.dumps({"far": "1"})
        )

    async def claim(self, up_to: int = 1) -> list[asyncpg.Record]:
        rows = await self.connection.fetch(
            "SELECT ended, (task).* FROM finish_and_claim('[]', $1, '{sandbox,+far}', 0, 3, $2)", self.id, up_to
        )
        return [row for row in rows if row["ended"] is None]


@asynccontextmanager
async def enrolled(clone, name: str, slots: int = 1) -> AsyncIterator[Elsewhere]:
    token = Token.fresh(b"f" * 32)
    role = await enrolments.enrol(clone.admin_url, name, token, slots=slots)
    url = clone.cluster.url(clone.name, role, token.password())
    connection = await asyncpg.connect(url, server_settings={"search_path": "sfp_remote"})
    made = Elsewhere(name, token, connection, uuid.uuid4())
    await made.announce()
    try:
        yield made
    finally:
        await connection.close()
        with suppress(NotFound):
            await enrolments.unenrol(clone.admin_url, name)


@pytest.fixture
async def far(clone, world) -> AsyncIterator[Elsewhere]:
    async with enrolled(clone, "far") as made:
        yield made


@pytest.fixture
async def other(clone, world) -> AsyncIterator[Elsewhere]:
    async with enrolled(clone, "other", slots=3) as made:
        yield made


async def submit_far(world, **fields) -> uuid.UUID:
    body = convert({"type": "command", "data": {"argv": ["/bin/true"]}, **fields}, wire.SubmitTask)
    async with world.api.transaction(world.owner) as tx:
        submission = service.check(body, {"command": FAR}, world.settings)
        row = await service.submit(tx, world.owner, submission, world.settings, request_id="test")
    return row["id"]


def ending(task: asyncpg.Record, status: str = "completed") -> str:
    facts = {"task_id": str(task["id"]), "attempt": task["attempt"], "status": status, "attempt_status": status}
    return json.dumps([facts])


async def test_its_role_reaches_no_table_and_no_other_role(far, admin):
    tables = await admin.fetch(
        "SELECT relname FROM pg_class WHERE relnamespace = 'sfp'::regnamespace AND relkind IN ('r', 'p')"
    )
    forbidden = [f'SELECT FROM sfp."{row[0]}"' for row in tables]
    forbidden += ["SELECT sfp.current_team()", "SELECT sfp_remote.me()", "CREATE TABLE sfp_remote.x (a int)"]
    forbidden += [f"SET ROLE {role}" for role in ("sfp_dispatcher", "sfp_remote_steps", "sfp_broker", "sfp_migrator")]
    forbidden += ["SELECT sfp_remote.held_ones('[]')", "SELECT sfp.unenrol('other')"]
    assert len(forbidden) > 25
    for statement in forbidden:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await far.connection.execute(statement)


async def test_no_temporary_table_can_stand_in_for_ours(admin, far):
    unsafe = await admin.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace IN ('sfp'::regnamespace, 'sfp_remote'::regnamespace)"
        " AND (prosecdef OR pronamespace = 'sfp_remote'::regnamespace)"
        " AND NOT coalesce('search_path=sfp, pg_temp' = ANY (proconfig), false)"
    )
    assert unsafe == []
    assert await admin.fetch("SELECT proname FROM pg_proc WHERE 'search_path=sfp' = ANY (proconfig)") == []


async def test_each_step_elsewhere_is_a_step_at_home(admin):
    rows = await admin.fetch("""
        SELECT proname AS name, pg_get_function_identity_arguments(oid) AS takes, pronamespace::regnamespace::text AS schema
          FROM pg_proc
         WHERE pronamespace = 'sfp'::regnamespace
            OR pronamespace = 'sfp_remote'::regnamespace AND has_function_privilege('sfp_remote_dispatcher', oid, 'EXECUTE')
    """)
    here = {(row["name"], row["takes"]) for row in rows if row["schema"] == "sfp"}
    there = {(row["name"], row["takes"]) for row in rows if row["schema"] == "sfp_remote"}
    assert len(there) == 11
    assert there - here == set()


async def test_it_can_do_nothing_with_what_another_machine_holds(world, far, other, admin):
    task_id = await submit_far(world)
    (task,) = await far.claim()
    assert task["id"] == task_id
    thief = other.connection
    assert await thief.fetch("SELECT finish($1)", ending(task)) == []
    assert (
        await thief.fetch("SELECT * FROM finish_and_claim($1, $2, '{sandbox}', 0, 3, 0)", ending(task), other.id) == []
    )
    assert (
        await thief.fetch("SELECT * FROM finish_and_claim($1, $2, '{sandbox,+far}', 0, 3, 5)", ending(task), far.id)
        == []
    )
    assert await thief.fetchval("SELECT log_lines($1, 1, 0, '{}')", task_id) is None
    assert await thief.fetchval("SELECT progress($1, 1, 50, 'x')", task_id) is False
    await thief.execute("SELECT save_handle($1, 1, 'mine', 'process')", task_id)
    await thief.execute("SELECT add_ticket($1, $2, 1)", b"h" * 32, task_id)
    assert await thief.fetch("SELECT * FROM renew($1, $2)", far.id, [task_id]) == []
    assert await thief.fetch("SELECT * FROM unheard($1, '{}')", far.id) == []
    assert await thief.fetch("SELECT * FROM abandoned('far-host', '{}')") == []
    await thief.execute("SELECT leave($1)", far.id)
    await thief.execute("SELECT announce($1, 'x', 1, '{hacked}', '{}', '{}', 1, '1')", far.id)
    attempt = await admin.fetchrow("SELECT * FROM attempts WHERE task_id = $1", task_id)
    assert (attempt["status"], attempt["handle"], attempt["runtime"]) == ("active", None, "sandbox")
    assert await admin.fetchval("SELECT count(*) FROM worker_tickets") == 0
    assert await admin.fetchval("SELECT runtimes FROM dispatchers WHERE id = $1", far.id) == ["sandbox"]
    assert [row[0] for row in await far.connection.fetch("SELECT finish($1)", ending(task))] == [task_id]
    assert (await world.until(task_id))["status"] == "completed"


async def test_it_never_has_more_than_its_slots_however_it_asks(world, clone, far, admin):
    for _ in range(4):
        await submit_far(world)
    role = await admin.fetchval("SELECT role FROM enrolments WHERE name = 'far'")
    url = clone.cluster.url(clone.name, role, far.token.password())

    async def asks() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, server_settings={"search_path": "sfp_remote"})
        twin = Elsewhere("far", far.token, connection, uuid.uuid4())
        try:
            await twin.announce()
            return await twin.claim(up_to=9)
        finally:
            await connection.close()

    taken = [task for tasks in await asyncio.gather(*(asks() for _ in range(4))) for task in tasks]
    assert len(taken) == 1
    twice = json.dumps(json.loads(ending(taken[0])) * 5)
    rows = await far.connection.fetch(
        "SELECT * FROM finish_and_claim($1, $2, '{sandbox,+far}', 0, 3, 9)", twice, far.id
    )
    assert sum(row["ended"] is None for row in rows) == 1
    assert await admin.fetchval("SELECT count(*) FROM attempts WHERE status = 'active'") == 1


@pytest.fixture
async def ticket(world, far):
    """The ticket of a running attempt of `far` that declares a secret, not drawn yet."""
    async with world.api.transaction(world.owner) as tx:
        await secrets.put(tx, world.owner, world.keys, name="TOKEN", value="the-value")
    task_id = await submit_far(world, credentials=[{"type": "secret", "name": "TOKEN", "env": "T"}])
    await far.claim()
    await far.connection.execute("SELECT add_ticket($1, $2, 1)", hashlib.sha256(b"ticket").digest(), task_id)
    return "ticket"


async def test_a_ticket_opens_only_where_its_attempt_runs(world, clone, vault, far, other, ticket):
    async with Database(clone.role_url("sfp_broker"), application="test") as database:

        async def drawn(proof: str | None) -> list[dict[str, str]]:
            presented = Presented(ticket=ticket, connection=uuid.uuid4(), proof=proof)
            return (await Leasing(database).redeem(vault.opener, presented)).credentials

        for proof in (None, "", "nonsense", other.token.prove(ticket), far.token.prove("another")):
            with pytest.raises(Refused):
                await drawn(proof)
        assert [item["value"] for item in await drawn(far.token.prove(ticket))] == ["the-value"]
        with pytest.raises(Refused):
            await drawn(far.token.prove(ticket))


async def test_a_removed_machine_writes_and_draws_nothing_more(world, clone, vault, far, ticket, admin):
    task_id = await admin.fetchval("SELECT task_id FROM worker_tickets")
    role = await admin.fetchval("SELECT role FROM enrolments")
    await enrolments.unenrol(clone.admin_url, "far")
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        presented = Presented(ticket=ticket, connection=uuid.uuid4(), proof=far.token.prove(ticket))
        with pytest.raises(Refused):
            await Leasing(database).redeem(vault.opener, presented)
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
        await far.connection.fetch("SELECT finish('[]')")
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(clone.cluster.url(clone.name, role, far.token.password()))
    task = await world.until(task_id)
    assert (task["status"], task["error"]) == ("failed", task["error"])
    assert json.loads(task["error"])["code"] == "worker_lost"


async def test_a_task_goes_only_where_its_toolchain_is(world, admin):
    task_id = await submit_far(world)
    row = await world.until_reason(task_id, "no_runtime")
    assert row["reason_detail"] == "no dispatcher has the toolchain far"
    both = await submit_far(world, runtime="container")
    row = await world.until_reason(both, "no_runtime")
    assert row["reason_detail"] == "no dispatcher offers the runtime container and has the toolchain far"
    able = world.dispatch("there", machine=Machine(toolchains={"far": "2"}))
    await world.until(task_id)  # whatever the runtime of this test makes of it
    assert await admin.fetchval("SELECT dispatcher_id FROM attempts WHERE task_id = $1", task_id) == able.id


async def test_a_dispatcher_has_at_most_its_slots(world, admin):
    await world.close()
    world.dispatchers.clear()
    world.dispatch("small", machine=Machine(slots=1))
    tasks = [await world.submit("/bin/sleep", "0.3") for _ in range(3)]
    for task_id in tasks:
        assert (await world.until(task_id))["status"] == "completed"
    spans = await admin.fetch("SELECT started_at, ended_at FROM attempts ORDER BY started_at")
    assert all(later["started_at"] >= earlier["ended_at"] for earlier, later in itertools.pairwise(spans))


async def test_a_name_is_enrolled_once(clone, world, far):
    token = Token.fresh(b"f" * 32)
    with pytest.raises(Conflict):
        await enrolments.enrol(clone.admin_url, "far", token, slots=1)
    with pytest.raises(NotFound):
        await enrolments.unenrol(clone.admin_url, "nobody")


async def test_what_is_stored_of_a_token_is_not_the_token(far, admin):
    row = await admin.fetchrow("SELECT token_hash, public_key, role FROM enrolments WHERE name = 'far'")
    stored = {bytes(row["token_hash"]), bytes(row["public_key"])}
    stored.add((await admin.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", row["role"])).encode())
    known = (far.token.text(), far.token.password(), far.token.courier_key())
    assert not any(text.encode() in data for text in known for data in stored)
    assert far.token.text() not in repr(far.token)
    assert tls.fingerprint(tls.certificate_of(tls.new_authority())) != far.token.fingerprint


async def test_an_administrator_need_not_be_a_superuser(clone, admin):
    name = f"adm_{uuid.uuid4().hex[:8]}"
    await admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE PASSWORD 'adm'")
    await admin.execute(f"GRANT sfp_migrator TO {name}; GRANT sfp_remote_dispatcher TO {name} WITH ADMIN OPTION")
    url = clone.cluster.url(clone.name, name, "adm")
    token = Token.fresh(b"f" * 32)
    try:
        role = await enrolments.enrol(url, "far", token, slots=1)
        connection = await asyncpg.connect(clone.cluster.url(clone.name, role, token.password()))
        assert [row["name"] for row in await enrolments.enrolled(url)] == ["far"]
        await enrolments.unenrol(url, "far")
        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
            await connection.fetch("SELECT 1")
        assert await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", role) == 0
    finally:
        await admin.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
