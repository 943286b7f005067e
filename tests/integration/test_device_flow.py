"""Signing in on a machine without a browser (RFC 8628): over HTTP, against a real database."""

import asyncio

import pytest

from web_api import API

GRANT = "urn:ietf:params:oauth:grant-type:device_code"


async def ask(api, *, address="198.51.100.7", agent="sfp/1.0 on buildbox"):
    async with api.client(address=address, **{"User-Agent": agent}) as client:
        answer = await client.post(f"{API}/auth/device/code", json={})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def poll(api, codes, *, address="198.51.100.7"):
    async with api.client(address=address) as client:
        return await client.post(f"{API}/auth/device/token", json={"device_code": codes["device_code"]})


async def decide(api, token, user_code, decision="approve", *, address="192.0.2.1"):
    async with api.client(token, address=address) as client:
        return await client.post(f"{API}/auth/device/approve", json={"user_code": user_code, "decision": decision})


async def later(api):
    """As if the interval between two polls were over."""
    await api.admin.execute("UPDATE device_codes SET polled_at = polled_at - interval '1 minute'")


async def test_a_device_gets_its_users_tokens_once(api):
    token = await api.owner()
    codes = await ask(api)
    assert codes["verification_uri"].endswith("/sfp/api/auth/device")
    assert codes["verification_uri_complete"] == f"{codes['verification_uri']}?user_code={codes['user_code']}"
    assert (codes["expires_in"], codes["interval"]) == (600, 5)
    assert (await poll(api, codes)).json()["error"] == "authorization_pending"
    decided = await decide(api, token, codes["user_code"])
    assert decided.json() == {
        "success": True,
        "decision": "approve",
        "client": "sfp/1.0 on buildbox",
        "address": "198.51.100.7",
    }
    signed = await poll(api, codes)
    assert signed.status_code == 200
    async with api.client(signed.json()["access_token"]) as client:
        assert (await client.get(f"{API}/users/me")).json()["email"] == "ann@acme.example"
    again = await poll(api, codes)
    assert (again.status_code, again.json()["error"]) == (400, "expired_token")


async def test_the_refusals_are_those_of_the_rfc_and_problems_too(api):
    codes = await ask(api)
    answer = await poll(api, codes)
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["error"], body["code"], body["status"]) == ("authorization_pending", "authorization_pending", 400)


async def test_an_oauth_client_may_send_forms(api):
    async with api.client() as client:
        codes = (await client.post(f"{API}/auth/device/code", data={"client_id": "any", "scope": ""})).json()
        form = {"grant_type": GRANT, "device_code": codes["device_code"], "client_id": "any"}
        answer = await client.post(f"{API}/auth/device/token", data=form)
        wrong = await client.post(f"{API}/auth/device/token", data=form | {"grant_type": "password"})
        elsewhere = await client.post(f"{API}/auth/admin/login", data={"email": "a@b.c", "password": "x"})
    assert answer.json()["error"] == "authorization_pending"
    assert (wrong.status_code, wrong.json()["errors"][0]["path"]) == (400, "grant_type")
    assert elsewhere.status_code == 415


async def test_polling_too_often_is_slowed_down(api):
    codes = await ask(api)
    errors = [(await poll(api, codes)).json()["error"] for _ in range(3)]
    assert errors == ["authorization_pending", "slow_down", "slow_down"]
    assert await api.admin.fetchval("SELECT interval_seconds FROM device_codes") == 15
    await later(api)
    assert (await poll(api, codes)).json()["error"] == "authorization_pending"


async def test_a_refused_device_gets_nothing(api):
    token = await api.owner()
    codes = await ask(api)
    assert (await decide(api, token, codes["user_code"], "deny")).status_code == 200
    assert (await poll(api, codes)).json()["error"] == "access_denied"
    assert (await decide(api, token, codes["user_code"])).status_code == 404


async def test_codes_expire(api):
    token = await api.owner()
    codes = await ask(api)
    await api.admin.execute("UPDATE device_codes SET expires_at = now()")
    assert (await decide(api, token, codes["user_code"])).status_code == 404
    assert (await poll(api, codes)).json()["error"] == "expired_token"


async def test_an_approved_code_expires_too(api):
    token = await api.owner()
    codes = await ask(api)
    await decide(api, token, codes["user_code"])
    await api.admin.execute("UPDATE device_codes SET expires_at = now()")
    assert (await poll(api, codes)).json()["error"] == "expired_token"


async def test_an_unknown_code_is_an_invalid_grant(api):
    answer = await poll(api, {"device_code": "sfp_dc_unknown"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


async def test_the_user_code_opens_nothing_by_itself(api):
    codes = await ask(api)
    assert (await poll(api, {"device_code": codes["user_code"]})).json()["error"] == "invalid_grant"


async def test_of_many_polls_at_once_one_gets_tokens(api):
    token = await api.owner()
    codes = await ask(api)
    await decide(api, token, codes["user_code"])
    answers = await asyncio.gather(*(poll(api, codes) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400, 400]
    assert await api.admin.fetchval("SELECT count(*) FROM audit_log WHERE detail->>'via' LIKE 'device:%'") == 1


async def test_of_two_users_at_once_one_decides(api):
    tokens = [await api.owner(), await api.member()]
    codes = await ask(api)
    answers = await asyncio.gather(*(decide(api, token, codes["user_code"]) for token in tokens))
    assert sorted(answer.status_code for answer in answers) == [200, 404]


@pytest.mark.parametrize("typed", ["{}", "{} ", "lower", "without the dash"])
async def test_a_code_may_be_typed_as_people_type(api, typed):
    token = await api.owner()
    code = (await ask(api))["user_code"]
    forms = {"lower": code.lower(), "without the dash": code.replace("-", "")}
    assert (await decide(api, token, forms.get(typed, typed.format(code)))).status_code == 200


async def test_guesses_of_the_user_code_are_slowed_down(api):
    token = await api.owner()
    code = (await ask(api))["user_code"]
    for number in range(5):
        assert (await decide(api, token, "BCDF-GHJK", address=f"203.0.113.{number}")).status_code == 404
    slowed = await decide(api, token, code, address="203.0.113.99")
    assert (slowed.status_code, slowed.json()["code"]) == (429, "too_many_requests")


async def test_a_right_code_in_between_does_not_give_more_guesses(api):
    token = await api.owner()
    for number in range(5):
        own = (await ask(api))["user_code"]
        assert (await decide(api, token, own, "deny", address=f"203.0.113.{number}")).status_code == 200
        assert (await decide(api, token, "BCDF-GHJK", address=f"203.0.113.{number}")).status_code == 404
    assert (await decide(api, token, "BCDF-GHJK", address="203.0.113.99")).status_code == 429


async def test_guesses_of_many_users_at_one_address_are_slowed_down(api):
    await api.owner()
    tokens = [await api.member(f"m{number}@acme.example") for number in range(6)]
    answers = [
        (await decide(api, token, "BCDF-GHJK", address="203.0.113.5")).status_code for token in tokens for _ in range(4)
    ]
    assert answers == [404] * 20 + [429] * 4


async def test_only_users_approve(api):
    owner = await api.owner()
    machine = (await api.application_token(owner))["token"]
    codes = await ask(api)
    assert (await decide(api, machine, codes["user_code"])).status_code == 403
    assert (await decide(api, None, codes["user_code"])).status_code == 401


async def test_a_user_who_is_disabled_meanwhile_signs_in_no_device(api):
    token = await api.owner()
    codes = await ask(api)
    await decide(api, token, codes["user_code"])
    await api.admin.execute("UPDATE users SET disabled_at = now()")
    answer = await poll(api, codes)
    assert (answer.status_code, answer.json()["error"]) == (400, "access_denied")
    assert await api.admin.fetchval("SELECT count(*) FROM sessions WHERE address = '198.51.100.7'") == 0


async def test_neither_code_is_stored(api):
    codes = await ask(api)
    rows = str([tuple(row.values()) for row in await api.admin.fetch("SELECT * FROM device_codes")])
    assert codes["device_code"] not in rows
    assert codes["user_code"] not in rows
    assert codes["user_code"].replace("-", "") not in rows


async def test_who_approved_which_device_is_in_the_audit_trail(api):
    token = await api.owner()
    codes = await ask(api)
    await decide(api, token, codes["user_code"])
    await poll(api, codes)
    rows = await api.admin.fetch(
        "SELECT actor, action, detail FROM audit_log WHERE detail->>'via' LIKE 'device:%' OR action LIKE 'device.%' ORDER BY id"
    )
    assert [row["action"] for row in rows] == ["device.approved", "session.opened"]
    assert "198.51.100.7" in rows[0]["detail"]
    assert rows[0]["actor"] == rows[1]["actor"]


async def test_one_address_cannot_fill_the_table(api):
    for _ in range(50):
        await ask(api)
    async with api.client(address="198.51.100.7") as client:
        assert (await client.post(f"{API}/auth/device/code", json={})).status_code == 429
    await ask(api, address="198.51.100.8")
    await api.admin.execute("UPDATE device_codes SET expires_at = now() - interval '2 hours'")
    await ask(api)
    assert await api.admin.fetchval("SELECT count(*) FROM device_codes") == 32  # of 51, twenty were cleared away


async def test_nobody_sees_a_waiting_device_without_one_of_its_codes(api, api_database):
    await ask(api)
    async with api_database.identifying() as tx:
        assert await tx.value("SELECT count(*) FROM device_codes") == 0
        assert await tx.execute("UPDATE device_codes SET polled_at = now()") == 0
        assert await tx.execute("DELETE FROM device_codes") == 0
