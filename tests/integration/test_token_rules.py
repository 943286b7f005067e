"""Application tokens: where they may be used from, what is told of them, what they can be given, how fast they end."""

import asyncio
import contextlib
import json
import time
from datetime import timedelta

import httpx
import pytest
from test_serve import free_port, serving
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import web_api
from sfp_server.actor import Role
from sfp_server.db.database import Database
from sfp_server.identity import application_tokens
from sfp_server.identity.model import SCOPES, Scope
from sfp_server.web.operations import Operations
from web_api import API

TOKENS = f"{API}/application-tokens"


async def _answer(api, token, address):
    async with api.client(token, address=address) as client:
        answer = await client.get(f"{API}/tasks")
    return answer.status_code, answer.json().get("code")


async def test_a_token_is_used_from_its_addresses_only_also_while_it_is_remembered(api):
    made = await api.application_token(await api.owner(), allowedAddresses=["198.51.100.0/24", "2001:db8::/32"])
    assert made["allowedAddresses"] == ["198.51.100.0/24", "2001:db8::/32"]
    for address, status in [
        ("198.51.100.9", 200),
        ("198.51.101.9", 403),
        ("::ffff:198.51.100.9", 200),
        ("::ffff:198.51.101.9", 403),
        ("2001:db8:1::1", 200),
        ("2001:db9::1", 403),
        ("nonsense", 403),
        ("198.51.100.9", 200),
    ]:
        code = None if status == 200 else "address_not_allowed"
        assert await _answer(api, made["token"], address) == (status, code), address


@pytest.mark.parametrize(
    "addresses",
    [["198.51.100.1/24"], ["x"], ["::ffff:10.0.0.0/104"], ["10.0.0.0/33"], ["10.0.0.1"] * 51, ["*"]],
    ids=str,
)
async def test_what_is_no_network_is_refused(api, addresses):
    async with api.client(await api.owner()) as client:
        answer = await client.post(TOKENS, json={"name": "x", "allowedAddresses": addresses})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


async def test_the_last_use_says_from_where(api):
    owner = await api.owner()
    made = await api.application_token(owner)
    await _answer(api, made["token"], "198.51.100.9")
    async with api.client(owner) as client:
        (item,) = (await client.get(TOKENS)).json()["items"]
    assert (item["lastUsedAddress"], item["lastUsedAt"] is None) == ("198.51.100.9", False)


async def test_tokens_that_nobody_made_are_slowed_down_by_address_and_good_ones_are_not(api):
    made = await api.application_token(await api.owner())
    await api.admin.execute("UPDATE application_tokens SET token_hash = sha256('x') WHERE id = $1", made["id"])
    good = await api.application_token(await api.owner())
    answers = [await _answer(api, made["token"], "203.0.113.9") for _ in range(51)]
    assert answers == [(401, "token_invalid")] * 50 + [(429, "too_many_requests")]
    assert await _answer(api, made["token"], "203.0.113.10") == (401, "token_invalid")
    assert await _answer(api, good["token"], "203.0.113.9") == (200, None)


async def test_scopes_that_can_be_granted_are_those_that_operations_declare(api):
    owner = await api.owner()
    operations = Operations()
    operations.fill(api.app.routes)
    async with api.client(owner) as client:
        items = (await client.get(f"{TOKENS}/scopes")).json()["items"]
    assert {item["scope"] for item in items} == SCOPES[Role.APPLICATION]  # each of them opens something
    assert "GET /sfp/api/tasks" in next(item["operations"] for item in items if item["scope"] == "tasks:read")
    assert set(operations.by_scope()) == set(Scope)
    without_asking = SCOPES[Role.APPLICATION] - {Scope.INTEGRATIONS_CREDENTIALS}
    assert (await api.application_token(owner))["scopes"] == sorted(without_asking)


async def _events(api, owner):
    async with api.client(owner) as client:
        answer = await client.get(f"{API}/events", params={"channel": "team", "after": 0})
    return [
        (item["event"], item["data"]["name"]) for item in answer.json()["items"] if item["event"].startswith("token")
    ]


async def test_each_step_to_the_end_of_a_token_is_told_once_whoever_looks(api, clone):
    owner = await api.owner()
    for name in ("long", "ending"):
        await api.application_token(owner, name=name, expiresIn=60)
    await api.application_token(owner, name="short", expiresIn=1)
    token = await api.application_token(owner, name="dropped", expiresIn=60)
    async with api.client(owner) as client:
        await client.delete(f"{TOKENS}/{token['id']}")
    made = [("token.created", name) for name in ("long", "ending", "short", "dropped")] + [("token.revoked", "dropped")]
    assert await _events(api, owner) == made

    async def tell():
        async with (
            Database(clone.role_url("sfp_dispatcher"), application="test") as one,
            Database(clone.role_url("sfp_dispatcher"), application="test") as other,
        ):
            return sum(await asyncio.gather(*(application_tokens.tell(database) for database in (one, other, one))))

    async def ends_in(interval):
        await api.admin.execute(
            "UPDATE application_tokens SET expires_at = now() + $1::interval WHERE name IN ('ending', 'dropped')",
            interval,
        )
        return await tell()

    day = timedelta(days=1)
    assert await tell() == 0
    assert [await ends_in(day * 6), await ends_in(day * 5), await ends_in(day / 2), await ends_in(-day)] == [1, 0, 1, 1]
    assert (await _events(api, owner))[len(made) :] == [
        ("token.expiring", "ending"),
        ("token.expiring", "ending"),
        ("token.expired", "ending"),
    ]


@contextlib.asynccontextmanager
async def _socket(port, token):
    async with connect(
        f"ws://127.0.0.1:{port}{API}/realtime", additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
    ) as socket:
        await socket.send(json.dumps({"type": "subscribe", "channel": "tasks"}))
        assert json.loads(await socket.recv())["type"] == "subscribed"
        yield socket


async def _gone(socket):
    """Seconds until the connection was told and closed."""
    started = time.monotonic()
    said = json.loads(await asyncio.wait_for(socket.recv(), 5))
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(socket.recv(), 5)
    assert said == {"type": "gone", "channel": "tasks"}
    return time.monotonic() - started


async def _refused(url, token):
    """Seconds until a request with the token is refused."""
    started = time.monotonic()
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {token}"}) as client:
        while (await client.get(f"{API}/tasks")).status_code == 200:
            assert time.monotonic() - started < 5
    return time.monotonic() - started


@pytest.mark.timeout(180)
async def test_a_revoked_token_is_dead_within_a_second_in_every_process_without_valkey(clone, admin, tmp_path):
    """Two real API processes; Valkey does not exist. Measured: requests, and WebSockets that were open."""
    settings = web_api.settings_for(tmp_path, clone, "unix:///nowhere/valkey.sock")
    ports = [free_port(), free_port()]
    async with contextlib.AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(serving(tmp_path, clone.admin_url, settings.cache_url, port))
            for port in ports
        ]
        api = await stack.enter_async_context(web_api.running(settings, admin))
        owner = await api.owner()
        made = await api.application_token(owner)
        for server in servers:
            await server.healthy("degraded", "healthy")
        sockets = [await stack.enter_async_context(_socket(port, made["token"])) for port in ports]
        waits = [asyncio.create_task(_gone(socket)) for socket in sockets]
        waits += [asyncio.create_task(_refused(server.url, made["token"])) for server in servers]
        async with api.client(owner) as client:
            assert (await client.delete(f"{TOKENS}/{made['id']}")).status_code == 200
        revoked = time.monotonic()
        await asyncio.gather(*waits)
        print(f"everywhere {time.monotonic() - revoked:.3f} s after the answer")
        assert time.monotonic() - revoked <= 1.0
