"""API processes for the tests of live events: the real routes on a real port; only who may enter is decided here."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import uvicorn
import valkey.asyncio
from litestar import Litestar, Router
from litestar.di import Provide
from websockets.asyncio.client import ClientConnection, connect

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.errors import SfpError, TokenInvalid
from sfp_server.events import service
from sfp_server.events.live import Live
from sfp_server.events.relay import Relay
from sfp_server.events.rights import Rights
from sfp_server.events.routes import ROUTES
from sfp_server.web import problems
from sfp_server.web.guard import Guard
from sfp_server.web.origins import Origins
from sfp_server.web.ratelimit import RateLimiter


@dataclass
class Door:
    """Who may enter with which token; stands in for the authenticator, whose seam it is."""

    actors: dict[str, Actor] = field(default_factory=dict)
    refusals: dict[str, SfpError] = field(default_factory=dict)

    async def __call__(self, token: str, *, team: str | None, address: str = "") -> Actor:
        if token in self.refusals:
            raise self.refusals[token]
        if token not in self.actors:
            raise TokenInvalid("unknown token")
        return self.actors[token]

    def admit(self, team_id: UUID, *scopes: str) -> str:
        """A new member of the team; answers the token."""
        token = f"token-{uuid4().hex}"
        self.actors[token] = Actor(
            id=uuid4(),
            role=Role.MEMBER,
            team_id=team_id,
            team_slug="acme",
            name="ann",
            scopes=frozenset(scopes or {"events:read"}),
        )
        return token


@dataclass
class Api:
    """One API process's worth: its own database pool, its own Valkey connection, its own port."""

    port: int
    live: Live

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/sfp/api"

    @asynccontextmanager
    async def client(self, token: str, **options: Any) -> AsyncIterator["Client"]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.connection(additional_headers=headers, **options) as connection:
            yield Client(connection)

    def connection(self, **options: Any) -> connect:
        address = f"ws://127.0.0.1:{self.port}/sfp/api/realtime"
        chosen = {"proxy": None, "compression": None, "close_timeout": 1, "max_queue": None, **options}
        return connect(address, subprotocols=["sfp.v1"], **chosen)


@dataclass
class Client:
    connection: ClientConnection

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def next(self, seconds: float = 10) -> dict[str, Any]:
        async with asyncio.timeout(seconds):
            return json.loads(await self.connection.recv())

    async def subscribe(self, channel: str, after: int | None = None) -> int:
        await self.send(type="subscribe", channel=channel, after=after)
        answer = await self.next()
        assert answer["type"] == "subscribed", answer
        assert answer["channel"] == channel
        return answer["seq"]

    async def events(self, count: int) -> list[int]:
        """The numbers of the next so many events."""
        messages = [await self.next() for _ in range(count)]
        assert {message["type"] for message in messages} <= {"event"}, messages
        return [message["seq"] for message in messages]


@asynccontextmanager
async def serve_api(database_url: str, valkey_url: str, door: Door) -> AsyncIterator[Api]:
    """Serve the routes of events until the block ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    cache = valkey.asyncio.from_url(valkey_url, socket_connect_timeout=1)
    async with Database(database_url, application="test api") as database, cache:
        live = Live(database, cache, Rights(door))
        app = Litestar(
            route_handlers=[Router("/sfp/api", route_handlers=ROUTES)],
            dependencies={
                "db": Provide(lambda: database, sync_to_thread=False),
                "live": Provide(lambda: live, sync_to_thread=False),
            },
            guards=[Guard(authenticate=door, limiter=RateLimiter(None), origins=Origins.of([], []), actor_limit=0)],
            exception_handlers=dict(problems.HANDLERS),
            openapi_config=None,
            logging_config=None,
        )
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1, ws_max_size=65536)
        server = uvicorn.Server(config)
        running = [asyncio.create_task(live.run()), asyncio.create_task(server._serve([listener]))]
        try:
            yield Api(listener.getsockname()[1], live)
        finally:
            server.should_exit = True
            await running[1]
            running[0].cancel()
            await asyncio.wait(running)


@asynccontextmanager
async def relaying(database_url: str, valkey_url: str) -> AsyncIterator[Relay]:
    """The deliverer's relay, listening, until the block ends."""
    cache = valkey.asyncio.from_url(valkey_url, socket_connect_timeout=1)
    async with Database(database_url, application="test deliverer", size=2) as database, cache:
        relay = Relay(database, cache)
        running = asyncio.create_task(relay.run())
        await relay.is_listening.wait()
        yield relay
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@dataclass
class Writer:
    """Records events as the API and the dispatcher do."""

    database: Database
    actor: Actor

    async def write(self, channel: str, *numbers: int, text: str = "") -> int:
        """One batch; answers its last number."""
        datas = [{"n": number, "text": text} for number in numbers]
        async with self.database.transaction(self.actor) as tx:
            return await service.record_batch(tx, self.actor.team_id, channel, "task.log", datas)

    async def record(self, *channels: str, event: str, data: Any = None) -> None:
        async with self.database.transaction(self.actor) as tx:
            await service.record(tx, self.actor.team_id, channels, event, data or {})
