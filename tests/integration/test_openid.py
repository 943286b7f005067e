"""Signing in with OpenID Connect, at a real provider: npm's `oidc-provider`, a certified one."""

from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

import providers_npm
import web_api
from browser import Browser, Client, exchange, form_of, query
from web_api import API

HERE = "https://localhost:8443"
SECRET = "a client secret / with: signs + of its own"
ACCOUNTS = {
    "ann": {"email": "Ann@acme.example", "email_verified": True, "given_name": "Ann", "family_name": "Lee"},
    "max": {"email": "max@acme.example", "email_verified": True, "name": "Max Moe"},
    "new": {"email": "new@acme.example", "email_verified": True, "name": "New One"},
    "other-ann": {"email": "ann@acme.example", "email_verified": True},
    "unsure": {"email": "ann@acme.example", "email_verified": False},
    "far": {"email": "far@elsewhere.example", "email_verified": True},
    "odd": {"email": "\u212aim@acme.example", "email_verified": True},  # a Kelvin sign, which is a k in lower case
    "kim": {"email": "kim@acme.example", "email_verified": True},
}


@pytest.fixture(scope="session")
def corp():
    """The issuer of a running provider."""
    port = providers_npm.free_port()
    clients = [
        {"client_id": "sfp", "client_secret": SECRET, "redirect_uris": [f"{HERE}/sfp/api/auth/callback/corp"]},
        {
            "client_id": "sfp-public",
            "token_endpoint_auth_method": "none",
            "redirect_uris": [f"{HERE}/sfp/api/auth/callback/public"],
        },
    ]
    with providers_npm.running("oidc.mjs", port, {"clients": clients, "accounts": ACCOUNTS}):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def api(clone, admin, valkey_url, tmp_path):
    settings = replace(web_api.settings_for(tmp_path, clone, valkey_url), egress_allow="127.0.0.1")
    async with web_api.running(settings, admin) as running:
        yield running


@pytest.fixture
async def sso(api, corp):
    """An instance whose owner has set the provider up."""
    token = await api.owner()
    made = await set_provider(api, token, corp)
    assert made.status_code == 201, made.text
    return api


async def set_provider(api, token, issuer, **changes):
    body = {
        "issuer": issuer,
        "clientId": "sfp",
        "clientSecret": SECRET,
        "providerId": "corp",
        "domains": ["acme.example"],
    }
    async with api.client(token) as client:
        return await client.post(f"{API}/sso/providers", json=body | changes)


@asynccontextmanager
async def browser_of(api, **more):
    async with Browser(api, **more) as browser:
        yield browser


async def signed_in(api, account, provider="corp"):
    """The query with which the client is called back."""
    client = Client()
    async with browser_of(api) as browser:
        answer = await browser.whole(client, account, provider)
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(client.redirect_to)
    return client, query(answer.headers["location"])


async def add_user(api, email):
    await api.admin.execute("INSERT INTO users (email) VALUES ($1)", email)


async def refusal(api, account):
    """What the client is told, and the reason that the audit trail has."""
    _, told = await signed_in(api, account)
    assert "code" not in told
    reason = await api.admin.fetchval(
        "SELECT detail::jsonb ->> 'reason' FROM audit_log WHERE action = 'session.refused' ORDER BY id DESC LIMIT 1"
    )
    return told["error"], reason


async def test_a_client_signs_in_through_the_provider(sso):
    client, told = await signed_in(sso, "ann")
    assert told.keys() == {"code", "state"}
    assert told["state"] == client.state
    answer = await exchange(sso, client, told["code"])
    assert answer.status_code == 200, answer.text
    async with sso.client(answer.json()["access_token"]) as http:
        me = (await http.get(f"{API}/users/me")).json()
    assert (me["email"], me["role"]) == ("ann@acme.example", "owner")
    via = await sso.admin.fetchval(
        "SELECT detail::jsonb ->> 'via' FROM audit_log WHERE action = 'session.opened' ORDER BY id DESC LIMIT 1"
    )
    assert via == "provider:corp"


async def test_a_public_client_needs_no_secret(sso, corp):
    token = (await sso.login("ann@acme.example")).json()["access_token"]
    public = {"providerId": "public", "clientId": "sfp-public", "sharesUsers": True, "clientSecret": None}
    assert (await set_provider(sso, token, corp, **public)).status_code == 201
    _, told = await signed_in(sso, "ann", "public")
    assert "code" in told


async def test_a_browser_signs_in_and_out(sso):
    async with browser_of(sso) as browser:
        page = await browser.ours.get(f"{API}/auth/sign-in", params={"continue": f"{API}/ping"})
        assert "Sign in with corp" in page.text
        away = await browser.ours.get(f"{API}/auth/sign-in/corp", params={"continue": f"{API}/ping"})
        back = await browser.back(await browser.at_provider(away.headers["location"], "ann", home=f"{HERE}/"))
        assert (back.status_code, back.headers["location"]) == (303, f"{API}/ping")
        cookie = next(value for value in back.headers.get_list("set-cookie") if "sfp_session=" in value)
        assert cookie.startswith("__Host-sfp_session=")
        assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(cookie.split("; "))
        signed = await browser.ours.get(f"{API}/auth/sign-in")
        assert "ann@acme.example" in signed.text
        action, values = form_of(signed.text)
        assert (await browser.ours.post(action, data=values)).status_code == 303
        assert "ann@acme.example" not in (await browser.ours.get(f"{API}/auth/sign-in")).text
    assert await sso.admin.fetchval("SELECT count(*) FROM sessions WHERE revoked_at IS NOT NULL") == 1


async def test_whom_nobody_added_does_not_come_in(sso):
    assert await refusal(sso, "new") == ("access_denied", "unknown_user")
    assert await sso.admin.fetchval("SELECT count(*) FROM users") == 1


async def test_a_provider_may_make_users_of_its_domains(sso, corp):
    token = (await sso.login("ann@acme.example")).json()["access_token"]
    changed = await set_provider(sso, token, corp, createUsers=True, defaultTeam="acme")
    assert changed.status_code == 200, changed.text
    client, told = await signed_in(sso, "new")
    answer = await exchange(sso, client, told["code"])
    assert answer.json()["user"]["role"] == "member"
    assert await refusal(sso, "far") == ("access_denied", "domain")
    row = await sso.admin.fetchrow("SELECT first_name, last_name FROM users WHERE email = 'new@acme.example'")
    assert tuple(row) == ("New", "One")


async def test_an_unverified_address_is_nobodys(sso):
    assert await refusal(sso, "unsure") == ("access_denied", "email_unverified")


async def test_an_address_that_looks_like_another_is_not_it(sso):
    await add_user(sso, "kim@acme.example")
    assert await refusal(sso, "odd") == ("access_denied", "email_form")


async def test_an_address_that_changed_hands_does_not_hand_the_user_over(sso):
    await signed_in(sso, "ann")
    assert await refusal(sso, "other-ann") == ("access_denied", "other_subject")


async def test_who_is_linked_is_known_by_subject_whatever_address_the_user_has_now(sso):
    await signed_in(sso, "ann")
    await sso.admin.execute("UPDATE users SET email = 'ann.lee@acme.example'")
    client, told = await signed_in(sso, "ann")
    assert (await exchange(sso, client, told["code"])).json()["user"]["email"] == "ann.lee@acme.example"


async def test_another_provider_does_not_take_a_linked_user_over(sso, corp):
    await signed_in(sso, "ann")
    await sso.admin.execute(
        "WITH other AS (INSERT INTO identity_providers (slug, name, kind, config, created_by)"
        " VALUES ('old', 'old', 'oidc', '{}', 'x') RETURNING id) UPDATE identities SET provider_id = other.id FROM other"
    )
    assert await refusal(sso, "ann") == ("access_denied", "other_provider")
    token = (await sso.login("ann@acme.example")).json()["access_token"]
    await set_provider(sso, token, corp, sharesUsers=True)
    _, told = await signed_in(sso, "ann")
    assert "code" in told


async def test_a_disabled_user_stays_out(sso):
    await sso.admin.execute("UPDATE users SET disabled_at = now()")
    assert await refusal(sso, "ann") == ("access_denied", "disabled")


async def test_who_is_disabled_between_sign_in_and_exchange_gets_nothing(sso):
    client, told = await signed_in(sso, "ann")
    await sso.admin.execute("UPDATE users SET disabled_at = now()")
    assert (await exchange(sso, client, told["code"])).status_code == 401


async def test_a_provider_speaks_for_its_domains_only(sso, corp):
    await add_user(sso, "far@elsewhere.example")
    assert await refusal(sso, "far") == ("access_denied", "domain")
