"""Sign-ins through a provider that somebody attacks: as the provider, as a web page, as who found a code or a state."""

import base64
import json
import time
from dataclasses import replace
from itertools import product

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

import bad_provider
import web_api
from browser import LOOPBACK, Browser, Client, exchange, form_of, query
from sfp_server.identity.redirects import is_own_path
from web_api import API


@pytest.fixture
async def provider():
    async with bad_provider.serving() as running:
        yield running


@pytest.fixture
async def api(clone, admin, valkey_url, tmp_path, provider):
    settings = replace(web_api.settings_for(tmp_path, clone, valkey_url), egress_allow="127.0.0.1")
    async with web_api.running(settings, admin) as running:
        token = await running.owner()
        body = {"issuer": provider.url, "clientId": "sfp", "clientSecret": "s", "providerId": "corp"}
        async with running.client(token) as client:
            assert (await client.post(f"{API}/sso/providers", json=body)).status_code == 201
        yield running


async def came_back(api, provider, **answer):
    """A whole sign-in; the query with which the client is called back."""
    client = Client()
    async with Browser(api) as browser:
        away = await browser.leave(client)
        back = await browser.back(provider.visited(away.headers["location"], **answer))
    assert back.status_code == 303, back.text
    return client, query(back.headers["location"])


async def reason(api):
    return await api.admin.fetchval(
        "SELECT detail::jsonb ->> 'reason' FROM audit_log WHERE action = 'session.refused' ORDER BY id DESC LIMIT 1"
    )


async def test_what_is_right_comes_in(api, provider):
    client, told = await came_back(api, provider)
    assert (await exchange(api, client, told["code"])).status_code == 200


WRONG_CLAIMS = {
    "nonce": {"nonce": "another"},
    "no nonce": {"nonce": ...},
    "aud": {"aud": "another-client"},
    "aud of several without azp": {"aud": ["sfp", "another-client"]},
    "azp": {"aud": ["sfp", "another-client"], "azp": "another-client"},
    "iss": {"iss": "https://evil.example"},
    "expired": {"exp": int(time.time()) - 120},
    "no exp": {"exp": ...},
    "exp as text": {"exp": "9999999999"},
    "old": {"iat": int(time.time()) - 3600},
    "from the future": {"iat": int(time.time()) + 3600},
    "not yet": {"nbf": int(time.time()) + 3600},
    "no subject": {"sub": ...},
    "a subject that is a number": {"sub": 7},
    "long subject": {"sub": "s" * 256},
    "at_hash": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
    "unverified": {"email_verified": False},
    "verified as a word": {"email_verified": "yes"},
    "no email": {"email": ...},
    "email with a comment": {"email": "ann@acme.example(evil.example)"},
    "two addresses": {"email": "ann@acme.example,eve@evil.example"},
}


async def test_a_wrong_claim_signs_nobody_in(api, provider):
    let_in = {}
    for name, claims in WRONG_CLAIMS.items():
        provider.claims = claims
        _, told = await came_back(api, provider)
        if told.get("error") != "access_denied" or "code" in told or await reason(api) is None:
            let_in[name] = told
    assert let_in == {}


def _none(claims):
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join([*(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts), ""])


def _hs256_with(key):
    return lambda claims: jwt.encode(
        {"alg": "HS256", "kid": "first"}, claims, OctKey.import_key(key), algorithms=["HS256"]
    )


def _own_key(claims):
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, RSAKey.generate_key(2048), algorithms=["RS256"])


def _embedded_key(claims):
    key = RSAKey.generate_key(2048)
    return jwt.encode({"alg": "RS256", "jwk": key.as_dict(private=False)}, claims, key, algorithms=["RS256"])


FORGERIES = {
    "alg none": lambda _: _none,
    "HS256 with the public key": lambda p: _hs256_with(p.keys["first"][1].as_pem(private=False)),
    "HS256 with the client's secret": lambda _: _hs256_with("s" * 32),
    "a key of its own": lambda _: _own_key,
    "a key that it brings": lambda _: _embedded_key,
    "garbage": lambda _: lambda _claims: "a.b.c",
    "nothing": lambda _: lambda _claims: "",
    "huge": lambda _: lambda _claims: "a" * 20_000,
}


async def test_a_forged_id_token_signs_nobody_in(api, provider):
    let_in = {}
    for name, forge in FORGERIES.items():
        provider.signs = forge(provider)
        _, told = await came_back(api, provider)
        if "code" in told or told["error"] not in {"access_denied", "server_error"}:
            let_in[name] = told
    assert let_in == {}


ANSWERS = {
    "a page": (200, b"<html>"),
    "a list": (200, b"[]"),
    "deep": (200, b"[" * 10_000),
    "nothing": (200, b""),
    "not UTF-8": (200, b'{"id_token": "\xff"}'),
    "huge": (200, b"{" + b" " * 300_000 + b"}"),
    "a redirect": (302, b""),
    "an error of its own": (500, b"Traceback: a secret of the provider"),
    "a refusal": (400, b'{"error": "invalid_grant"}'),
}


async def test_a_provider_that_answers_garbage_is_told_of_clearly(api, provider):
    wrong = {}
    for name, answer in ANSWERS.items():
        provider.instead["/token"] = answer
        _, told = await came_back(api, provider)
        if told["error"] not in {"access_denied", "server_error"} or "secret" in told["error_description"]:
            wrong[name] = told
    assert wrong == {}


@pytest.mark.parametrize("name", ["a list", "not UTF-8", "a redirect"])
async def test_keys_that_are_garbage_are_told_of_clearly(api, provider, name):
    provider.instead["/keys"] = ANSWERS[name]
    _, told = await came_back(api, provider)
    assert told["error"] in {"access_denied", "server_error"}


async def test_an_answer_of_another_issuer_is_not_taken(api, provider):
    _, told = await came_back(api, provider, iss="https://other.example")
    assert (told["error"], await reason(api)) == ("access_denied", "bad_iss")
    _, told = await came_back(api, provider, iss=...)
    assert await reason(api) == "bad_iss"  # it says of itself that it always names itself


async def test_a_refusal_of_the_provider_reaches_the_client(api, provider):
    _, told = await came_back(api, provider, code=..., error="access_denied", error_description="<script>")
    assert told["error"] == "access_denied"
    assert "script" not in told["error_description"]


async def test_a_state_works_once_in_its_browser_at_its_provider(api, provider):
    client = Client()
    async with Browser(api) as browser, Browser(api) as other:
        await other.ours.get(f"{API}/auth/sign-in")  # has a cookie of its own
        url = provider.visited((await browser.leave(client)).headers["location"])
        assert (await other.back(url)).status_code == 403
        async with Browser(api) as bare:
            assert (await bare.back(url)).status_code == 403
        assert (await browser.back(url.replace("state=", "state=x"))).status_code == 403
        assert (await browser.back(url.replace("/corp?", "/other?"))).status_code == 404
        assert (await browser.back(url)).status_code == 303
        again = await browser.back(url)
    assert again.status_code == 403
    assert "begin again" in again.text
    assert again.headers["content-type"].startswith("text/html")


async def test_a_state_that_has_expired_is_refused(api, provider):
    async with Browser(api) as browser:
        url = provider.visited((await browser.leave(Client())).headers["location"])
        await api.admin.execute("UPDATE sign_in_flows SET expires_at = now() - interval '1 second'")
        assert (await browser.back(url)).status_code == 403


async def test_a_code_is_exchanged_once_and_its_reuse_ends_the_session(api, provider):
    client, told = await came_back(api, provider)
    first = (await exchange(api, client, told["code"])).json()
    again = await exchange(api, client, told["code"])
    assert (again.status_code, again.json()["code"]) == (401, "code_invalid")
    assert await api.admin.fetchval("SELECT revoked_at IS NOT NULL FROM sessions ORDER BY id DESC LIMIT 1")
    async with api.client() as http:
        body = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
        assert (await http.post(f"{API}/auth/token", json=body)).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"code_verifier": "v" * 43},
        {"redirect_uri": "http://127.0.0.1:54330/callback"},
        {"code": "c" * 43},
    ],
    ids=["verifier", "place", "code"],
)
async def test_a_code_is_of_no_use_to_another_client(api, provider, wrong):
    client, told = await came_back(api, provider)
    answer = await exchange(api, client, told["code"], **wrong)
    assert (answer.status_code, answer.json()["code"]) == (401, "code_invalid")
    if "code" not in wrong:  # a try with a wrong proof uses the code up
        assert (await exchange(api, client, told["code"])).status_code == 401


async def test_a_code_lives_for_a_minute(api, provider):
    client, told = await came_back(api, provider)
    await api.admin.execute("UPDATE authorization_codes SET expires_at = now() - interval '1 second'")
    assert (await exchange(api, client, told["code"])).status_code == 401


NOT_OURS = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "\\\\evil.example",
    "http://127.0.0.1@evil.example/",
    "http://127.0.0.1:80@evil.example/",
    "http://localhost.evil.example/",
    "http://127.0.0.1.evil.example/",
    "http://127.1/",
    "http://0x7f000001/",
    "http://2130706433/",
    "http://[::ffff:127.0.0.1]/",
    "http://LOCALHOST@evil.example",
    "https://127.0.0.1:54329/",
    "http://127.0.0.1:54329/#fragment",
    "http://127.0.0.1:99999/",
    "http://127.0.0.1:54329/?code=mine",
    "http://127.0.0.1:54329/ x",
    "http://127.0.0.1\\@evil.example/",
    "https://localhost:8443@evil.example/",
    "https://localhost:8443.evil.example/",
    "https://localhost:84430/",
    "https://localhost:8443//evil.example",
    "https://localhost:8443/\\evil.example",
    "javascript:alert(1)",
    "data:text/html,x",
    "HTTP://127.0.0.1/",
    "http:/127.0.0.1/",
    "http:127.0.0.1",
    " http://127.0.0.1/",
    "http://127.0.0.1/\n",
    "%68ttp://127.0.0.1/",
    "http%3A%2F%2F127.0.0.1",
    "",
]
OURS = [LOOPBACK, "http://[::1]:1/x", "http://localhost:8080/cb?a=b", "https://localhost:8443/sfp/console"]


async def test_codes_go_to_loopback_and_our_own_pages_only(api):
    async with Browser(api) as browser:
        answers = {url: await browser.leave(Client(redirect_to=url)) for url in [*NOT_OURS, *OURS]}
    assert [url for url in NOT_OURS if answers[url].status_code != 400 or "location" in answers[url].headers] == []
    assert [url for url in OURS if answers[url].status_code != 303] == []


async def test_a_redirect_that_the_configuration_names_is_let_through_to_the_letter(clone, admin, valkey_url, tmp_path):
    named = "com.example.app:/callback"
    settings = replace(web_api.settings_for(tmp_path, clone, valkey_url), redirect_allow=named)
    async with web_api.running(settings, admin) as api, Browser(api) as browser:
        fine = await browser.ours.get(f"{API}/auth/authorize", params=Client(redirect_to=named).parameters(None))
        other = await browser.ours.get(
            f"{API}/auth/authorize", params=Client(redirect_to=f"{named}/x").parameters(None)
        )
    assert (fine.status_code, other.status_code) == (200, 400)


async def test_pages_go_on_inside_this_server_only(api):
    async with Browser(api) as browser:
        for path in ("//evil.example", "/\\evil", "https://evil.example", "/a#b", "/a b", "", "a"):
            assert not is_own_path(path)
            for url in (f"{API}/auth/sign-in", f"{API}/auth/sign-in/corp"):
                answer = await browser.ours.get(url, params={"continue": path})
                assert answer.status_code == 400, (url, path)


async def test_without_pkce_nothing_begins(api):
    right = Client().parameters("corp")
    wrong = [
        {name: value for name, value in right.items() if name != missing} for missing in right if missing[0] in "cr"
    ]
    wrong += [right | {"code_challenge_method": "plain"}, right | {"code_challenge": "short"}]
    async with Browser(api) as browser:
        for parameters in wrong:
            answer = await browser.ours.get(f"{API}/auth/authorize", params=parameters)
            assert answer.status_code == 400, parameters


async def test_a_provider_at_a_private_address_is_not_called_unless_the_configuration_opens_it(
    clone, admin, valkey_url, tmp_path, provider
):
    settings = web_api.settings_for(tmp_path, clone, valkey_url)
    async with web_api.running(settings, admin) as api:
        token = await api.owner()
        async with api.client(token) as client:
            for issuer in (provider.url, provider.url.replace("http://", "https://"), "https://10.0.0.1"):
                body = {"issuer": issuer, "clientId": "sfp", "clientSecret": "s"}
                answer = await client.post(f"{API}/sso/providers", json=body)
                assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "issuer")
    assert provider.asked == []


async def test_a_provider_must_be_who_it_says_it_is(api, provider):
    provider.metadata = {"issuer": "https://other.example"}
    token = (await api.login("ann@acme.example")).json()["access_token"]
    async with api.client(token) as client:
        body = {"issuer": f"{provider.url}/", "clientId": "sfp", "providerId": "slash"}
        assert (await client.post(f"{API}/sso/providers", json=body)).status_code == 422


async def test_endpoints_that_are_no_endpoints_are_refused(api, provider):
    token = (await api.login("ann@acme.example")).json()["access_token"]
    names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
    taken = []
    async with api.client(token) as client:
        for number, (name, url) in enumerate(product(names, ["javascript:alert(1)", "ftp://x", 7, None, "http://a b"])):
            issuer = f"{provider.url}/{number}"  # each is asked for once
            provider.metadata = {"issuer": issuer, name: url}
            answer = await client.post(f"{API}/sso/providers", json={"issuer": issuer, "clientId": "sfp"})
            if answer.status_code != 422:
                taken.append((name, url))
    assert taken == []


async def test_forms_need_their_proof(api):
    async with Browser(api) as browser:
        page = await browser.ours.get(f"{API}/auth/sign-in")
        action, values = form_of(page.text)
        filled = values | {"email": "ann@acme.example", "password": web_api.PASSWORD}
        async with Browser(api) as other:
            assert (await other.ours.post(action, data=filled)).status_code == 403
            await other.ours.get(f"{API}/auth/sign-in")
            assert (await other.ours.post(action, data=filled)).status_code == 403
        forged = await browser.ours.post(action, data=filled, headers={"Origin": "https://evil.example"})
        assert forged.status_code == 403
        right = await browser.ours.post(action, data=filled, headers={"Origin": api.settings.origin})
        assert right.status_code == 303
        old = {"csrf": values["csrf"]}  # of before the sign-in
        assert (await browser.ours.post(f"{API}/auth/sign-out", data=old)).status_code == 403


async def test_a_browsers_cookie_opens_no_route_of_the_api(api):
    async with Browser(api) as browser:
        action, values = form_of((await browser.ours.get(f"{API}/auth/sign-in")).text)
        await browser.ours.post(action, data=values | {"email": "ann@acme.example", "password": web_api.PASSWORD})
        assert "ann@acme.example" in (await browser.ours.get(f"{API}/auth/sign-in")).text
        assert (await browser.ours.get(f"{API}/users/me")).status_code == 401


async def test_pages_run_no_scripts_and_are_framed_by_nobody(api):
    async with Browser(api) as browser:
        for url in (f"{API}/auth/sign-in", f"{API}/auth/callback/corp?state=x", f"{API}/auth/continue?action=no"):
            answer = await browser.ours.get(url)
            policy = answer.headers["content-security-policy"]
            assert "<script" not in answer.text
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert "frame-ancestors 'none'" in policy
            assert answer.headers["cache-control"] == "no-store"


async def test_what_strangers_put_into_a_link_is_text_on_the_page(api):
    async with Browser(api) as browser:
        client = Client(state='"><script>alert(1)</script>')
        answer = await browser.ours.get(f"{API}/auth/authorize", params=client.parameters(None))
    assert answer.status_code == 200
    assert "<script" not in answer.text


async def test_an_address_has_so_many_sign_ins_under_way(api, provider, monkeypatch):
    monkeypatch.setattr("sfp_server.identity.flows._UNDER_WAY", 3)
    async with Browser(api) as browser, Browser(api, address="192.0.2.99") as other:
        answers = [(await browser.leave(Client())).status_code for _ in range(4)]
        assert answers == [303, 303, 303, 429]
        assert (await other.leave(Client())).status_code == 303


async def test_nothing_that_opens_anything_is_in_the_database(api, provider):
    client, told = await came_back(api, provider)
    stored = ""
    for table in ("identity_providers", "sign_in_flows", "authorization_codes", "browser_cookies"):
        stored += str([dict(row) for row in await api.admin.fetch(f"SELECT * FROM {table}")])
    assert (await exchange(api, client, told["code"])).status_code == 200
    assert told["code"] not in stored
    assert provider.sent["state"] not in stored
    assert provider.sent["nonce"] not in stored
    assert client.verifier not in stored


async def test_a_client_secret_moved_to_another_row_is_of_no_use(api, provider):
    await api.admin.execute(
        "INSERT INTO identity_providers (slug, name, kind, config, sealed_secret, created_by)"
        " SELECT 'thief', 'thief', kind, config, sealed_secret, 'x' FROM identity_providers"
    )
    async with Browser(api) as browser:
        client = Client()
        away = await browser.leave(client, "thief")
        back = await browser.back(provider.visited(away.headers["location"]))
    assert query(back.headers["location"])["error"] == "server_error"
    assert "/token" not in provider.asked
