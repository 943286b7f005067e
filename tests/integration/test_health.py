"""What health says about real parts that are there, and that are not."""

import asyncio
import uuid
from dataclasses import replace

import pytest
from valkey.asyncio import Valkey

import faults
import web_api
from sfp_server.db.database import Database
from sfp_server.health import Health
from web_api import API

DISPATCHER = "INSERT INTO dispatchers (id, host, pid, runtimes) VALUES ($1, 'here', 1, '{sandbox}')"


async def state(api):
    async with api.client() as client:
        answer = await client.get("/health")
    assert set(answer.json()) == {"status", "version"}
    return answer.status_code, answer.json()["status"]


async def test_without_a_dispatcher_it_is_degraded_and_with_one_healthy(clone, admin, valkey_url):
    async with Database(clone.role_url("sfp_api"), application="test") as database:
        cache = Valkey.from_url(valkey_url)
        assert (await Health(database, cache).look()).state == "degraded"
        await admin.execute(DISPATCHER, uuid.uuid4())
        vitals = await Health(database, cache).look()
        assert (vitals.state, vitals.dispatchers) == ("healthy", 1)
        await admin.execute("UPDATE dispatchers SET seen_at = now() - interval '11 seconds'")
        assert (await Health(database, cache).look()).state == "degraded"
        await cache.aclose()


async def test_without_its_cache_it_serves_on_degraded(api, admin, tmp_path):
    service = faults.valkey(tmp_path).start()
    try:
        await admin.execute(DISPATCHER, uuid.uuid4())
        settings = replace(api.settings, cache_url=f"unix://{tmp_path / 'valkey.sock'}")
        async with web_api.running(settings, admin) as other:
            assert await state(other) == (200, "healthy")
            service.kill()
            token = await other.owner()
            async with other.client(token) as client, asyncio.timeout(10):
                assert (await client.get(f"{API}/tasks")).status_code == 200
                while await state(other) != (200, "degraded"):
                    await asyncio.sleep(0.05)
    finally:
        service.stop()


async def test_without_its_database_it_says_503_and_when_to_come_again(api, admin):
    url = "postgresql://nobody@/none?host=/nowhere"
    async with web_api.running(replace(api.settings, database_url=url), admin) as lost, lost.client() as client:
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        assert int(answer.headers["retry-after"]) >= 1
        answer = await client.get(f"{API}/tasks", headers={"Authorization": "Bearer sfp_at_x"})
        assert answer.status_code == 401
        assert (await client.get(f"{API}/ping")).json() == {"status": "ok"}


async def test_asking_often_costs_the_database_nothing(clone, valkey_url):
    async with Database(clone.role_url("sfp_api"), application="test") as database:
        cache = Valkey.from_url(valkey_url)
        health = Health(database, cache)
        answers = await asyncio.gather(*(health.look() for _ in range(200)))
        assert all(answer is answers[0] for answer in answers)
        await cache.aclose()


async def test_the_detailed_answer_is_for_those_who_may(api):
    owner = await api.owner()
    async with api.client(owner) as client:
        answer = await client.get(f"{API}/health")
    body = answer.json()
    assert answer.status_code == 200
    assert set(body) == {"status", "timestamp", "components", "resources", "version"}
    assert set(body["components"]) == {"api", "database", "cache", "queues", "workers"}
    assert set(body["components"]["queues"]) == {"critical", "normal", "batch"}
    assert set(body["components"]["queues"]["normal"]) >= {"status", "pending", "active", "failed"}
    assert set(body["components"]["database"]["connections"]) == {"active", "max"}
    assert set(body["version"]) == {"server", "api", "database"}
    assert set(body["resources"]) == {"cpu", "memory", "disk"}


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("", {"name", "version", "apiVersion"}),
        ("/ping", {"status"}),
        ("/config", {"deploymentMode", "sso", "providers", "features"}),
    ],
)
async def test_what_anybody_may_know(api, path, keys):
    async with api.client() as client:
        assert set((await client.get(API + path)).json()) == keys
