"""Setting identity providers up, and the pages and switches around signing in."""

from dataclasses import replace

import pytest

import web_api
from browser import Browser, form_of
from web_api import API, PASSWORD

GITHUB = {"kind": "github", "clientId": "id", "clientSecret": "a-client-secret", "providerId": "hub"}


@pytest.fixture
async def owner(api):
    return await api.owner()


async def post(api, token, **body):
    async with api.client(token) as client:
        return await client.post(f"{API}/sso/providers", json=body)


async def listed(api, token):
    async with api.client(token) as client:
        return (await client.get(f"{API}/sso/providers")).json()["items"]


async def test_a_provider_is_set_repeated_and_removed(api, owner):
    first, second = await post(api, owner, **GITHUB), await post(api, owner, **GITHUB, name="Hub")
    assert (first.status_code, second.status_code) == (201, 200)
    assert [(row["providerId"], row["name"], row["hasSecret"]) for row in await listed(api, owner)] == [
        ("hub", "Hub", True)
    ]
    async with api.client(owner) as client:
        for _ in range(2):
            assert (await client.delete(f"{API}/sso/providers/hub")).json() == {"success": True}
        again = await client.request("DELETE", f"{API}/sso/providers", json={"providerId": "hub"})
        assert again.json() == {"success": True}
    assert await listed(api, owner) == []
    rows = await api.admin.fetch("SELECT action, detail::text FROM audit_log WHERE action LIKE 'identity_provider.%'")
    assert [row[0] for row in rows] == ["identity_provider.set"] * 2 + ["identity_provider.removed"]
    assert "a-client-secret" not in str(rows)


async def test_its_secret_never_comes_back(api, owner):
    made = await post(api, owner, **GITHUB)
    async with api.client(owner) as client:
        shown = await client.get(f"{API}/sso/providers")
        public = await client.get(f"{API}/config")
    assert "a-client-secret" not in made.text + shown.text + public.text
    assert "clientId" not in public.text
    stored = await api.admin.fetchval("SELECT encode(sealed_secret, 'escape') || config::text FROM identity_providers")
    assert "a-client-secret" not in stored


async def test_its_secret_goes_nowhere_else(api, owner):
    await post(api, owner, **GITHUB)
    without = {name: value for name, value in GITHUB.items() if name != "clientSecret"}
    assert (await post(api, owner, **without)).status_code == 200
    moved = await post(api, owner, **without, baseUrl="https://github.evil.example")
    assert (moved.status_code, moved.json()["errors"][0]["path"]) == (400, "clientSecret")
    other = await post(api, owner, **without | {"clientId": "other"})
    assert other.status_code == 400


async def test_a_provider_with_users_keeps_its_address(api, owner):
    await post(api, owner, **GITHUB)
    await api.admin.execute(
        "INSERT INTO identities (provider_id, subject, user_id, email)"
        " SELECT p.id, '1', u.id, u.email FROM identity_providers p, users u"
    )
    moved = await post(api, owner, **GITHUB, baseUrl="https://github.evil.example")
    assert (moved.status_code, moved.json()["code"]) == (409, "conflict")


async def test_only_owners_of_the_first_team_manage_providers(api, owner):
    other = await api.owner("bob@beta.example", "beta")
    member = await api.member()
    bob = await api.admin.fetchval("SELECT id FROM users WHERE email = 'bob@beta.example'")
    await api.join(bob, "acme", "member")
    for token in (other, member):
        assert (await post(api, token, **GITHUB)).status_code == 403
    ann = await api.admin.fetchval("SELECT id FROM users WHERE email = 'ann@acme.example'")
    await api.join(ann, "beta", "owner")
    async with api.client(owner, **{"X-Sfp-Team": "beta"}) as client:
        assert (await client.get(f"{API}/sso/providers")).status_code == 403  # as an owner of another team
    assert (await post(api, owner, **GITHUB)).status_code == 201


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"clientId": "id"}, "kind"),
        ({"kind": "oidc", "clientId": "id"}, "issuer"),
        ({"issuer": "https://login.example"}, "clientId"),
        ({**GITHUB, "issuer": "https://login.example"}, "issuer"),
        ({**GITHUB, "domains": ["not a domain"]}, "domains"),
        ({**GITHUB, "domains": ["*.acme.example"]}, "domains"),
        ({**GITHUB, "createUsers": True}, "domains"),
        ({**GITHUB, "defaultRole": "owner"}, "defaultTeam"),
        ({**GITHUB, "baseUrl": "ftp://x"}, "baseUrl"),
        ({"issuer": "javascript:alert(1)", "clientId": "id"}, "issuer"),
        ({"issuer": "https://user@login.example", "clientId": "id"}, "issuer"),
    ],
)
async def test_what_is_no_provider_is_refused_with_its_place(api, owner, body, path):
    answer = await post(api, owner, **body)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (400, path)


async def test_a_provider_puts_users_into_teams_of_its_maker_only(api, owner):
    await api.owner("bob@beta.example", "beta")
    for team in ("beta", "none"):
        answer = await post(api, owner, **GITHUB, createUsers=True, domains=["acme.example"], defaultTeam=team)
        assert answer.status_code == 404


async def test_what_is_public_are_names(api, owner):
    await post(api, owner, **GITHUB)
    await post(api, owner, **GITHUB | {"providerId": "off"}, enabled=False)
    async with api.client() as client:
        config = (await client.get(f"{API}/config")).json()
    assert config["providers"] == [{"id": "hub", "name": "hub", "kind": "github"}]
    assert config["sso"] == {"enabled": True, "passwordLogin": "owners"}


async def test_with_a_provider_passwords_are_for_owners(api, owner):
    await api.member()
    assert (await api.login("max@acme.example")).status_code == 200
    await post(api, owner, **GITHUB)
    refused, wrong = await api.login("max@acme.example"), await api.login("max@acme.example", "wrong")
    assert refused.status_code == 401
    assert refused.json() | {"requestId": ""} == wrong.json() | {"requestId": ""}  # nothing confirms the password
    assert (await api.login("ann@acme.example")).status_code == 200
    await post(api, owner, **GITHUB, enabled=False)
    assert (await api.login("max@acme.example")).status_code == 200


@pytest.mark.parametrize(
    ("setting", "owners", "members"), [("off", 403, 403), ("owners", 200, 401), ("everyone", 200, 200)]
)
async def test_the_setting_says_who_may_use_a_password(clone, admin, valkey_url, tmp_path, setting, owners, members):
    before = web_api.settings_for(tmp_path, clone, valkey_url)
    async with web_api.running(before, admin) as api:
        await api.owner()
        await api.member()
    async with web_api.running(replace(before, password_login=setting), admin) as api, Browser(api) as browser:
        answers = [await api.login(email) for email in ("ann@acme.example", "max@acme.example")]
        page = await browser.ours.get(f"{API}/auth/sign-in")
    assert [answer.status_code for answer in answers] == [owners, members]
    assert ("password" in page.text.lower()) == (setting != "off")
    if setting == "off":
        assert answers[0].json()["code"] == "password_login_off"


async def test_a_link_goes_on_after_the_sign_in(api, owner):
    link = f"{API}/auth/continue"
    async with Browser(api) as browser:
        first = await browser.ours.get(link, params={"action": "frontdoorUrl", "params": '{"target": "UAT"}'})
        page = await browser.ours.get(first.headers["location"])
        action, values = form_of(page.text)
        wrong = await browser.ours.post(action, data=values | {"email": "ann@acme.example", "password": "wrong"})
        assert (wrong.status_code, "is wrong" in wrong.text) == (401, True)
        signed = await browser.ours.post(action, data=values | {"email": "ann@acme.example", "password": PASSWORD})
        on = await browser.ours.get(signed.headers["location"])
    assert on.headers["location"] == f"{API}/auth/salesforce/frontdoor?target=UAT&redirect=true"


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("other", ""),
        ("frontdoorUrl", ""),
        ("frontdoorUrl", "{"),
        ("frontdoorUrl", "[]"),
        ("frontdoorUrl", '{"target": 1}'),
        ("frontdoorUrl", '{"target": "UAT", "redirect": "https://evil.example"}'),
        ("frontdoorUrl", "target=a&target=b"),
        ("frontdoorUrl", "target=a%0d%0aSet-Cookie: x"),
        ("frontdoorUrl", "target=" + "a" * 300),
    ],
)
async def test_a_link_that_leads_nowhere_known_is_refused(api, action, params):
    async with Browser(api) as browser:
        answer = await browser.ours.get(f"{API}/auth/continue", params={"action": action, "params": params})
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("text/html")
