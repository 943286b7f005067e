"""How long an event takes from its commit to a client, through a whole instance: PostgreSQL, relay, Valkey, API.

    .venv/bin/python benchmarks/live.py

Makes a throw-away instance, writes events as the API does, and reads them over WebSocket. Beside it, in the same
run, the floor: PostgreSQL's NOTIFY alone, from commit to a listener in this process.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.events import service
from sfp_server.settings import Settings

TIMES, BURST, BATCH = 300, 20_000, 100
FOLLOWERS, FOLLOWED = 200, 200
#: seconds between two single events: the machine is idle in between
PAUSE = 0.02
CHANNEL = "collection:benchmark"


@contextmanager
def instance() -> Iterator[tuple[Settings, str, str]]:
    """A running instance: its settings, the owner's e-mail address and password."""
    base = Path(tempfile.mkdtemp(prefix="sfp-bench-"))
    program = [str(Path(sys.executable).parent / "sfp-server")]
    where = ["-t", "bench", "--base-dir", str(base)]
    made = subprocess.run(
        [*program, "init", *where, "--no-caddy", "--json"], check=True, capture_output=True, text=True
    )
    told = json.loads(made.stdout)
    try:
        subprocess.run([*program, "start", *where], check=True, stdout=subprocess.DEVNULL)
        yield Settings.load(Path(told["directory"]), {}), told["admin"]["email"], told["admin"]["password"]
    finally:
        subprocess.run([*program, "stop", *where], check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(base)


async def sign_in(settings: Settings, email: str, password: str) -> tuple[str, Actor]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.api_port}/sfp/api") as http:
        answer = await http.post("/auth/admin/login", json={"email": email, "password": password})
        answer.raise_for_status()
        signed = answer.json()
    async with Database(settings.role_url("sfp_api"), application="benchmark", size=1) as database:
        async with database.identifying(user_id=signed["user"]["id"]) as tx:
            team_id = await tx.value("SELECT team_id FROM memberships LIMIT 1")
    actor = Actor(
        id=signed["user"]["id"], role=Role.OWNER, team_id=team_id, team_slug="", name=email, scopes=frozenset()
    )
    return signed["access_token"], actor


async def one_by_one(write: Callable[[int], Awaitable[float]], arrived: Callable[[int], Awaitable[float]]) -> None:
    """Milliseconds from the commit to the arrival, one event at a time."""
    found: list[float] = []
    for number in range(TIMES):
        arriving = asyncio.create_task(arrived(number))
        committed = await write(number)
        found.append((await arriving - committed) * 1000)
        await asyncio.sleep(PAUSE)
    found.sort()
    print(f"  median {statistics.median(found):6.2f} ms   p99 {found[int(len(found) * 0.99)]:6.2f} ms")


async def measure(settings: Settings, token: str, actor: Actor) -> None:
    address = f"ws://127.0.0.1:{settings.api_port}/sfp/api/realtime"
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        Database(settings.role_url("sfp_api"), application="benchmark", size=4) as database,
        connect(address, additional_headers=headers, proxy=None, max_queue=None) as socket,
    ):
        await socket.send(json.dumps({"type": "subscribe", "channel": CHANNEL, "after": None}))
        assert json.loads(await socket.recv())["type"] == "subscribed"

        async def write(number: int) -> float:
            async with database.transaction(actor) as tx:
                await service.record(tx, actor.team_id, [CHANNEL], "document.updated", {"number": number})
            return time.perf_counter()

        async def arrived(number: int) -> float:
            message = json.loads(await socket.recv())
            assert message["data"]["number"] == number
            return time.perf_counter()

        print(f"commit to client, {TIMES} events one by one:")
        await one_by_one(write, arrived)
        await floor(database, actor)
        await burst(database, actor, socket)
        async with AsyncExitStack() as stack:
            opening = [connect(address, additional_headers=headers, proxy=None) for _ in range(FOLLOWERS)]
            await fan_out(database, actor, [await stack.enter_async_context(one) for one in opening])


async def floor(database: Database, actor: Actor) -> None:
    heard: asyncio.Queue[float] = asyncio.Queue()
    listening = asyncio.Event()
    listen = database.listen("sfp_events", lambda _: heard.put_nowait(time.perf_counter()), connected=listening.set)
    task = asyncio.create_task(listen)
    await listening.wait()

    async def write(number: int) -> float:
        async with database.transaction(actor) as tx:
            await service.record(tx, actor.team_id, ["key-value"], "key_value.updated", {"number": number})
        return time.perf_counter()

    print(f"floor: commit to listener by NOTIFY alone, {TIMES} one by one:")
    await one_by_one(write, lambda _: heard.get())
    task.cancel()
    await asyncio.wait({task})


async def burst(database: Database, actor: Actor, socket: ClientConnection) -> None:
    async def read() -> float:
        for _ in range(BURST):
            await socket.recv()
        return time.perf_counter()

    reading = asyncio.create_task(read())
    datas: list[Any] = [{"stream": "stdout", "message": "x" * 80}] * BATCH
    started = time.perf_counter()
    for _ in range(BURST // BATCH):
        async with database.transaction(actor) as tx:
            await service.record_batch(tx, actor.team_id, CHANNEL, "task.log", datas)
    written = time.perf_counter()
    ended = await reading
    print(f"burst of {BURST} events of 80 characters in batches of {BATCH}:")
    print(f"  written in {written - started:5.2f} s, with the client {ended - written:5.2f} s later")
    print(f"  {BURST / (ended - started):,.0f} events per second to one client")


async def fan_out(database: Database, actor: Actor, sockets: list[ClientConnection]) -> None:
    for socket in sockets:
        await socket.send(json.dumps({"type": "subscribe", "channel": "team", "after": None}))
        await socket.recv()

    async def read(socket: ClientConnection) -> None:
        for _ in range(FOLLOWED):
            await socket.recv()

    started = time.perf_counter()
    reading = asyncio.gather(*map(read, sockets))
    for number in range(FOLLOWED):
        async with database.transaction(actor) as tx:
            await service.record(tx, actor.team_id, ["team"], "team.changed", {"number": number})
    await reading
    seconds = time.perf_counter() - started
    print(f"{FOLLOWERS} clients of one channel, {FOLLOWED} events each (the clients are in this one process too):")
    print(f"  {FOLLOWERS * FOLLOWED / seconds:,.0f} deliveries per second")


def main() -> None:
    with instance() as (settings, email, password):

        async def work() -> None:
            token, actor = await sign_in(settings, email, password)
            await measure(settings, token, actor)

        asyncio.run(work())


if __name__ == "__main__":
    main()
