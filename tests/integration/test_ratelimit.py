"""Rate limits: shared by processes through a real Valkey, kept without it, cheap."""

import asyncio
import contextlib
import time
import uuid
from dataclasses import replace

import pytest
from valkey.asyncio import Valkey

import faults
import web_api
from sfp_server.errors import TooManyRequests
from sfp_server.web.ratelimit import RateLimiter, headers_of
from web_api import API

NOON = 1_800_000_000.0


@contextlib.asynccontextmanager
async def limiter(url):
    cache = Valkey.from_url(url, socket_timeout=1)
    made = RateLimiter(cache, clock=lambda: NOON)
    running = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        running.cancel()
        await asyncio.wait([running])
        await cache.aclose()


def used(limit, subject, most):
    """How many of `most` requests are let through."""
    count = 0
    with contextlib.suppress(TooManyRequests):
        for _ in range(most):
            limit.check({}, subject, "actor", 10)
            count += 1
    return count


async def exchanged(limit, subject, known):
    async with asyncio.timeout(5):
        while limit._counts[subject].known != known:
            await asyncio.sleep(0.02)


async def test_processes_count_together(valkey_url):
    subject = f"actor-{uuid.uuid4()}"
    async with limiter(valkey_url) as first, limiter(valkey_url) as second:
        assert used(first, subject, 6) == 6
        await exchanged(first, subject, 6)
        assert used(second, subject, 1) == 1
        await exchanged(second, subject, 7)
        assert used(second, subject, 20) == 3


async def test_without_a_cache_each_process_still_counts(tmp_path):
    service = faults.valkey(tmp_path).start()
    try:
        async with limiter(f"unix://{tmp_path / 'valkey.sock'}") as alone:
            assert used(alone, "a", 1) == 1
            service.kill()
            async with asyncio.timeout(5):
                while alone._exchanging:
                    await asyncio.sleep(0.05)
            assert used(alone, "a", 20) == 9
            assert used(alone, "b", 20) == 10
    finally:
        service.stop()


async def test_the_answer_says_what_is_left_and_when_to_come_again(api, clone, valkey_url):
    settings = replace(api.settings, actor_rate_limit=3, address_rate_limit=0)
    token = await api.owner()
    async with web_api.running(settings, api.admin) as limited, limited.client(token) as client:
        limited.app.asgi_handler.app.limiter._clock = lambda: NOON
        answers = [await client.get(f"{API}/users/me") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"actor";q=3;w=60'
    assert answers[0].headers["ratelimit"].startswith('"actor";r=2;t=')
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert answers[3].json()["code"] == "too_many_requests"


async def test_one_address_does_not_use_up_anothers(api):
    settings = replace(api.settings, address_rate_limit=2)
    async with web_api.running(settings, api.admin) as limited:
        limited.app.asgi_handler.app.limiter._clock = lambda: NOON
        for address in ("198.51.100.7", "198.51.100.8"):
            async with limited.client(address=address) as client:
                codes = [(await client.get(f"{API}/ping")).status_code for _ in range(3)]
            assert codes == [200, 200, 429]


def test_a_check_costs_almost_nothing():
    made = RateLimiter(None)
    scope = {}
    started = time.process_time()
    for number in range(10_000):
        made.check(scope, f"actor:{number % 500}", "actor", 1_000_000)
        headers_of(scope)
    assert (time.process_time() - started) / 10_000 < 0.0003


@pytest.mark.parametrize("limit", [0])
def test_zero_means_unlimited(limit):
    made = RateLimiter(None)
    for _ in range(100):
        made.check({}, "a", "actor", limit)
