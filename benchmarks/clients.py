"""Clients that submit a task and wait for its result in different ways, over connections that are open already.

Each `run` answers the seconds from the first byte of the submission to the last byte of the result. They are
written on the standard library so that what is measured is the server, not a client library; `Sdk` is the exception.
"""

import http.client
import json
import socket
import ssl
import time
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from sfp_client import Client

TRIVIAL = {"type": "command", "data": {"argv": ["true"]}}
FINAL = ("task.completed", "task.failed", "task.cancelled")
PATIENCE = 30.0
#: seconds between two looks of a client that polls
POLL_SECONDS = 0.005


class Failed(Exception):
    """A task did not do what a trivial task does: the measurement means nothing."""


class Connection:
    """One HTTP connection that is kept open."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            self._http = http.client.HTTPSConnection(host, port, timeout=PATIENCE, context=tls)
        else:
            self._http = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        self._http.connect()
        self._http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def open(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        request = partial(
            self._http.request, method, "/sfp/api" + path, body=data, headers={**self._headers, **headers}
        )
        try:
            request()
            answer = self._http.getresponse()
        except (OSError, http.client.HTTPException):  # the edge hung up meanwhile: connections are not kept for ever
            self._http.close()
            request()
            answer = self._http.getresponse()
        if answer.status >= 300:
            raise Failed(f"{method} {path}: {answer.status} {answer.read()[:300]!r}")
        return answer

    def json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self.open(method, path, body).read())

    def submit(self, body: Any) -> str:
        return self.json("POST", "/tasks", body)["operationId"]

    def result(self, operation_id: str, *, wait: int = 0) -> dict[str, Any]:
        result = self.json("GET", f"/tasks/{operation_id}/result" + (f"?wait={wait}" if wait else ""))
        if result["status"] != "completed" or result["result"]["exitCode"] != 0:
            raise Failed(f"a trivial task ended so: {result}")
        return result

    def close(self) -> None:
        self._http.close()


class _Waiting:
    """What all of them share: submit, wait in their own way, fetch the result."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        self.http = Connection(url, token, tls)

    def run(self, body: Any = TRIVIAL) -> float:
        began = time.perf_counter()
        operation_id = self.http.submit(body)
        self.wait(operation_id)
        self.http.result(operation_id)
        return time.perf_counter() - began

    def wait(self, operation_id: str) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class Waited(_Waiting):
    """`GET …/result?wait=`: the plainest way, on the same connection."""

    def run(self, body: Any = TRIVIAL) -> float:
        began = time.perf_counter()
        operation_id = self.http.submit(body)
        self.http.result(operation_id, wait=20)
        return time.perf_counter() - began


class Socket(_Waiting):
    """One WebSocket. `channel` None: subscribe to each task's own channel once its number is known."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None = None, *, channel: str | None) -> None:
        super().__init__(url, token, tls)
        self._channel = channel
        self._socket = connect(
            "ws" + url.removeprefix("http") + "/sfp/api/realtime",
            ssl=tls if url.startswith("https") else None,
            subprotocols=[Subprotocol("sfp.v1")],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            ping_interval=None,  # while others are measured nobody reads here
            proxy=None,
            legacy=True,  # it lives as long as this object, not as long as a block
        )
        if channel is not None:
            self.subscribe(channel, after=None)
            self.message("subscribed")

    def subscribe(self, channel: str, *, after: int | None) -> None:
        self._socket.send(json.dumps({"type": "subscribe", "channel": channel, "after": after}))

    def message(self, kind: str) -> dict[str, Any]:
        """The next message of one kind."""
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message["type"] == "error":
                raise Failed(str(message))
            if message["type"] == kind:
                return message

    def wait(self, operation_id: str) -> None:
        if self._channel is None:
            self.subscribe(f"task:{operation_id}", after=0)
        while True:
            message = self.message("event")
            if message["event"] in FINAL and message["data"]["operationId"] == operation_id:
                break
        if self._channel is None:
            self._socket.send(json.dumps({"type": "unsubscribe", "channel": f"task:{operation_id}"}))

    def close(self) -> None:
        self._socket.close()
        super().close()


class Stream(_Waiting):
    """Server-sent events of the task, on a second connection."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(url, token, tls)
        self._events = Connection(url, token, tls)

    def wait(self, operation_id: str) -> None:
        answer = self._events.open("GET", f"/tasks/{operation_id}/events?after=0", Accept="text/event-stream")
        answer.read()  # it ends after the final event

    def close(self) -> None:
        self._events.close()
        super().close()


class Polling(_Waiting):
    """Asks for the status again and again."""

    def wait(self, operation_id: str) -> None:
        while self.http.json("GET", f"/tasks/{operation_id}/status")["status"] in {"pending", "active"}:
            time.sleep(POLL_SECONDS)


class Sdk:
    """`submit` and `wait` of the Python SDK: a WebSocket of its own for each wait."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self) -> float:
        began = time.perf_counter()
        task = self._client.tasks.submit("command", {"argv": ["true"]})
        result = self._client.tasks.wait(task["operationId"], timeout=PATIENCE)
        seconds = time.perf_counter() - began
        if result["status"] != "completed":
            raise Failed(f"a trivial task ended so: {result}")
        return seconds
