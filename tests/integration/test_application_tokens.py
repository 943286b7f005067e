"""Application tokens and creating once, over HTTP."""

import asyncio
import time

from web_api import API

TOKENS = f"{API}/application-tokens"


async def test_a_token_is_shown_once_and_stored_as_a_hash(api):
    owner = await api.owner()
    made = await api.application_token(owner, expiresIn=10)
    stored = await api.admin.fetch("SELECT * FROM application_tokens")
    assert len(stored) == 1
    assert made["token"] not in str(stored)
    async with api.client(owner) as client:
        listed = (await client.get(TOKENS)).json()
    assert listed["nextCursor"] is None
    (item,) = listed["items"]
    assert item == {
        "id": made["id"],
        "name": "ci",
        "team": "acme",
        "scopes": made["scopes"],
        "createdAt": made["createdAt"],
        "createdBy": "ann@acme.example",
        "expiresAt": made["expiresAt"],
        "lastUsedAt": None,
        "lastUsedAddress": None,
        "allowedAddresses": [],
        "status": "active",
    }
    assert "token" not in item


async def test_it_acts_in_its_team_with_its_scopes(api):
    owner = await api.owner()
    await api.owner("eve@other.example", "other")
    made = await api.application_token(owner, scopes=["tasks:read"])
    async with api.client(made["token"]) as client:
        assert (await client.get(f"{API}/tasks")).status_code == 200
        assert (await client.get(f"{API}/users/me")).status_code == 403
        assert (await client.get(f"{API}/tasks", headers={"X-Sfp-Team": "acme"})).status_code == 200
        assert (await client.get(f"{API}/tasks", headers={"X-Sfp-Team": "other"})).status_code == 404
    assert await api.admin.fetchval("SELECT last_used_at IS NOT NULL FROM application_tokens")


async def test_neither_members_nor_tokens_manage_tokens(api):
    owner = await api.owner()
    member = await api.member()
    made = await api.application_token(owner)
    for token in (member, made["token"]):
        async with api.client(token) as client:
            assert (await client.get(TOKENS)).status_code == 403
            assert (await client.post(TOKENS, json={"name": "x"})).status_code == 403
            assert (await client.delete(f"{TOKENS}/{made['id']}")).status_code == 403


async def test_scopes_no_application_may_have_are_refused(api):
    owner = await api.owner()
    async with api.client(owner) as client:
        for scope in ("secrets:manage", "application-tokens:manage", "queues:write", "no:such"):
            answer = await client.post(TOKENS, json={"name": "x", "scopes": ["tasks:read", scope]})
            assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "scopes")


async def test_after_expiry_there_is_no_grace(api):
    made = await api.application_token(await api.owner())
    await api.admin.execute("UPDATE application_tokens SET expires_at = now()")
    assert await _code(api, made["token"]) == "token_expired"


async def test_a_revoked_token_opens_nothing_within_a_second_in_every_process(api, clone, valkey_url, tmp_path):
    import web_api

    owner = await api.owner()
    made = await api.application_token(owner)
    async with web_api.running(api.settings, api.admin) as second:
        assert await _code(api, made["token"]) is None
        assert await _code(second, made["token"]) is None
        async with api.client(owner) as client:
            for _ in range(2):  # twice is fine
                answer = await client.delete(f"{TOKENS}/{made['id']}")
                assert (answer.status_code, answer.json()["status"]) == (200, "revoked")
        deadline = time.monotonic() + 1
        codes = set()
        while codes != {"token_revoked"} and time.monotonic() < deadline:
            codes = {await _code(api, made["token"]), await _code(second, made["token"])}
    assert codes == {"token_revoked"}
    actions = await api.admin.fetch("SELECT action FROM audit_log WHERE action LIKE 'application_token.%' ORDER BY id")
    assert [row["action"] for row in actions] == ["application_token.created", "application_token.revoked"]


async def test_another_teams_token_does_not_exist(api):
    made = await api.application_token(await api.owner())
    eve = await api.owner("eve@other.example", "other")
    async with api.client(eve) as client:
        assert (await client.delete(f"{TOKENS}/{made['id']}")).status_code == 404
        assert (await client.get(TOKENS)).json()["items"] == []
    assert await _code(api, made["token"]) is None


async def test_noise_is_refused_without_asking_the_database(api):
    for token in ("sfp_at_", "sfp_at_12345678_" + "a" * 49, "x" * 9000, "a.b.c"):
        assert await _code(api, token) == "token_invalid"


async def test_pages_neither_skip_nor_double(api):
    owner = await api.owner()
    async with api.client(owner) as client:
        made = [(await client.post(TOKENS, json={"name": f"t{n}"})).json()["id"] for n in range(7)]
        seen, cursor = [], None
        while True:
            answer = (await client.get(TOKENS, params={"limit": 3} | ({"cursor": cursor} if cursor else {}))).json()
            seen += [item["id"] for item in answer["items"]]
            cursor = answer["nextCursor"]
            if len(seen) == 3:
                await client.post(TOKENS, json={"name": "newer"})
            if cursor is None:
                break
    assert seen == made[::-1]


async def test_the_same_key_and_body_give_the_first_answer(api):
    owner = await api.owner()
    async with api.client(owner, **{"Idempotency-Key": "build-17"}) as client:
        first = await client.post(TOKENS, json={"name": "ci"})
        second = await client.post(TOKENS, json={"name": "ci"})
        other = await client.post(TOKENS, json={"name": "other"})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert await api.admin.fetchval("SELECT count(*) FROM application_tokens") == 1
    stored = await api.admin.fetchval("SELECT response::text FROM idempotency_keys")
    assert first.json()["token"] not in stored


async def test_of_requests_at_once_with_one_key_exactly_one_creates(api):
    owner = await api.owner()
    async with api.client(owner, **{"Idempotency-Key": "same"}) as client:
        answers = await asyncio.gather(*(client.post(TOKENS, json={"name": "ci"}) for _ in range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["token"] for answer in answers}) == 1
    assert sum("idempotent-replayed" in answer.headers for answer in answers) == 7
    assert await api.admin.fetchval("SELECT count(*) FROM application_tokens") == 1


async def test_a_failed_creation_does_not_use_the_key_up(api):
    owner = await api.owner()
    async with api.client(owner, **{"Idempotency-Key": "again"}) as client:
        assert (await client.post(TOKENS, json={"name": "ci", "scopes": ["no:such"]})).status_code == 400
        assert (await client.post(TOKENS, json={"name": "ci"})).status_code == 201


async def test_keys_are_the_actors_own_and_last_a_day(api):
    owner = await api.owner()
    second = await api.owner("bob@third.example", "third")
    for token in (owner, second):
        async with api.client(token, **{"Idempotency-Key": "mine"}) as client:
            assert "idempotent-replayed" not in (await client.post(TOKENS, json={"name": "ci"})).headers
    await api.admin.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
    async with api.client(owner, **{"Idempotency-Key": "mine"}) as client:
        assert "idempotent-replayed" not in (await client.post(TOKENS, json={"name": "else"})).headers
        for key in ("", "a b", "x" * 256, "é".encode()):
            answer = await client.post(TOKENS, json={"name": "ci"}, headers={"Idempotency-Key": key})
            assert answer.status_code == 400


async def _code(api, token):
    async with api.client(token) as client:
        return (await client.get(f"{API}/tasks")).json().get("code")
