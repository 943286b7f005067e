"""Users, teams and members over HTTP: who may change what, and that it counts at once."""

import asyncio
import hashlib
import json

import pytest

import web_api
from web_api import API, PASSWORD

LATER = {
    "type": "command",
    "data": {"argv": ["true"]},
    "scheduleType": "scheduled",
    "scheduledFor": "2999-01-01T00:00:00Z",
}


async def events(api, team="acme"):
    rows = await api.admin.fetch(
        "SELECT event, data FROM events JOIN teams ON teams.id = team_id"
        " WHERE channel = 'team' AND slug = $1 ORDER BY seq",
        team,
    )
    return [row["event"] for row in rows]


async def test_a_user_is_made_found_changed_and_removed(api):
    async with api.client(await api.owner()) as client:
        body = {"email": " Max@Acme.Example", "firstName": "Max", "lastName": "M", "password": PASSWORD}
        made = (await client.post(f"{API}/users", json=body)).json()
        assert made == {
            "id": made["id"],
            "email": "max@acme.example",
            "firstName": "Max",
            "lastName": "M",
            "role": "member",
            "teams": [{"slug": "acme", "name": "acme", "role": "member"}],
            "createdAt": made["createdAt"],
        }
        assert (await client.get(f"{API}/users/max%40acme.example")).json() == made
        listed = (await client.get(f"{API}/users", params={"role": "member"})).json()
        assert listed == {"users": [made], "total": 1}
        changed = await client.put(f"{API}/users/max@acme.example", json={"firstName": "Maxine", "role": "owner"})
        assert (changed.json()["firstName"], changed.json()["lastName"], changed.json()["role"]) == (
            "Maxine",
            "M",
            "owner",
        )
        token = (await api.login("max@acme.example")).json()["access_token"]
        gone = await client.request("DELETE", f"{API}/users", json={"email": "max@acme.example"})
        assert gone.json() == {"success": True}
        assert (await client.get(f"{API}/users/max@acme.example")).status_code == 404
    async with api.client(token) as client:
        assert (await client.get(f"{API}/users/me")).json()["code"] == "token_revoked"
    assert await api.admin.fetchval("SELECT count(*) FROM users") == 1
    assert (await api.login("max@acme.example")).status_code == 401
    assert await events(api) == ["team.member_added", "team.member_role_changed", "team.member_removed"]


async def test_lists_are_paged_by_offset_and_say_how_many_there_are(api):
    async with api.client(await api.owner()) as client:
        for name in "cdb":
            await client.post(f"{API}/users", json={"email": f"{name}@acme.example"})
        page = (await client.get(f"{API}/users", params={"limit": 2, "offset": 1})).json()
        beyond = (await client.get(f"{API}/users", params={"offset": 9})).json()
    assert [user["email"] for user in page["users"]] == ["b@acme.example", "c@acme.example"]
    assert page["total"] == 4
    assert beyond == {"users": [], "total": 4}


async def test_adding_a_user_again_changes_neither_name_nor_password(api):
    """Else the owner of any team could take over everybody."""
    await api.owner("bob@beta.example", "beta")
    async with api.client(await api.owner()) as client:
        body = {"email": "bob@beta.example", "firstName": "Evil", "password": "a stolen account"}
        added = (await client.post(f"{API}/users", json=body)).json()
        assert (added["firstName"], [team["slug"] for team in added["teams"]]) == ("", ["acme"])
        assert (await client.post(f"{API}/users", json=body)).json() == added
    assert (await api.login("bob@beta.example", "a stolen account")).status_code == 401
    assert (await api.login("bob@beta.example")).status_code == 200
    assert await events(api) == ["team.member_added"]


async def test_adding_a_user_once_is_kept_without_the_password(api):
    key = {"Idempotency-Key": "k1"}
    body = {"email": "max@acme.example", "password": PASSWORD}
    async with api.client(await api.owner()) as client:
        first = await client.post(f"{API}/users", json=body, headers=key)
        again = await client.post(f"{API}/users", json=body, headers=key)
        other = await client.post(f"{API}/users", json={**body, "password": "another password"}, headers=key)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    guessed = b"POST /sfp/api/users\n" + json.dumps(body, separators=(",", ":")).encode()
    stored = await api.admin.fetchval("SELECT body_hash FROM idempotency_keys")
    assert stored != hashlib.sha256(guessed).digest()


@pytest.mark.parametrize("password", ["short", "MAX@acme.example ", "aaaaaaaaaaaaaaaa", "x" * 1025])
async def test_a_weak_password_is_refused(api, password):
    async with api.client(await api.owner()) as client:
        answer = await client.post(f"{API}/users", json={"email": "max@acme.example", "password": password})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, "password")
    assert await api.admin.fetchval("SELECT count(*) FROM users") == 1


async def test_the_role_in_the_team_that_is_named_decides(api):
    """ann owns acme and is a member of beta; the first team she joined is acme."""
    ann = await api.owner()
    await api.owner("bob@beta.example", "beta")
    ann_id = await api.admin.fetchval("SELECT id FROM users WHERE email = 'ann@acme.example'")
    await api.join(ann_id, "beta", "member")
    new = {"email": "new@x.example"}
    async with api.client(ann) as client:
        assert (await client.post(f"{API}/users", json={**new, "team": "beta"})).status_code == 403
        assert (await client.post(f"{API}/users", json={**new, "team": "none"})).status_code == 404
        assert (await client.get(f"{API}/users", params={"team": "beta"})).status_code == 403
        assert (await client.post(f"{API}/teams/beta/members", json=new)).status_code == 403
        assert (await client.get(f"{API}/teams/beta/members")).json()["total"] == 2
    async with api.client(ann, **{"X-Sfp-Team": "beta"}) as client:
        # the body, the path and the query override the header
        assert (await client.post(f"{API}/users", json={**new, "team": "acme"})).status_code == 201
        assert (await client.get(f"{API}/users", params={"team": "acme"})).json()["total"] == 2
        assert (
            await client.put(f"{API}/teams/acme/members/new@x.example/role", json={"role": "owner"})
        ).status_code == 200
        # whoever owns any team may make one
        assert (await client.post(f"{API}/teams", json={"name": "Core", "slug": "core"})).status_code == 201
        assert (await client.post(f"{API}/users", json=new)).status_code == 403


async def test_nobody_raises_themselves(api):
    await api.owner()
    member = await api.member()
    async with api.client(member) as client:
        own = f"{API}/users/max@acme.example"
        assert (await client.put(own, json={"role": "owner"})).status_code == 403
        assert (
            await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "owner"})
        ).status_code == 403
        assert (
            await client.post(f"{API}/teams/acme/members", json={"email": "max@acme.example", "role": "owner"})
        ).status_code == 403
        assert (
            await client.post(f"{API}/users", json={"email": "max@acme.example", "role": "owner"})
        ).status_code == 403
        assert (await client.post(f"{API}/teams", json={"name": "x", "slug": "x"})).status_code == 403
        assert (await client.put(own, json={"firstName": "Max", "role": "member"})).json()["firstName"] == "Max"
        assert (await client.get(f"{API}/users/me")).json()["role"] == "member"


async def test_the_last_owner_can_neither_leave_nor_be_demoted(api):
    owner = await api.owner()
    await api.member()
    member = f"{API}/teams/acme/members/ann@acme.example"
    async with api.client(owner) as client:
        answers = [
            await client.delete(member),
            await client.put(f"{member}/role", json={"role": "member"}),
            await client.put(f"{API}/users/ann@acme.example", json={"role": "member"}),
            await client.post(f"{API}/users", json={"email": "ann@acme.example", "role": "member"}),
            await client.request("DELETE", f"{API}/users", json={"email": "ann@acme.example"}),
        ]
        assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(409, "last_owner")}
        await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "owner"})
        assert (await client.delete(member)).status_code == 200
        assert (await client.get(f"{API}/tasks")).status_code == 403


async def test_two_owners_who_demote_each_other_at_once_leave_one(api):
    ann = await api.owner()
    await api.member()
    async with api.client(ann) as client:
        await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "owner"})
    other = (await api.login("max@acme.example")).json()["access_token"]
    async with api.client(ann) as one, api.client(other) as two:
        answers = await asyncio.gather(
            one.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "member"}),
            two.put(f"{API}/teams/acme/members/ann@acme.example/role", json={"role": "member"}),
        )
    assert sorted(answer.status_code for answer in answers) in ([200, 403], [200, 409])
    assert await api.admin.fetchval("SELECT count(*) FROM memberships WHERE role = 'owner'") == 1


async def test_a_team_is_made_owned_and_deleted_when_it_is_empty(api):
    async with api.client(await api.owner()) as client:
        body = {"name": "Core team", "slug": "core", "description": "d"}
        made = (await client.post(f"{API}/teams", json=body)).json()
        assert made == {**body, "role": "owner", "createdAt": made["createdAt"]}
        assert (await client.post(f"{API}/teams", json=body)).status_code == 409
        acme, listed = (await client.get(f"{API}/teams")).json()["items"]
        assert (acme["slug"], listed) == ("acme", made)
        core = {"X-Sfp-Team": "core"}
        await client.put(f"{API}/secrets/S", json={"value": "value"}, headers=core)
        await client.post(f"{API}/tasks", json=LATER, headers=core)
        await client.post(f"{API}/users", json={"email": "max@acme.example", "team": "core"})
        refused = (await client.delete(f"{API}/teams/core")).json()
        assert refused["code"] == "team_not_empty"
        assert all(word in refused["detail"] for word in ("other members", "secrets", "tasks"))
        await client.delete(f"{API}/secrets/S", headers=core)
        token = (await client.post(f"{API}/application-tokens", json={"name": "ci"}, headers=core)).json()["id"]
        await client.delete(f"{API}/application-tokens/{token}", headers=core)  # which stays listed, and does not count
        await api.admin.execute("DELETE FROM tasks")
        await client.delete(f"{API}/teams/core/members/max@acme.example")
        assert (await client.delete(f"{API}/teams/core")).json() == {"success": True}
        assert (await client.get(f"{API}/tasks", headers=core)).status_code == 404
        last = await client.delete(f"{API}/teams/acme")
    assert (last.status_code, last.json()["detail"]) == (409, "the last team stays")
    assert await events(api, "core") == []
    actions = [
        row["action"] for row in await api.admin.fetch("SELECT action FROM audit_log WHERE action LIKE 'team.%'")
    ]
    assert actions == ["team.created", "team.created", "team.deleted"]


async def test_what_a_removed_user_made_stays_and_keeps_the_name(api):
    await api.owner()
    async with api.client(await api.owner("max@acme.example", "beta")) as client:
        await client.post(f"{API}/users", json={"email": "ann@acme.example", "role": "owner"})
        made = (await client.post(f"{API}/application-tokens", json={"name": "ci"})).json()
    ann = (await api.login("ann@acme.example")).json()["access_token"]
    async with api.client(ann, **{"X-Sfp-Team": "beta"}) as client:
        gone = await client.request("DELETE", f"{API}/users", json={"email": "max@acme.example"})
        assert gone.status_code == 200
        (token,) = (await client.get(f"{API}/application-tokens")).json()["items"]
    assert (token["createdBy"], token["status"]) == ("max@acme.example", "active")
    async with api.client(made["token"]) as client:
        assert (await client.get(f"{API}/tasks")).status_code == 200


async def test_who_is_demoted_or_removed_loses_it_within_a_second_in_every_process(api):
    owner, member = await api.owner(), await api.member()
    async with web_api.running(api.settings, api.admin) as second:
        async with api.client(owner) as client:
            await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "owner"})
        async with api.client(member) as here, second.client(member) as there:
            for client in (here, there):
                assert await until(client, f"{API}/users", 200)
            async with api.client(owner) as client:
                await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "member"})
            for client in (here, there):
                assert await until(client, f"{API}/users", 403)
                assert (await client.get(f"{API}/tasks")).status_code == 200
            async with api.client(owner) as client:
                await client.delete(f"{API}/teams/acme/members/max@acme.example")
            for client in (here, there):
                assert await until(client, f"{API}/tasks", 403)


async def until(client, path, status):
    """Whether `path` answers `status` within a second."""
    try:
        async with asyncio.timeout(1):
            while (await client.get(path)).status_code != status:
                await asyncio.sleep(0.02)  # the second process hears of it by notification
    except TimeoutError:
        return False
    return True


async def test_a_team_of_others_is_as_if_it_were_not_there(api):
    await api.owner("bob@beta.example", "beta")
    async with api.client(await api.owner()) as client:
        for method, path, body in [
            ("GET", "members", None),
            ("POST", "members", {"email": "ann@acme.example"}),
            ("PUT", "members/bob@beta.example/role", {"role": "member"}),
            ("DELETE", "members/bob@beta.example", None),
        ]:
            texts = set()
            for slug in ("beta", "no-such-team"):
                answer = await client.request(method, f"{API}/teams/{slug}/{path}", json=body)
                assert answer.status_code == 404
                texts.add(answer.json()["detail"])
            assert len(texts) == 1
        for email in ("bob@beta.example", "nobody@beta.example"):
            assert (await client.get(f"{API}/users/{email}")).status_code == 404
            assert (await client.put(f"{API}/users/{email}", json={"firstName": "x"})).status_code == 404
            assert (await client.request("DELETE", f"{API}/users", json={"email": email})).status_code == 404


async def test_every_change_of_members_is_written_down(api):
    async with api.client(await api.owner()) as client:
        await client.post(f"{API}/users", json={"email": "max@acme.example"})
        await client.put(f"{API}/teams/acme/members/max@acme.example/role", json={"role": "owner"})
        await client.delete(f"{API}/teams/acme/members/max@acme.example")
    rows = await api.admin.fetch("SELECT action, actor, detail FROM audit_log WHERE team_id IS NOT NULL ORDER BY id")
    ann = await api.admin.fetchval("SELECT id FROM users WHERE email = 'ann@acme.example'")
    found = [row["action"] for row in rows if row["actor"] == f"user:{ann}"]
    assert found == ["user.created", "membership.added", "membership.role_changed", "membership.removed"]


async def test_a_password_that_strangers_chose_opens_no_other_team(api):
    """The owner of one team makes somebody in advance, and waits for them to be let into another."""
    ann = await api.owner()
    eve = await api.owner("eve@other.example", team="other")
    secret = "chosen by eve 1234"
    made = {"email": "ceo@acme.example", "firstName": "C", "lastName": "O", "password": secret, "role": "owner"}
    async with api.client(eve) as client:
        assert (await client.post(f"{API}/users", json=made)).status_code == 201
    hers = await api.login("ceo@acme.example", secret)
    assert hers.status_code == 200
    async with api.client(ann) as client:
        body = {"email": "ceo@acme.example", "role": "member"}
        assert (await client.post(f"{API}/teams/acme/members", json=body)).status_code in {200, 201}
    assert (await api.login("ceo@acme.example", secret)).status_code == 401
    async with api.client(hers.json()["access_token"]) as client:
        assert (await client.get(f"{API}/users/me")).status_code == 401
    assert await api.admin.fetchval("SELECT count(*) FROM audit_log WHERE action = 'user.password_dropped'") == 1


async def test_a_password_of_one_s_own_teams_opens_them_all(api):
    ann = await api.owner()
    secret = "chosen by ann 1234"
    async with api.client(ann) as client:
        made = {"email": "bob@acme.example", "firstName": "B", "lastName": "B", "password": secret}
        assert (await client.post(f"{API}/users", json=made)).status_code == 201
        assert (await client.post(f"{API}/teams", json={"slug": "beta", "name": "Beta"})).status_code == 201
        body = {"email": "bob@acme.example", "role": "member"}
        assert (await client.post(f"{API}/teams/beta/members", json=body)).status_code in {200, 201}
    assert (await api.login("bob@acme.example", secret)).status_code == 200
