"""An engine without HTTP: a dispatcher with real sandboxes, a real broker, a real database."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from sfp_server.actor import Actor, Role
from sfp_server.credentials.public import PublicKeys
from sfp_server.db.database import Database
from sfp_server.kinds import KINDS
from sfp_server.runtimes.base import Limits
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.sandbox import SandboxRuntime
from sfp_server.settings import Settings
from sfp_server.tasks import service, wire
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.tasks.attempt import Engine
from sfp_server.tasks.dispatcher import Dispatcher
from sfp_server.tasks.reports import SQL as DISPATCH_SQL
from sfp_server.tasks.schedules import fire
from sfp_server.web.wire import convert
from vaults import Vault

FINAL = {"completed", "failed", "cancelled"}


@pytest.fixture
async def acme(admin: asyncpg.Connection) -> UUID:
    return await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('acme', 'Acme') RETURNING id")


@pytest.fixture
async def owner(admin: asyncpg.Connection, acme: UUID) -> Actor:
    user = await admin.fetchval("INSERT INTO users (email) VALUES ('ann@acme.example') RETURNING id")
    await admin.execute("INSERT INTO memberships (team_id, user_id, role) VALUES ($1, $2, 'owner')", acme, user)
    return Actor(
        id=user,
        role=Role.OWNER,
        team_id=acme,
        team_slug="acme",
        name="ann@acme.example",
        scopes=frozenset({"tasks:cancel-any"}),
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(directory=tmp_path, worker_counts="1,2,1")


@dataclass
class World:
    """What a test drives: submit as an actor, wait for an end, look at what was stored."""

    api: Database
    admin: asyncpg.Connection
    owner: Actor
    settings: Settings
    keys: PublicKeys
    engine: Engine
    clone: Any
    dispatchers: list[tuple[Dispatcher, asyncio.Task]] = field(default_factory=list)
    #: the dispatcher's statements, for tests that play its part
    dispatch_sql = DISPATCH_SQL

    async def fire(self) -> None:
        """Make the runs of every series that is due, as a dispatcher does."""
        while await fire(self.engine.database):
            pass

    async def submit(self, *argv: str, **fields: Any) -> UUID:
        data = {"argv": list(argv), **fields.pop("data", {})}
        body = convert({"type": "command", "data": data, **fields}, wire.SubmitTask)
        async with self.api.transaction(self.owner) as tx:
            row = await service.submit(
                tx, self.owner, service.check(body, KINDS, self.settings), self.settings, request_id="test"
            )
        return row["id"]

    async def until(self, task_id: UUID, *statuses: str) -> asyncpg.Record:
        """Wait, by notification, until the task has one of the statuses (default: a final one)."""
        wanted = set(statuses) or FINAL
        told = asyncio.Event()
        connection = await asyncpg.connect(self.clone.admin_url)
        await connection.add_listener("sfp_events", lambda *_: told.set())
        try:
            async with asyncio.timeout(30):
                while True:
                    told.clear()
                    row = await connection.fetchrow("SELECT * FROM sfp.tasks WHERE id = $1", task_id)
                    if row["status"] in wanted:
                        return row
                    await told.wait()
        finally:
            await connection.close()

    async def until_reason(self, task_id: UUID, reason: str) -> asyncpg.Record:
        """Wait until a pending task says `reason` (the dispatcher looks every second)."""
        return await self._until_row(
            "SELECT * FROM sfp.tasks WHERE id = $1", task_id, lambda row: row["reason"] == reason
        )

    async def until_count(self, statement: str, task_id: UUID, *, at_least: int) -> None:
        await self._until_row(statement, task_id, lambda row: row[0] >= at_least)

    async def _until_row(self, statement: str, task_id: UUID, wanted: Any) -> asyncpg.Record:
        async with asyncio.timeout(30):
            while not wanted(row := await self.admin.fetchrow(statement, task_id)):
                await asyncio.sleep(0.05)  # reasons are kept without an event
        return row

    async def run(self, *argv: str, **fields: Any) -> asyncpg.Record:
        return await self.until(await self.submit(*argv, **fields))

    async def lines(self, task_id: UUID) -> list[str]:
        async with self.api.transaction(self.owner) as tx:
            rows = await service.logs(tx, task_id, after=0, since=None, until=None, limit=1000)
        return [row["data"]["message"] for row in rows]

    def dispatch(self, place: str = "here", **options: Any) -> Dispatcher:
        dispatcher = Dispatcher(
            self.engine,
            lease_seconds=self.settings.lease_seconds,
            state_file=self.settings.directory / "dispatcher.json",
            place=place,
            **options,
        )
        self.dispatchers.append((dispatcher, asyncio.create_task(dispatcher.run(stop_seconds=5))))
        return dispatcher

    async def close(self) -> None:
        for dispatcher, running in self.dispatchers:
            dispatcher.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await running


@pytest.fixture
def vault(tmp_path) -> Vault:
    return Vault.made(tmp_path / "vault-keys")


@pytest.fixture
async def world(clone, admin, owner, settings, vault, tmp_path) -> AsyncIterator[World]:
    socket = tmp_path / "broker.sock"
    runtime = SandboxRuntime(socket, EgressPolicy(), warm=1, scratch=tmp_path / "scratch")
    async with (
        Database(clone.role_url("sfp_api"), application="test") as api,
        Database(clone.role_url("sfp_dispatcher"), application="test") as dispatching,
        Database(clone.role_url("sfp_broker"), application="test") as brokering,
    ):
        serving = asyncio.create_task(vault.serve(brokering, socket))
        await runtime.open()
        engine = Engine(
            database=dispatching, runtimes={"sandbox": runtime}, default_runtime="sandbox", kinds=KINDS,
            store=ArtifactStore(tmp_path / "artifacts"), limits=Limits(), grace_seconds=1,
        )  # fmt: skip
        made = World(api, admin, owner, settings, vault.public, engine, clone)
        made.dispatch()
        yield made
        await made.close()
        await runtime.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
