"""The real API process: stalled and greedy connections, an absent database, a clean end."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import web_api
from sfp_server.identity.bootstrap import create_owner
from web_api import API


@dataclass
class Served:
    port: int
    process: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def healthy(self, *wanted: str) -> None:
        deadline = time.monotonic() + 30
        async with httpx.AsyncClient(base_url=self.url) as client:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if (await client.get("/health")).json()["status"] in wanted:
                        return
                assert time.monotonic() < deadline, self.log.read_text()
                await asyncio.sleep(0.05)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def serving(directory: Path, database_url: str, cache_url: str, port: int) -> AsyncIterator[Served]:
    log = directory / f"log-{time.monotonic_ns()}"
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "VALKEY_URL": cache_url,
        "SFP_API_PORT": str(port),
    }
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sfp_server.cli", "serve", "--directory", str(directory),
            env=environment, stdout=file, stderr=file,
        )  # fmt: skip
    try:
        yield Served(port, process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.fixture
async def served(clone, valkey_url, tmp_path) -> AsyncIterator[Served]:
    web_api.settings_for(tmp_path, clone, valkey_url)
    async with serving(tmp_path, clone.admin_url, valkey_url, free_port()) as server:
        await server.healthy("degraded", "healthy")
        yield server


async def test_stalled_connections_do_not_block_others(served):
    partial = b"POST /sfp/api/auth/admin/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
    beginnings = [b"", b"GET /health HT", partial, partial + b"Content-Type: application/json\r\n\r\n{"]
    stalled = [served.connect() for _ in range(200)]
    try:
        for number, connection in enumerate(stalled):
            connection.sendall(beginnings[number % 4])
        async with httpx.AsyncClient(base_url=served.url) as client:
            started = time.monotonic()
            for _ in range(20):
                assert (await client.get(f"{API}/ping")).status_code == 200
            assert time.monotonic() - started < 3
    finally:
        for connection in stalled:
            connection.close()


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /health HTTP/1.1\r\n" + b"X-A: " + b"a" * 200_000,
        b"GET /health HTTP/1.1\r\n" + b"X-A: b\r\n" * 20_000,
        b"GET /" + b"a" * 200_000,
    ],
    ids=["one large field", "many fields", "a large path"],
)
async def test_a_head_without_end_is_cut(served, request_head):
    answer = await asyncio.to_thread(_say, served, request_head)
    assert answer.startswith(b"HTTP/1.1 431")


def _say(served: Served, data: bytes) -> bytes:
    with served.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        return connection.recv(4096)


async def test_a_refused_body_does_not_hide_the_answer(served):
    async with httpx.AsyncClient(base_url=served.url) as client:
        for size in (500_000, 3_000_000):
            answer = await client.post(f"{API}/tasks", content=b"x" * size)
            assert answer.status_code == 401
            assert (await client.get("/health")).status_code == 200


async def test_it_starts_without_its_parts_and_heals(clone, valkey_url, tmp_path):
    web_api.settings_for(tmp_path, clone, valkey_url)
    socket_directory = tmp_path / "pg"
    socket_directory.mkdir()
    url = clone.admin_url.replace(
        str(clone.cluster.socket).replace("/", "%2F"), str(socket_directory).replace("/", "%2F")
    )
    assert url != clone.admin_url
    async with serving(tmp_path, url, f"unix://{tmp_path}/nothing.sock", free_port()) as server:
        await server.healthy("unhealthy")
        async with httpx.AsyncClient(base_url=server.url) as client:
            answer = await client.post(f"{API}/auth/admin/login", json={"email": "abc", "password": "x"})
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert (await client.get(f"{API}/ping")).status_code == 200
        name = ".s.PGSQL.5432"
        (socket_directory / name).symlink_to(clone.cluster.socket / name)
        await server.healthy("degraded", "healthy")


async def test_it_ends_within_five_seconds_with_requests_in_flight(served):
    waiting = served.connect()
    waiting.sendall(
        b"POST /sfp/api/auth/admin/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        b"Content-Type: application/json\r\n\r\n{"
    )
    started = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    await served.process.wait()
    assert time.monotonic() - started < 5
    waiting.close()


async def test_streams_do_not_hold_its_end_up(served, clone):
    from websockets.asyncio.client import connect

    await create_owner(clone.role_url("sfp_api"), "ann@acme.example", web_api.PASSWORD)
    async with httpx.AsyncClient(base_url=served.url) as client:
        login = {"email": "ann@acme.example", "password": web_api.PASSWORD}
        token = (await client.post(f"{API}/auth/admin/login", json=login)).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        long_poll = asyncio.create_task(client.get(f"{API}/events?channel=tasks&wait=30", headers=headers, timeout=40))
        url = f"ws://127.0.0.1:{served.port}{API}/realtime"
        async with connect(url, additional_headers=headers, subprotocols=["sfp.v1"], proxy=None) as socket:
            await socket.send('{"type":"subscribe","channel":"tasks","after":null}')
            await socket.recv()
            started = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            await served.process.wait()
            assert time.monotonic() - started < 5
        await asyncio.wait([long_poll])
        assert long_poll.exception() is not None or long_poll.result().status_code in {200, 503}


async def test_several_processes_share_a_port(served, clone, valkey_url, tmp_path):
    async with serving(tmp_path, clone.admin_url, valkey_url, served.port) as second:
        await asyncio.sleep(0)
        await second.healthy("degraded", "healthy")
        served.process.send_signal(signal.SIGTERM)
        await served.process.wait()
        await second.healthy("degraded", "healthy")


async def test_its_log_is_json_with_the_request_id(served):
    async with httpx.AsyncClient(base_url=served.url) as client:
        await client.get(
            f"{API}/ping?token=secret", headers={"X-Request-Id": "here-i-am", "Authorization": "Bearer abc"}
        )
    served.process.send_signal(signal.SIGTERM)
    await served.process.wait()
    import json

    lines = [json.loads(line) for line in served.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "here-i-am"]
    assert (line["message"], line["route"], line["status"], line["service"]) == ("request", f"{API}/ping", 200, "api")
    assert "secret" not in served.log.read_text()
    assert "Bearer" not in served.log.read_text()


async def test_a_forged_address_does_not_get_around_the_limits_of_guessing(served, tmp_path):
    """Through the real process: whoever is not the edge has the address that it comes from, whatever it says."""
    guess = {"email": "nobody@acme.example", "password": "wrong"}
    edge = {"X-Sfp-Edge": (tmp_path / "secrets" / "edge-key").read_text()}
    async with httpx.AsyncClient(base_url=f"{served.url}{API}") as client:

        async def tried(number, **headers):
            forged = {"X-Forwarded-For": f"198.51.100.{number}", "Forwarded": f"for=198.51.100.{number}"} | headers
            body = {"grant_type": "refresh_token", "refresh_token": "sfp_rt_x"}
            return (await client.post("/auth/token", json=body, headers=forged)).status_code

        assert [await tried(number) for number in range(51)] == [401] * 50 + [429]
        assert await tried(1, **edge) == 401
        assert (await client.post("/auth/admin/login", json=guess, headers=edge)).status_code == 401
