"""A double of the server for the client's tests: real HTTP and WebSocket on a real port, answers as api.md has them.

What the real server seldom does on demand (503, a cut connection, a gap, an odd close code) is scripted here; the
acceptance tests run the same client against a whole instance.
"""

import asyncio
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

PREFIX = "/sfp/api"


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def problem(status: int, code: str, detail: str = "no", **extra: Any) -> Answer:
    """Problem details as the API gives them."""
    headers = {"content-type": "application/problem+json"}
    if status in {429, 503}:
        headers["retry-after"] = str(extra.pop("retry_after", 1))
    return Answer(status, {"status": status, "code": code, "detail": detail, "requestId": "r-1", **extra}, headers)


class Peer:
    """The server's end of one WebSocket."""

    def __init__(self, receive: Any, send: Any, headers: dict[str, str]) -> None:
        self._receive = receive
        self._send = send
        self.headers = headers

    async def accept(self) -> None:
        await self._receive()
        await self._send({"type": "websocket.accept", "subprotocol": "sfp.v1"})

    async def subscription(self) -> dict[str, Any]:
        message = json.loads((await self._receive())["text"])
        assert message["type"] == "subscribe"
        return message

    async def say(self, **message: Any) -> None:
        await self._send({"type": "websocket.send", "text": json.dumps(message)})

    async def event(self, channel: str, seq: int, event: str = "task.log", **data: Any) -> None:
        await self.say(type="event", channel=channel, seq=seq, event=event, at="2026-01-01T00:00:00Z", data=data)

    async def close(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})

    async def until_the_client_goes(self) -> None:
        while (await self._receive())["type"] != "websocket.disconnect":
            pass

    async def refuse(self, status: int) -> None:
        await self._receive()
        await self._send({"type": "websocket.http.response.start", "status": status, "headers": []})
        await self._send({"type": "websocket.http.response.body", "body": b""})


@dataclass
class Double:
    """Answers by `METHOD path` below the prefix: an Answer, a list that is used up, or a function of the request."""

    routes: dict[str, Any] = field(default_factory=dict)
    #: one function for each connection, in order; the last one serves all further ones
    sockets: list[Callable[[Peer], Awaitable[None]]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    url: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        if scope["type"] == "websocket":
            serve = self.sockets[min(self.connections, len(self.sockets) - 1)]
            self.connections += 1
            await serve(Peer(receive, send, headers))
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"].removeprefix(PREFIX)
        request = Request(scope["method"], path, scope["query_string"].decode(), headers, body)
        self.requests.append(request)
        answer = self._answer(request)
        raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        merged = {"content-type": "application/json"} | answer.headers
        encoded = [(name.encode(), value.encode()) for name, value in merged.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": raw})

    def _answer(self, request: Request) -> Answer:
        found = self.routes.get(f"{request.method} {request.path}", problem(404, "not_found", "there is no such thing"))
        if isinstance(found, list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return found(request) if callable(found) else found


@contextmanager
def serving(double: Double) -> Iterator[Double]:
    """Serve on a free loopback port, from a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))
    double.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(double, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server._serve([listener])))
    thread.start()
    try:
        yield double
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def free_port() -> int:
    """A port on which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
