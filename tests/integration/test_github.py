"""Signing in with GitHub. There is no GitHub to run here: a double answers as its documentation has it, over real HTTP.

The shapes are those of docs.github.com: errors of the token call come with status 200, ids are numbers, addresses a list.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import issuer
import web_api
from browser import Browser, Client, exchange, query
from web_api import API


@dataclass
class FakeGitHub(issuer.Issuer):
    addresses: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"email": "private@elsewhere.example", "primary": False, "verified": True, "visibility": None},
            {"email": "Ann@acme.example", "primary": True, "verified": True, "visibility": "public"},
        ]
    )

    def answer(self, path: str) -> tuple[int, bytes]:
        documents = {
            "/login/oauth/access_token": {
                "access_token": "gho_x",
                "scope": "read:user,user:email",
                "token_type": "bearer",
            },
            "/api/v3/user": {"id": 583231, "login": "octocat", "name": "Ann Lee", "email": None},
            "/api/v3/user/emails": self.addresses,
        }
        return self.instead.get(path) or (200, json.dumps(documents[path]).encode())


@pytest.fixture
async def github():
    async with issuer.serving(make=FakeGitHub) as running:
        yield running


@pytest.fixture
async def api(clone, admin, valkey_url, tmp_path, github):
    settings = replace(web_api.settings_for(tmp_path, clone, valkey_url), egress_allow="127.0.0.1")
    async with web_api.running(settings, admin) as running:
        body = {"kind": "github", "clientId": "Iv1.x", "clientSecret": "s", "baseUrl": github.url}
        async with running.client(await running.owner()) as client:
            made = await client.post(f"{API}/sso/providers", json=body | {"providerId": "github"})
        assert made.status_code == 201, made.text
        yield running


async def came_back(api, **answer):
    client = Client()
    async with Browser(api) as browser:
        away = (await browser.leave(client, "github")).headers["location"]
        sent = query(away)
        parameters = {"code": "c", "state": sent["state"]} | answer
        back = await browser.ours.get(f"{API}/auth/callback/github", params=parameters)
    return client, query(back.headers["location"]), sent


async def test_a_primary_verified_address_signs_in(api, github):
    client, told, sent = await came_back(api)
    assert (await exchange(api, client, told["code"])).json()["user"]["email"] == "ann@acme.example"
    assert sent["redirect_uri"] == "https://localhost:8443/sfp/api/auth/callback/github"
    assert (sent["scope"], sent["code_challenge_method"]) == ("read:user user:email", "S256")
    assert await api.admin.fetchval("SELECT subject FROM identities") == "583231"


@pytest.mark.parametrize(
    "address",
    [
        {"email": "ann@acme.example", "primary": True, "verified": False},
        {"email": "ann@acme.example", "primary": False, "verified": True},
        {"email": 7, "primary": True, "verified": True},
        {},
    ],
    ids=["unverified", "not primary", "a number", "nothing"],
)
async def test_any_other_address_does_not(api, github, address):
    github.addresses = [address]
    _, told, _ = await came_back(api)
    assert told["error"] == "access_denied"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/login/oauth/access_token", (200, b'{"error": "bad_verification_code", "error_description": "x"}')),
        ("/login/oauth/access_token", (200, b'{"access_token": 7}')),
        ("/login/oauth/access_token", (404, b"{}")),
        ("/api/v3/user", (200, b'{"id": "583231"}')),
        ("/api/v3/user", (401, b'{"message": "Bad credentials"}')),
        ("/api/v3/user/emails", (200, b'{"message": "no"}')),
    ],
)
async def test_what_github_does_not_confirm_is_told_of_clearly(api, github, path, answer):
    github.instead[path] = answer
    _, told, _ = await came_back(api)
    assert told["error"] in {"access_denied", "server_error"}


async def test_a_refusal_at_github_is_told_to_the_client(api):
    _, told, _ = await came_back(api, error="access_denied")
    assert told["error"] == "access_denied"


async def test_github_itself_is_where_github_is(api):
    async with api.client((await api.login("ann@acme.example")).json()["access_token"]) as client:
        body = {"kind": "github", "clientId": "Iv1.x", "providerId": "public", "enabled": False}
        made = (await client.post(f"{API}/sso/providers", json=body)).json()
    assert made["config"] == {"clientId": "Iv1.x", "baseUrl": "https://github.com", "apiUrl": "https://api.github.com"}
