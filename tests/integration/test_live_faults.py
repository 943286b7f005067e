"""Live events while parts die: whatever happens, each follower gets each event once and in order."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

import faults
from live_api import Api, Door, Writer, relaying, serve_api

#: nothing here waits for a time: a fault happens after so many events were seen
BATCHES, BATCH = 40, 5
TOTAL = BATCHES * BATCH


@dataclass
class Scene:
    api: Api
    door: Door
    writer: Writer
    token: str
    team_id: UUID
    valkey: faults.Service
    valkey_url: str
    stack: AsyncExitStack

    async def write(self, meanwhile: Callable[[int], None] | None = None) -> None:
        """Batches one after the other; `meanwhile` is called with the number of each before it is written."""
        for number in range(BATCHES):
            if meanwhile is not None:
                meanwhile(number)
            await self.writer.write("tasks", *range(BATCH))

    async def follow(self, api: Api | None = None) -> list[int]:
        async with (api or self.api).client(self.token) as client:
            await client.subscribe("tasks", after=0)
            return await client.events(TOTAL)


@pytest.fixture
async def scene(clone, admin, api_database, short_path) -> AsyncIterator[Scene]:
    door = Door()
    team_id = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    token = door.admit(team_id)
    valkey_url = f"unix://{short_path / 'valkey.sock'}"
    async with AsyncExitStack() as stack:
        valkey = faults.valkey(short_path).start()
        stack.callback(valkey.stop)
        api = await stack.enter_async_context(serve_api(clone.role_url("sfp_api"), valkey_url, door))
        await api.live.is_hearing.wait()
        writer = Writer(api_database, door.actors[token])
        yield Scene(api, door, writer, token, team_id, valkey, valkey_url, stack)


async def _relay(scene: Scene, clone) -> None:
    await scene.stack.enter_async_context(relaying(clone.role_url("sfp_deliverer"), scene.valkey_url))


async def test_valkey_is_killed_and_started_again(scene, clone):
    await _relay(scene, clone)
    following = asyncio.create_task(scene.follow())

    def meanwhile(number: int) -> None:
        if number == 10:
            scene.valkey.kill()
        elif number == 25:
            scene.valkey.start()

    await scene.write(meanwhile)
    assert await following == list(range(1, TOTAL + 1))
    await scene.api.live.is_hearing.wait()  # connected again, by itself


async def test_valkey_is_frozen_and_thawed(scene, clone):
    await _relay(scene, clone)
    following = asyncio.create_task(scene.follow())

    def meanwhile(number: int) -> None:
        if number == 10:
            scene.valkey.freeze()
        elif number == 30:
            scene.valkey.thaw()

    await scene.write(meanwhile)
    assert await following == list(range(1, TOTAL + 1))


async def test_valkey_was_never_there(clone, admin, api_database, short_path):
    door = Door()
    team_id = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")
    token = door.admit(team_id)
    writer = Writer(api_database, door.actors[token])
    nowhere = f"unix://{short_path / 'nothing.sock'}"
    async with (
        relaying(clone.role_url("sfp_deliverer"), nowhere),
        serve_api(clone.role_url("sfp_api"), nowhere, door) as api,
        api.client(token) as client,
    ):
        await client.subscribe("tasks")
        await writer.write("tasks", 1, 2, 3)
        assert await client.events(3) == [1, 2, 3]


async def test_the_database_drops_all_connections(scene, clone, admin):
    await _relay(scene, clone)
    following = asyncio.create_task(scene.follow())
    for _ in range(BATCHES // 2):
        await scene.writer.write("tasks", *range(BATCH))
    await admin.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        " AND application_name IN ('test api', 'test deliverer')"
    )
    for _ in range(BATCHES // 2):
        await scene.writer.write("tasks", *range(BATCH))
    assert await following == list(range(1, TOTAL + 1))


async def test_the_relay_process_is_killed_and_started_again(scene, clone, short_path):
    relay = _relay_process(short_path, clone, scene.valkey_url)
    await asyncio.to_thread(relay.start)
    try:
        following = asyncio.create_task(scene.follow())
        for _ in range(BATCHES // 2):
            await scene.writer.write("tasks", *range(BATCH))
        relay.kill()
        for _ in range(BATCHES // 4):
            await scene.writer.write("tasks", *range(BATCH))
        await asyncio.to_thread(relay.start)
        for _ in range(BATCHES // 4):
            await scene.writer.write("tasks", *range(BATCH))
        assert await following == list(range(1, TOTAL + 1))
    finally:
        relay.stop()


async def test_an_api_process_goes_and_its_clients_resume_at_another(scene, clone):
    await _relay(scene, clone)
    async with (
        serve_api(clone.role_url("sfp_api"), scene.valkey_url, scene.door) as doomed,
        doomed.client(scene.token) as client,
    ):
        await client.subscribe("tasks", after=0)
        writing = asyncio.create_task(scene.write())
        seen = await client.events(TOTAL // 4)
    async with scene.api.client(scene.token) as client:
        await client.subscribe("tasks", after=seen[-1])
        seen += await client.events(TOTAL - len(seen))
    await writing
    assert seen == list(range(1, TOTAL + 1))


def _relay_process(directory: Path, clone, valkey_url: str) -> faults.Service:
    """The deliverer as it is started for real, and ready once it listens."""
    (directory / "secrets").mkdir()
    (directory / "secrets" / "db-sfp_deliverer").write_text("role-password")
    argv = [sys.executable, "-m", "sfp_server.cli", "deliver", "--directory", str(directory)]
    environment = {"DATABASE_URL": clone.admin_url, "VALKEY_URL": valkey_url}
    return faults.Service(argv, lambda: asyncio.run(_is_listening(clone)), directory / "relay.log", environment)


async def _is_listening(clone) -> bool:
    connection = await asyncpg.connect(clone.admin_url)
    try:
        return await connection.fetchval(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'sfp_deliverer' AND query ILIKE 'LISTEN%'"
        )
    finally:
        await connection.close()
