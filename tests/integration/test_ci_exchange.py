"""CI systems' own tokens for ours: the real shapes of three of them, signed by a local issuer."""

import time
import uuid
from dataclasses import replace

import pytest

import issuer as local
import web_api
from sfp_server.identity.ci import fits
from web_api import API

EXCHANGE, TRUST = f"{API}/auth/oidc/exchange", f"{API}/auth/oidc/trust"


def github(**changes):
    """As docs.github.com shows a token of GitHub Actions."""
    now = int(time.time())
    return {
        "jti": str(uuid.uuid4()), "sub": "repo:acme/app:environment:prod", "environment": "prod", "aud": "sfp.example",
        "ref": "refs/heads/main", "sha": "example-sha", "repository": "acme/app", "repository_owner": "acme",
        "actor_id": "12", "repository_visibility": "private", "repository_id": "74", "repository_owner_id": "65",
        "run_id": "example-run-id", "run_number": "10", "run_attempt": "2", "runner_environment": "github-hosted",
        "actor": "octocat", "workflow": "release", "head_ref": "", "base_ref": "", "event_name": "workflow_dispatch",
        "ref_type": "branch", "job_workflow_ref": "acme/app/.github/workflows/r.yml@refs/heads/main",
        "nbf": now - 600, "exp": now + 300, "iat": now,
    } | changes  # fmt: skip


def gitlab(**changes):
    """As docs.gitlab.com shows an ID token."""
    now = int(time.time())
    return {
        "namespace_id": "72", "namespace_path": "acme", "project_id": "20", "project_path": "acme/app", "user_id": "1",
        "user_login": "sam", "user_email": "sam@acme.example", "pipeline_id": "574", "pipeline_source": "push",
        "job_id": "302", "ref": "main", "ref_type": "branch", "ref_path": "refs/heads/main", "ref_protected": "true",
        "runner_id": 1, "runner_environment": "self-hosted", "sha": "714a", "ci_config_sha": "714a",
        "project_visibility": "private", "jti": str(uuid.uuid4()), "iat": now, "nbf": now - 5, "exp": now + 3600,
        "sub": "project_path:acme/app:ref_type:branch:ref:main", "aud": "sfp.example",
    } | changes  # fmt: skip


def azure(**changes):
    """As Azure DevOps makes them for service connections."""
    now = int(time.time())
    return {
        "jti": str(uuid.uuid4()), "sub": "sc://acme/app/deploy", "aud": "api://AzureADTokenExchange",
        "nbf": now, "exp": now + 600, "iat": now,
    } | changes  # fmt: skip


RULES = {
    "github": {"audience": "sfp.example", "claims": {"repository": "acme/app", "sub": "repo:acme/app:*"}},
    "gitlab": {
        "audience": "sfp.example",
        "claims": {"project_path": "acme/*", "ref_protected": "true", "runner_id": "1"},
    },
    "azure": {"audience": "api://AzureADTokenExchange", "claims": {"sub": "sc://acme/app/deploy"}},
}
SHAPES = {"github": github, "gitlab": gitlab, "azure": azure}


@pytest.fixture
async def ci(clone, admin, valkey_url, tmp_path):
    settings = web_api.settings_for(tmp_path, clone, valkey_url)
    async with local.serving() as issuer:
        async with web_api.running(replace(settings, egress_allow="127.0.0.1"), admin) as api:
            api.issuer = issuer
            yield api


async def trust(api, owner, kind="github", **changes):
    rule = {"name": kind, "issuer": api.issuer.url, "scopes": ["tasks:read"]} | RULES[kind] | changes
    async with api.client(owner) as client:
        answer = await client.post(TRUST, json=rule)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def exchange(api, claims, *, address="203.0.113.1", team=None, **header):
    token = api.issuer.sign({"iss": api.issuer.url} | claims, **header)
    async with api.client(address=address) as client:
        return await client.post(EXCHANGE, json={"token": token} | ({"team": team} if team else {}))


@pytest.mark.parametrize("kind", list(SHAPES))
async def test_a_token_that_fits_gets_one_of_ours_for_minutes(ci, kind):
    owner = await ci.owner()
    await trust(ci, owner, kind, ttlSeconds=600)
    answer = await exchange(ci, SHAPES[kind]())
    body = answer.json()
    assert (answer.status_code, body["expires_in"], body["team"]) == (200, 600, "acme"), answer.text
    async with ci.client(body["access_token"]) as client:
        assert (await client.get(f"{API}/tasks")).status_code == 200
        assert (await client.get(f"{API}/queues")).status_code == 403
    async with ci.client(owner) as client:
        assert (await client.get(f"{API}/application-tokens")).json()["items"] == []
        (item,) = (await client.get(f"{API}/application-tokens", params={"ci": "true"})).json()["items"]
    assert (item["name"], item["createdBy"]) == (f"CI: {kind}", f"rule {kind}")
    entry = await ci.admin.fetchrow("SELECT * FROM audit_log WHERE action = 'application_token.exchanged'")
    assert SHAPES[kind]()["sub"] in entry["detail"]
    assert body["access_token"] not in entry["detail"]


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "other"},
        {"aud": ["other"]},
        {"aud": None},
        {"repository": "acme/app2"},
        {"repository": "Acme/app"},
        {"repository": ["acme/app"]},
        {"repository": None},
        {"sub": "repo:acme/app:"},
        {"sub": "xrepo:acme/app:y"},
        {"sub": 5},
        {"exp": 1},
        {"exp": 2**40},
        {"exp": "soon"},
        {"iat": 2**33, "exp": 2**33 + 300},
        {"nbf": 2**33},
        {"iat": None},
        {"iss": "https://elsewhere.example"},
        {"iss": None},
    ],
    ids=str,
)
async def test_what_does_not_fit_gets_nothing(ci, changes):
    await trust(ci, await ci.owner())
    answer = await exchange(ci, github(**changes))
    assert (answer.status_code, answer.json()["code"] in {"token_invalid", "token_expired"}) == (401, True)
    assert await ci.admin.fetchval("SELECT count(*) FROM application_tokens") == 0


async def test_an_issuer_that_nobody_named_is_never_asked(ci):
    await ci.owner()
    assert (await exchange(ci, github())).status_code == 401
    assert ci.issuer.asked == []


async def test_only_its_own_keys_count(ci):
    await trust(ci, await ci.owner())
    async with local.serving() as other:
        token = other.sign({"iss": ci.issuer.url} | github(), kid="first")
        async with ci.client() as client:
            assert (await client.post(EXCHANGE, json={"token": token})).status_code == 401


async def test_a_rule_may_take_each_token_once(ci):
    owner = await ci.owner()
    await trust(ci, owner, singleUse=True)
    claims = github()
    token = ci.issuer.sign({"iss": ci.issuer.url} | claims)
    async with ci.client() as client:
        answers = [(await client.post(EXCHANGE, json={"token": token})).status_code for _ in range(2)]
    assert answers == [200, 401]


async def test_the_oldest_rule_counts_and_several_teams_must_be_told_apart(ci):
    ann, eve = await ci.owner(), await ci.owner("eve@other.example", "other")
    await trust(ci, ann, name="first", scopes=["queues:read"])
    await trust(ci, ann, name="second")
    assert (await exchange(ci, github())).json()["rule"] == "first"
    await trust(ci, eve)
    answer = await exchange(ci, github())
    assert (answer.status_code, answer.json()["code"]) == (422, "unprocessable")
    assert (await exchange(ci, github(), team="other")).json()["team"] == "other"
    assert (await exchange(ci, github(), team="none")).status_code == 401


async def test_a_rule_that_is_removed_takes_its_tokens_with_it(ci):
    owner = await ci.owner()
    rule = await trust(ci, owner)
    token = (await exchange(ci, github())).json()["access_token"]
    eve = await ci.owner("eve@other.example", "other")
    async with ci.client(eve) as client:
        assert (await client.delete(f"{TRUST}/{rule['id']}")).status_code == 404
        assert (await client.get(TRUST)).json()["items"] == []
    async with ci.client(owner) as client:
        assert [item["name"] for item in (await client.get(TRUST)).json()["items"]] == ["github"]
        assert (await client.delete(f"{TRUST}/{rule['id']}")).status_code == 200
    async with ci.client(token) as client:
        deadline = time.monotonic() + 1
        while (answer := await client.get(f"{API}/tasks")).status_code == 200 and time.monotonic() < deadline:
            pass
    assert answer.json()["code"] == "token_revoked"


async def test_failures_are_slowed_down_by_address(ci):
    await trust(ci, await ci.owner())
    answers = [(await exchange(ci, github(aud="other"))).status_code for _ in range(51)]
    assert answers == [401] * 50 + [429]
    assert (await exchange(ci, github(), address="203.0.113.2")).status_code == 200


async def test_when_the_issuer_is_away_it_is_said_to_be_later(ci):
    await trust(ci, await ci.owner())
    ci.issuer.instead = {"/.well-known/openid-configuration": (503, b"")}
    answer = await exchange(ci, github())
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


@pytest.mark.parametrize(
    "changes",
    [
        {"claims": {}},
        {"claims": {"sub": "*"}},
        {"claims": {"sub": "a*b*c*d*e*f*g"}},
        {"issuer": "ftp://x.example"},
        {"issuer": "https://x.example/?a"},
        {"issuer": "https://x.example/\\"},
        {"scopes": []},
        {"scopes": ["secrets:manage"]},
        {"ttlSeconds": 901},
    ],
    ids=str,
)
async def test_rules_that_give_too_much_are_refused(ci, changes):
    rule = {"name": "x", "issuer": ci.issuer.url, "scopes": ["tasks:read"]} | RULES["github"] | changes
    async with ci.client(await ci.owner()) as client:
        assert (await client.post(TRUST, json=rule)).status_code == 400


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("a", "a", True), ("a", "A", False), ("a*", "a", False), ("a*", "ab", True), ("*b", "aab", True),
        ("a*c", "abc", True), ("a*c", "ac", False), ("a*a", "aa", False), ("a*b*c", "axbxbxc", True),
        ("a*b*c", "abc", False), ("repo:acme/app:*", "repo:acme/app:ref:x\nrepo:evil", True),
        ("repo:acme/app:*", "x\nrepo:acme/app:y", False), ("a.c", "abc", False), ("a**", "ab", False),
        ("a**", "abc", True), ("1", 1, True), ("true", True, True), ("1", True, False), ("1.0", 1.0, False),
    ],
)  # fmt: skip
def test_patterns_are_anchored_and_mean_only_what_they_say(pattern, value, expected):
    assert fits({"audience": "x", "claims": {"c": pattern}}, {"aud": ["y", "x"], "c": value}) == expected
