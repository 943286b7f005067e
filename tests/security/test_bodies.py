"""Bad bodies: always a 4xx problem that says where, never a 500."""

import asyncio
import json
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfp_server.errors import SfpError
from sfp_server.web.wire import Wire, decode
from web_api import API

LOGIN = f"{API}/auth/admin/login"

MALFORMED = {
    "empty": b"",
    "not json": b"{",
    "not an object": b"[]",
    "null": b"null",
    "bad UTF-8": b'{"email":"\xff\xfe","password":"x"}',
    "raw NUL": b'{"email":"a\x00b","password":"x"}',
    "lone surrogate": rb'{"email":"a\ud800b","password":"x"}',
    "escaped NUL": rb'{"email":"a\u0000b","password":"x"}',
    "NUL in a key": rb'{"email\u0000":"ab","password":"x"}',
    "wrong type": b'{"email":5,"password":"x"}',
    "unknown field": b'{"email":"abc","password":"x","admin":true}',
    "missing field": b'{"email":"abc"}',
    "huge number": b'{"email":1e999,"password":"x"}',
    "huge integer": b'{"email":' + b"9" * 5000 + b',"password":"x"}',
    "NaN": b'{"email":NaN,"password":"x"}',
    "10,000 arrays": b'{"email":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "10,000 objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "10,000 open arrays": b"[" * 10_000,
    "too long a text": b'{"email":"' + b"a" * 400 + b'","password":"x"}',
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_body_is_a_400_problem(api, body):
    async with api.client() as client:
        answer = await client.post(LOGIN, content=body, headers={"content-type": "application/json"})
    problem = answer.json()
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["code"] == "bad_request"
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert (problem["statusCode"], problem["message"]) == (problem["status"], problem["detail"])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (rb'{"name":"a\u0000b"}', "name"),
        (rb'{"name":"a","scopes":["x","\u0000"]}', "scopes[1]"),
        (b'{"name":"a","scopes":["x",5]}', "scopes[1]"),
        (b'{"name":"a","expiresIn":"30"}', "expiresIn"),
        (b'{"name":"a","expiresIn":99999999999999999999}', "expiresIn"),
        (b'{"name":"a","expiresIn":0}', "expiresIn"),
        (b'{"name":"a","expires":1}', "expires"),
        (b'{"name":""}', "name"),
        (b"{}", "name"),
    ],
)
async def test_the_problem_says_where(api, body, path):
    owner = await api.owner()
    async with api.client(owner) as client:
        answer = await client.post(
            f"{API}/application-tokens", content=body, headers={"content-type": "application/json"}
        )
    assert answer.status_code == 400
    assert [wrong["path"] for wrong in answer.json()["errors"]] == [path]


async def test_a_body_over_the_limit_is_413(api):
    owner = await api.owner()
    big = json.dumps({"name": "a" * (1024 * 1024)}).encode()

    async def chunks():
        for start in range(0, len(big), 65_536):
            yield big[start : start + 65_536]

    async with api.client(owner) as client:
        for content in (big, chunks()):
            answer = await client.post(
                f"{API}/application-tokens", content=content, headers={"content-type": "application/json"}
            )
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_a_body_of_another_kind_is_415(api):
    async with api.client() as client:
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/msgpack", ""):
            answer = await client.post(LOGIN, content=b'{"email":"abc","password":"x"}', headers={"content-type": kind})
            assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


async def test_a_path_or_query_with_nul_or_too_long_is_400(api):
    owner = await api.owner()
    async with api.client(owner) as client:
        for path in ("/tasks?type=%00", "/tasks/%00", "/tasks?type=" + "a" * 9000, "/" + "a" * 5000):
            assert (await client.get(API + path)).status_code == 400, path[:20]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=201", "limit=x", "limit=1e3", "cursor=!!", "cursor=YWJj", "cursor=é"]
)
async def test_a_nonsense_page_is_400(api, query):
    owner = await api.owner()
    async with api.client(owner) as client:
        answer = await client.get(f"{API}/application-tokens?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, query.partition("=")[0])


@pytest.mark.parametrize("query", ["limit=-1", "limit=0", "limit=1001", "after=-1", f"after={2**63}", "attempt=0"])
async def test_nonsense_limits_of_logs_are_400(api, query):
    async with api.client(await api.owner()) as client:
        task = (await client.post(f"{API}/tasks", json={"type": "command", "data": {"argv": ["true"]}})).json()
        answer = await client.get(f"{API}/logs/{task['operationId']}?{query}")
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, query.partition("=")[0])


async def test_a_stranger_is_told_nothing_particular(api):
    async with api.client() as client:
        unknown = (await client.get("/secret/path")).json()
        token = (await client.get(f"{API}/users/me", headers={"Authorization": "Bearer xyz"})).json()
    assert unknown["detail"] == "there is no such thing"
    assert token["detail"] == "sign in or send a valid token"


async def test_a_sane_request_id_is_kept_and_another_replaced(api):
    async with api.client() as client:
        kept = await client.get("/health", headers={"X-Request-Id": "build-17.a_b"})
        made = [
            (await client.get("/health", headers={"X-Request-Id": sent})).headers["x-request-id"]
            for sent in ("a b", "x" * 65, 'a"b', "")
        ]
    assert kept.headers["x-request-id"] == "build-17.a_b"
    assert all(len(value) == 32 for value in made)


async def test_every_answer_carries_security_headers(api):
    async with api.client() as client:
        for path in ("/health", "/nowhere", f"{API}/users/me"):
            headers = (await client.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
            assert "default-src 'none'" in headers["content-security-policy"]


def refusal(body):
    """The status that this body meets, None: it is accepted."""
    try:
        decode(body, Anything)
    except SfpError as error:
        return error.status
    return None


class Anything(Wire):
    value: dict[str, object] | list[object] | str | float | None = None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_bytes_are_more_than_malformed(body):
    assert refusal(body) in {None, 400}


@given(st.recursive(st.none() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=30))
@settings(max_examples=200, deadline=None)
def test_whatever_is_accepted_can_be_stored(value):
    body = json.dumps({"value": [value]}).encode()
    if refusal(body) is None:
        assert b"\\u0000" not in msgspec.json.encode(decode(body, Anything))


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b'\\"' * 500_000,
        b"[" * 500_000 + b"]" * 500_000,
        b"[" + b"[]," * 300_000 + b"[]]",
        (b"[" * 64 + b"]" * 64 + b",") * 8_000,
        b'{"a":"' + b"[" * 1_000_000,
    ],
    ids=["escaped quotes", "deep", "wide", "64 deep and wide", "unterminated"],
)
def test_the_depth_of_a_mebibyte_is_found_quickly(body):
    started = time.process_time()
    assert refusal(body) in {None, 400}
    assert time.process_time() - started < 1.5


async def test_a_stalled_body_is_408_and_disturbs_nobody(api):
    from sfp_server.web.limits import Limits

    limits = api.app.asgi_handler
    while not isinstance(limits, Limits):
        limits = limits.app
    limits.stall = 0.2

    async def stalled():
        yield b'{"email":'
        await asyncio.Event().wait()

    async with api.client() as client:
        calls = [client.post(LOGIN, content=stalled(), headers={"content-type": "application/json"}) for _ in range(50)]
        waiting = asyncio.gather(*calls)
        assert (await client.get("/health")).status_code in {200, 503}
        answers = await waiting
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(408, "body_timeout")}


async def test_a_bug_shows_nothing_and_leaves_its_trace_in_the_log(api, capsys):
    owner = await api.owner()
    async with api.client(owner) as client:
        assert (await client.get(f"{API}/teams")).status_code == 200
        await api.admin.execute("ALTER TABLE users RENAME COLUMN first_name TO gone")
        answer = await client.get(f"{API}/users/me")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert answer.headers["content-type"] == "application/problem+json"
    for word in ("first_name", "column", "asyncpg", "Traceback", ".py"):
        assert word not in answer.text
    logged = capsys.readouterr().out
    assert answer.json()["requestId"] in logged
    assert "UndefinedColumnError" in logged


async def test_another_method_is_405_and_says_which_are_allowed(api):
    async with api.client() as client:
        answer = await client.put(f"{API}/ping")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("address", ["' OR 1=1 --", "x" * 5000, "", "1.2.3.4:80"])
async def test_a_forwarded_address_that_is_none_is_nobodys(api, address):
    await api.owner()
    assert (await api.login("ann@acme.example", address=address)).status_code == 200
    assert await api.admin.fetchval("SELECT address FROM sessions ORDER BY created_at DESC LIMIT 1") == ""
