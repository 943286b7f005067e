"""Signing in, refreshing, signing out: over HTTP, against a real database."""

import asyncio
import time

import pytest

from sfp_server.identity.jwt import Signer
from sfp_server.identity.keyset import KeySet
from web_api import API, PASSWORD


async def test_signing_in_gives_a_pair_that_works(api):
    await api.owner()
    answer = await api.login(" Ann@ACME.example ")
    assert answer.status_code == 200
    body = answer.json()
    assert body["success"] is True
    assert body["token_type"] == "bearer"
    assert body["expires_in"] == 3300
    assert body["user"]["email"] == "ann@acme.example"
    assert body["user"]["role"] == "owner"
    async with api.client(body["access_token"]) as client:
        me = (await client.get(f"{API}/users/me")).json()
    assert me["teams"] == [{"slug": "acme", "name": "acme", "role": "owner"}]


async def test_every_failure_looks_the_same(api):
    await api.owner()
    await api.admin.execute("INSERT INTO users (email) VALUES ('sso@acme.example')")
    answers = [
        await api.login("ann@acme.example", "wrong"),
        await api.login("nobody@acme.example", "wrong"),
        await api.login("sso@acme.example", "wrong"),
    ]
    bodies = [answer.json() | {"requestId": ""} for answer in answers]
    assert [answer.status_code for answer in answers] == [401, 401, 401]
    assert bodies[0] == bodies[1] == bodies[2]


async def test_a_disabled_user_is_out_at_once(api):
    token = await api.owner()
    await api.admin.execute("UPDATE users SET disabled_at = now()")
    assert (await api.login("ann@acme.example")).status_code == 401
    assert await _code_within_a_second(api, token) == "token_revoked"


async def test_guessing_is_slowed_down_whatever_the_letter_case(api):
    await api.owner()
    await api.admin.execute("DELETE FROM sessions")  # a home address would have a count of its own
    names = ["ann@acme.example", "ANN@acme.example", "Ann@Acme.Example", " ann@acme.example", "ann@acme.EXAMPLE"]
    for number, name in enumerate(names):
        assert (await api.login(name, "wrong", address=f"198.51.100.{number}")).status_code == 401
    blocked = await api.login("ann@acme.example", PASSWORD, address="203.0.113.9")
    assert blocked.status_code == 429
    assert 1 <= int(blocked.headers["retry-after"]) <= 15
    assert blocked.json()["code"] == "too_many_requests"


async def test_an_unknown_account_is_slowed_down_like_a_known_one(api):
    answers = [(await api.login("nobody@acme.example", "wrong")).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]


async def test_guesses_sent_at_once_count_like_guesses_in_a_row(api):
    await api.owner()
    answers = await asyncio.gather(*(api.login("ann@acme.example", f"guess {n}") for n in range(15)))
    assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 10


async def test_a_stranger_cannot_keep_a_user_out_of_their_own_place(api):
    await api.owner()  # signs in from 192.0.2.1
    for _ in range(6):
        await api.login("ann@acme.example", "wrong", address="203.0.113.66")
    assert (await api.login("ann@acme.example", address="203.0.113.66")).status_code == 429
    assert (await api.login("ann@acme.example", address="192.0.2.1")).status_code == 200


async def test_the_wait_grows_and_ends(api):
    await api.owner()
    for _ in range(5):
        await api.login("ann@acme.example", "wrong")
    waits = []
    for _ in range(8):
        waits.append(int((await api.login("ann@acme.example", "wrong")).headers["retry-after"]))
        await api.admin.execute("UPDATE login_attempts SET last_at = now() - interval '1 hour'")
        assert (await api.login("ann@acme.example", "wrong")).status_code == 401
    assert waits == [15, 30, 60, 120, 240, 480, 900, 900]


async def test_success_forgets_the_accounts_failures(api):
    await api.owner()
    for _ in range(3):
        for _ in range(4):
            await api.login("ann@acme.example", "wrong")
        assert (await api.login("ann@acme.example")).status_code == 200


async def test_sign_ins_are_audited_with_their_address(api):
    await api.owner()
    await api.login("ann@acme.example", "wrong")
    await api.login("the password in the wrong field", "x")
    rows = await api.admin.fetch(
        "SELECT action, subject, detail FROM audit_log WHERE action LIKE 'session.%' ORDER BY id"
    )
    assert [row["action"] for row in rows] == ["session.opened", "session.refused", "session.refused"]
    assert all("192.0.2.1" in row["detail"] for row in rows)
    assert "wrong field" not in str(rows)


async def test_a_refresh_token_is_used_once_and_its_reuse_ends_the_session(api):
    await api.owner()
    first = (await api.login("ann@acme.example")).json()
    async with api.client() as client:
        second = await _refresh(client, first["refresh_token"])
        assert second.status_code == 200
        third = await _refresh(client, second.json()["refresh_token"])
        assert third.status_code == 200
        reused = await _refresh(client, first["refresh_token"])
        assert (reused.status_code, reused.json()["code"]) == (401, "token_revoked")
        assert (await _refresh(client, third.json()["refresh_token"])).status_code == 401
    assert await _code_within_a_second(api, third.json()["access_token"]) == "token_revoked"
    assert await api.admin.fetchval("SELECT count(*) FROM audit_log WHERE action = 'session.reuse_detected'") == 1


async def test_of_refreshes_at_once_one_wins_and_the_session_ends(api):
    await api.owner()
    token = (await api.login("ann@acme.example")).json()["refresh_token"]
    async with api.client() as client:
        answers = await asyncio.gather(*(_refresh(client, token) for _ in range(4)))
        won = [answer.json()["refresh_token"] for answer in answers if answer.status_code == 200]
        assert len(won) == 1
        assert (await _refresh(client, won[0])).status_code == 401


@pytest.mark.parametrize("token", ["", "x", "sfp_rt_" + "A" * 49, "sfp_rt_\u00e9"])
async def test_nonsense_refreshes_nothing(api, token):
    async with api.client() as client:
        assert (await _refresh(client, token)).status_code in {400, 401}


async def test_only_the_refresh_grant_is_served(api):
    async with api.client() as client:
        answer = await client.post(f"{API}/auth/token", json={"grant_type": "password", "refresh_token": "x"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "grant_type")


async def test_signing_out_ends_the_session(api):
    await api.owner()
    pair = (await api.login("ann@acme.example")).json()
    async with api.client(pair["access_token"]) as client:
        assert (await client.post(f"{API}/auth/logout")).json() == {"success": True}
        assert (await client.get(f"{API}/users/me")).status_code in {200, 401}
        assert (await _refresh(client, pair["refresh_token"])).status_code == 401
    assert await _code_within_a_second(api, pair["access_token"]) == "token_revoked"


async def test_a_token_opens_nothing_within_the_buffer_before_its_end(api):
    token = await api.owner()
    user, session = await _ids(api, token)
    signer = Signer(
        KeySet(api.settings.directory / "signing", life=3600),
        issuer="https://localhost/sfp/api/auth",
        life=3600,
        buffer=300,
    )
    now = int(time.time())
    old = signer.sign(user_id=user, email="", session_id=session, now=now - 3301)
    alive = signer.sign(user_id=user, email="", session_id=session, now=now - 3200)
    assert await _code(api, old) == "token_expired"
    assert await _code(api, alive) is None


async def test_a_member_reads_its_role_from_the_database(api):
    await api.owner()
    token = await api.member()
    assert await _role(api, token) == "member"
    await api.admin.execute("UPDATE memberships SET role = 'owner'")
    assert await _eventually(lambda: _role(api, token), "owner")


async def test_the_team_header_chooses_and_a_foreign_team_does_not_exist(api):
    token = await api.owner()
    await api.owner("eve@other.example", "other")
    await api.owner("bob@third.example", "third")
    user, _ = await _ids(api, token)
    await api.join(user, "third", "member")
    for slug, status in [("acme", 200), ("third", 200), ("other", 404), ("none", 404)]:
        async with api.client(token, **{"X-Sfp-Team": slug}) as client:
            answer = await client.get(f"{API}/users/me")
        assert answer.status_code == status, slug
    async with api.client(token, **{"X-Sfp-Team": "third"}) as client:
        assert (await client.get(f"{API}/application-tokens")).status_code == 403  # a member there


async def test_the_owner_command_is_also_the_way_back_in(api):
    token = await api.owner()
    for _ in range(6):
        await api.login("ann@acme.example", "wrong")
    assert (await api.login("ann@acme.example")).status_code == 429
    await api.owner()  # the same e-mail address again
    assert await _code_within_a_second(api, token) == "token_revoked"
    assert await api.admin.fetchval("SELECT count(*) FROM users") == 1


async def _refresh(client, token):
    return await client.post(f"{API}/auth/token", json={"grant_type": "refresh_token", "refresh_token": token})


async def _code(api, token):
    """The error code that a call with this token meets, None: it works."""
    async with api.client(token) as client:
        answer = await client.get(f"{API}/users/me")
    return answer.json().get("code")


async def _role(api, token):
    async with api.client(token) as client:
        return (await client.get(f"{API}/users/me")).json()["role"]


async def _ids(api, token):
    row = await api.admin.fetchrow(
        "SELECT user_id, s.id FROM sessions s JOIN users u ON u.id = user_id WHERE email = 'ann@acme.example' LIMIT 1"
    )
    return tuple(row)


async def _code_within_a_second(api, token):
    deadline = time.monotonic() + 1
    while (code := await _code(api, token)) is None and time.monotonic() < deadline:
        pass
    return code


async def _eventually(read, expected):
    deadline = time.monotonic() + 1
    while await read() != expected:
        if time.monotonic() > deadline:
            return False
    return True
