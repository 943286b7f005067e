"""A network that was cut says nothing: whoever listens to the database notices all the same."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import pytest

from sfp_server.db import database as databases
from sfp_server.db.database import Database
from sfp_server.errors import Unavailable


@dataclass
class Cable:
    """Hands bytes through to a unix socket, until it is cut: then it swallows them, and hangs up on nobody."""

    port: int = 0
    is_cut: bool = False

    async def pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.is_cut:
                    writer.write(data)


@asynccontextmanager
async def cable(path: str) -> AsyncIterator[Cable]:
    made = Cable()
    writers = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        writers.extend([writer, inner_writer])
        await asyncio.gather(made.pour(reader, inner_writer), made.pour(inner_reader, writer))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        for writer in writers:
            writer.close()
        server.close()


async def test_a_listener_notices_that_the_network_was_cut(clone, monkeypatch):
    monkeypatch.setattr(databases, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(databases, "_PROBE_PATIENCE", 0.2)
    heard, listening = asyncio.Event(), asyncio.Event()
    async with cable(str(clone.cluster.socket / ".s.PGSQL.5432")) as way:
        url = f"postgresql://sfp_api:role-password@127.0.0.1:{way.port}/{clone.name}?sslmode=disable"
        async with Database(url, application="test") as database:
            running = asyncio.create_task(database.listen("word", lambda _: heard.set(), connected=listening.set))
            async with asyncio.timeout(10):
                await listening.wait()
                async with database.separately() as tx:
                    await tx.execute("SELECT pg_notify('word', '')")
                await heard.wait()
                done, _ = await asyncio.wait({running}, timeout=0.7)  # asked three times, and answered
                assert done == set()
                way.is_cut = True
                with pytest.raises(Unavailable):
                    await running
