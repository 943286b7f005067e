"""The courier's errands, over real TLS: only for what a machine runs, and whole or not at all."""

import asyncio
import hashlib
import json
import os
import struct
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import asyncpg
import msgspec
import pytest

from integration.test_remote_rights import Elsewhere, enrolled, submit_far
from sfp_server.credentials import service as secrets
from sfp_server.credentials.broker import Broker, Listener
from sfp_server.credentials.leasing import Leasing
from sfp_server.db.database import Database
from sfp_server.remote import enrolments, tls, wire
from sfp_server.remote.client import Address, Brought, CourierClient, NotOurs, Refused, Unreachable
from sfp_server.remote.courier import Courier
from sfp_server.remote.errands import Errands
from sfp_server.remote.token import Token
from sfp_server.runtimes import broker
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_worker.credentials import Drawn, draw
from sfp_worker.failure import Failed

LIMIT = 4 << 20
FACTS = wire.Facts(
    name="", slots=0, lease_seconds=15, grace_seconds=1, team_active_max=0, preemptions_max=3, limits={}, version="1"
)


@dataclass
class Scene:
    """A courier on loopback, and a machine that runs one task."""

    world: object
    machine: Elsewhere
    client: CourierClient
    task: uuid.UUID
    store: ArtifactStore
    directory: Path
    port: int
    authority: str

    def brought(self, data: bytes, name: str = "out.bin") -> Brought:
        path = self.directory / uuid.uuid4().hex
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        return Brought(
            task=self.task, attempt=1, artifact=uuid.uuid4(), name=name, path=path, size=len(data), sha256=digest
        )

    async def stored(self) -> list[asyncpg.Record]:
        return await self.world.admin.fetch("SELECT id, name, size, sha256, team_id FROM artifacts WHERE attempt = 1")

    def incoming(self) -> list[Path]:
        return list((self.directory / "store").glob("*.incoming"))


@pytest.fixture
async def scene(clone, world, tmp_path: Path) -> AsyncIterator[Scene]:
    authority = tls.new_authority()
    (tmp_path / "courier.pem").write_text(tls.issue(authority, tls.COURIER))
    certificate = tls.certificate_of(authority)
    store = ArtifactStore(tmp_path / "store")
    async with (
        Database(clone.role_url("sfp_courier"), application="test") as database,
        enrolled(clone, "far") as machine,
    ):
        errands = Errands(database, store, ca=certificate, facts=FACTS, limit=LIMIT)
        socket = clone.cluster.socket / ".s.PGSQL.5432"
        courier = Courier(
            errands, tls=tls.serving(str(tmp_path / "courier.pem")), broker=tmp_path / "none", database=socket
        )
        bound = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(courier.serve("127.0.0.1", 0, listening=bound.set_result))
        port = await bound
        token = replace(machine.token, fingerprint=tls.fingerprint(certificate))
        client = CourierClient(Address(host="127.0.0.1", port=port), token)
        await client.meet()
        task = await submit_far(world)
        await machine.claim()
        yield Scene(world, machine, client, task, store, tmp_path, port, authority)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_a_machine_is_told_its_own_facts_and_nobody_else_any(scene):
    facts = await scene.client.enter()
    assert (facts.name, facts.slots, facts.lease_seconds) == ("far", 1, 15)
    stranger = CourierClient(Address(host="127.0.0.1", port=scene.port), Token.fresh(b"x" * 32))
    with pytest.raises(NotOurs):
        await stranger.meet()
    unknown = Token.fresh(tls.fingerprint(tls.certificate_of(scene.authority)))
    guest = CourierClient(Address(host="127.0.0.1", port=scene.port), unknown)
    await guest.meet()
    with pytest.raises(Refused) as refused:
        await guest.enter()
    assert refused.value.code == "unknown"


async def test_a_kept_file_has_its_row_when_it_is_whole(scene):
    data = os.urandom(700_000)
    brought = scene.brought(data)
    await scene.client.keep(brought)
    await scene.client.keep(brought)  # the answer may have been lost
    (row,) = await scene.stored()
    assert (row["id"], row["name"], row["size"], row["sha256"]) == (
        brought.artifact, "out.bin", len(data), brought.sha256,
    )  # fmt: skip
    assert row["team_id"] == scene.world.owner.team_id
    assert scene.store.path(brought.artifact).read_bytes() == data
    assert scene.incoming() == []


async def test_a_file_that_broke_off_is_gone_on_with(scene):
    data = os.urandom(1_000_000)
    brought = scene.brought(data)
    asked = {
        "do": "keep", "key": scene.machine.token.courier_key(), "task": str(scene.task), "attempt": 1,
        "artifact": str(brought.artifact), "name": brought.name, "size": brought.size, "sha256": brought.sha256,
    }  # fmt: skip
    reader, writer = await connect(scene)
    writer.write(json.dumps(asked).encode() + b"\n" + data[:400_000])
    await writer.drain()
    assert json.loads(await reader.readline()) == {"have": 0}
    writer.close()
    async with asyncio.timeout(10):
        while not scene.incoming() or scene.incoming()[0].stat().st_size < 400_000:
            await asyncio.sleep(0.01)
    assert await scene.stored() == []
    reader, writer = await connect(scene)
    writer.write(json.dumps(asked).encode() + b"\n")
    assert json.loads(await reader.readline()) == {"have": 400_000}
    writer.write(data[400_000:])
    assert json.loads(await reader.readline()) == {"stored": True}
    writer.close()
    assert scene.store.path(brought.artifact).read_bytes() == data


async def connect(scene: Scene) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
    writer.write(wire.PREFACE)
    assert await reader.readexactly(2) == wire.READY
    await writer.start_tls(tls.trusting(tls.certificate_of(scene.authority)), server_hostname=tls.COURIER)
    return reader, writer


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sha256": "0" * 64}, "damaged"),
        ({"attempt": 2}, "stale"),
        ({"task": uuid.uuid4()}, "stale"),
        ({"name": "../out"}, "malformed"),
        ({"name": "/out"}, "malformed"),
        ({"size": LIMIT + 1}, "large"),
    ],
)
async def test_what_is_not_this_machine_s_or_not_whole_is_refused(scene, change, code):
    with pytest.raises(Refused) as refused:
        await scene.client.keep(replace(scene.brought(b"data"), **change))
    assert refused.value.code == code
    assert await scene.stored() == []
    assert scene.incoming() == []


async def test_files_of_an_attempt_are_limited_together(scene):
    await scene.client.keep(scene.brought(b"x" * (LIMIT - 10), "one"))
    with pytest.raises(Refused) as refused:
        await scene.client.keep(scene.brought(b"x" * 11, "two"))
    assert refused.value.code == "large"
    with pytest.raises(Refused) as refused:
        await scene.client.keep(scene.brought(b"x", "one"))
    assert refused.value.code == "malformed"
    await scene.client.keep(scene.brought(b"x" * 10, "two"))


async def test_an_input_goes_only_to_the_machine_that_runs_its_task(scene, clone, tmp_path):
    data = os.urandom(300_000)

    async def chunks():
        yield data

    stored = await scene.store.receive(chunks(), limit=LIMIT)
    await scene.world.admin.execute(
        "INSERT INTO artifacts (id, team_id, name, size, sha256, created_by) VALUES ($1, $2, 'in.bin', $3, $4, 'me')",
        stored.id, scene.world.owner.team_id, stored.size, stored.sha256,
    )  # fmt: skip
    target = tmp_path / "input"
    with pytest.raises(Refused):  # the task does not name it
        await scene.client.fetch(scene.task, stored.id, target)
    named = msgspec.json.encode({"argv": ["x"], "workspace": {"artifact": str(stored.id)}}).decode()
    await scene.world.admin.execute("UPDATE tasks SET data = $2 WHERE id = $1", scene.task, named)
    target.write_bytes(data[:1000])  # what came before a connection broke
    assert await scene.client.fetch(scene.task, stored.id, target) == "in.bin"
    assert target.read_bytes() == data
    target.write_bytes(b"something else")
    with pytest.raises(Unreachable):
        await scene.client.fetch(scene.task, stored.id, target)
    async with enrolled(clone, "other") as other:
        token = replace(other.token, fingerprint=scene.client._token.fingerprint)
        nosy = CourierClient(Address(host="127.0.0.1", port=scene.port), token)
        await nosy.meet()
        with pytest.raises(Refused):
            await nosy.fetch(scene.task, stored.id, tmp_path / "stolen")


async def test_the_database_is_reached_as_a_dispatcher_or_not_at_all(scene, clone):
    context = tls.trusting(tls.certificate_of(scene.authority), check_name=False)
    role = await scene.world.admin.fetchval("SELECT role FROM enrolments")
    assert role.startswith(enrolments.ROLE_PREFIX)
    url = f"postgresql://{role}@127.0.0.1:{scene.port}/{clone.name}"
    connection = await asyncpg.connect(url, password=scene.machine.token.password(), ssl=context)
    assert await connection.fetchval("SELECT session_user") == role
    await connection.close()
    for user, password in (("postgres", "admin"), ("sfp_dispatcher", "role-password")):
        with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError, asyncpg.InterfaceError)):
            await asyncpg.connect(url.replace(role, user), password=password, ssl=context)
    with pytest.raises((ConnectionError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)):
        await asyncpg.connect(url, password=scene.machine.token.password(), ssl=False)


async def test_a_user_named_twice_is_nobody(scene):
    reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
    writer.write(struct.pack("!ii", 8, 80877103))
    assert await reader.readexactly(1) == b"S"
    context = tls.trusting(tls.certificate_of(scene.authority), check_name=False)
    await writer.start_tls(context, server_hostname=tls.COURIER)
    body = b"user\0sfp_at_x\0user\0postgres\0\0"
    writer.write(struct.pack("!ii", 8 + len(body), 3 << 16) + body)
    assert await reader.read() == b""
    writer.close()


@pytest.fixture
async def way(world, vault, clone, short_path: Path) -> AsyncIterator["Way"]:
    """A broker for workers elsewhere, a courier before it, and what passes between them."""
    authority = tls.new_authority()
    for name in (tls.COURIER, broker.NAME):
        (short_path / name).write_text(tls.issue(authority, name))
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        keys = vault.keyring(database)
        await keys.load()
        listener = Listener(Broker(keys, Leasing(database)).answer)
        serving = listener.serve(short_path / "inner", tls=tls.serving(str(short_path / broker.NAME)))
        made = Way(authority, short_path)
        errands = Errands(database, ArtifactStore(short_path / "store"), ca="", facts=FACTS, limit=0)
        courier = Courier(
            errands, tls=tls.serving(str(short_path / tls.COURIER)), broker=short_path / "tapped", database=None
        )
        bound = asyncio.get_running_loop().create_future()
        tap = await asyncio.start_unix_server(made.tap, short_path / "tapped")
        tasks = [
            asyncio.create_task(serving),
            asyncio.create_task(courier.serve("127.0.0.1", 0, listening=bound.set_result)),
        ]
        made.port = await bound
        yield made
        tap.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Way:
    authority: str
    directory: Path
    port: int = 0
    seen: bytes = b""

    async def tap(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(self.directory / "inner"))

        async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                self.seen += data
                target.write(data)
            target.close()

        await asyncio.gather(pour(reader, inner_writer), pour(inner_reader, writer), return_exceptions=True)

    async def draw(self, token: Token, *, ticket: str = "ticket", ca: str | None = None) -> Drawn:
        """As a worker does, with the socket that its dispatcher dialled."""
        certificate = tls.certificate_of(ca or self.authority)
        door = broker.RemoteBroker(host="127.0.0.1", port=self.port, ca=certificate, prove=token.prove)
        descriptor = await broker.connect(door)
        return await asyncio.to_thread(draw, descriptor, ticket, door.introduction(ticket))


async def test_nobody_on_the_way_to_the_broker_sees_what_is_drawn(world, clone, way):
    async with world.api.transaction(world.owner) as tx:
        await secrets.put(tx, world.owner, world.keys, name="TOKEN", value="nobody-on-the-way")
    async with enrolled(clone, "far") as far, enrolled(clone, "thief") as thief:
        task_id = await submit_far(world, credentials=[{"type": "secret", "name": "TOKEN", "env": "T"}])
        await far.claim()
        await far.connection.execute("SELECT add_ticket($1, $2, 1)", hashlib.sha256(b"ticket").digest(), task_id)
        with pytest.raises(Failed, match="did not answer"):  # somebody else's certificate
            await way.draw(far.token, ca=tls.new_authority())
        with pytest.raises(Failed, match="unknown, expired or used"):
            await way.draw(thief.token)
        drawn = await way.draw(far.token)
    assert drawn.env == {"T": "nobody-on-the-way"}
    assert len(way.seen) > 1000
    assert b"nobody-on-the-way" not in way.seen
    assert b"ticket" not in way.seen
