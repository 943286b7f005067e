"""Tokens of Supabase Auth open the API when the configuration says so, and nothing else of that kind does."""

import json
import time
import uuid
from dataclasses import replace

import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

import issuer as local
import web_api
from sfp_server.errors import Unavailable
from sfp_server.identity.issuers import Issuers
from sfp_server.instance.configuration import wanted
from sfp_server.outgoing import Outgoing
from sfp_server.settings import Settings, SettingsError
from web_api import API

SECRET = "a shared secret of Supabase Auth, forty bytes"
HERE = "https://project.supabase.co/auth/v1"


def claims(user_id, **changes):
    """As Supabase Auth makes them."""
    now = int(time.time())
    made = {
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now}],
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "aud": "authenticated",
        "email": "ann@acme.example",
        "exp": now + 3600,
        "iat": now,
        "iss": HERE,
        "phone": "",
        "role": "authenticated",
        "session_id": str(uuid.uuid4()),
        "sub": str(user_id),
        "user_metadata": {"email_verified": True},
        "is_anonymous": False,
    }
    return {name: value for name, value in (made | changes).items() if value is not ...}


def by_secret(user_id, secret=SECRET, algorithm="HS256", **changes):
    key = OctKey.import_key(secret)
    return jwt.encode({"alg": algorithm, "typ": "JWT"}, claims(user_id, **changes), key, algorithms=[algorithm])


@pytest.fixture
async def supabase(clone, admin, valkey_url, tmp_path):
    settings = web_api.settings_for(tmp_path, clone, valkey_url)
    (tmp_path / "secrets" / "supabase-jwt-secret").write_text(SECRET)
    settings = replace(settings, auth_issuer=HERE, supabase_jwt_secret="supabase-jwt-secret")
    async with web_api.running(settings, admin) as running:
        yield running


async def _status(api, token, **headers):
    async with api.client(token, **headers) as client:
        answer = await client.get(f"{API}/users/me")
    return answer.status_code, answer.json().get("code") or answer.json()["email"]


async def _user(api):
    await api.owner()
    return await api.admin.fetchval("SELECT id FROM users")


async def test_it_opens_the_api_as_the_user_of_its_subject(supabase):
    ann = await _user(supabase)
    assert await _status(supabase, by_secret(ann)) == (200, "ann@acme.example")
    assert await _status(supabase, by_secret(ann), **{"X-Sfp-Team": "acme"}) == (200, "ann@acme.example")
    assert await _status(supabase, by_secret(ann), **{"X-Sfp-Team": "else"}) == (404, "not_found")


async def test_our_own_tokens_go_on_working(supabase):
    assert await _status(supabase, await supabase.owner()) == (200, "ann@acme.example")


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "service_role"},
        {"role": "anon", "sub": ...},
        {"aud": "other"},
        {"aud": ["other"]},
        {"iss": "https://other.supabase.co/auth/v1"},
        {"iss": ...},
        {"is_anonymous": True},
        {"exp": ...},
        {"exp": 10**12},
        {"exp": "soon"},
        {"iat": ...},
        {"iat": 2**33, "exp": 2**33 + 3600},
        {"nbf": 2**33},
        {"sub": ...},
        {"sub": 1},
        {"sub": "0193a5d0-0000-7000-8000-000000000000"},
        {"sub": "not a uuid"},
    ],
    ids=str,
)
async def test_what_is_not_a_live_user_of_that_service_is_refused(supabase, changes):
    ann = await _user(supabase)
    assert await _status(supabase, by_secret(ann, **changes)) == (401, "token_invalid")


async def test_the_secret_and_the_algorithm_are_the_configurations(supabase):
    ann = await _user(supabase)
    assert await _status(supabase, by_secret(ann, secret="x" * 40)) == (401, "token_invalid")
    assert await _status(supabase, by_secret(ann, secret=SECRET * 2, algorithm="HS512")) == (401, "token_invalid")


async def test_it_opens_nothing_within_the_buffer(supabase):
    ann, now = await _user(supabase), int(time.time())
    token = by_secret(ann, iat=now - 3400, exp=now + 200)
    assert await _status(supabase, token) == (401, "token_expired")


async def test_a_disabled_user_is_out(supabase):
    ann = await _user(supabase)
    await supabase.admin.execute("UPDATE users SET disabled_at = now()")
    assert await _status(supabase, by_secret(ann)) == (401, "token_invalid")


async def test_an_email_address_counts_only_when_the_configuration_trusts_it(supabase):
    await _user(supabase)
    assert await _status(supabase, by_secret(uuid.uuid4())) == (401, "token_invalid")
    async with web_api.running(replace(supabase.settings, auth_trust_email=True), supabase.admin) as trusting:
        assert await _status(trusting, by_secret(uuid.uuid4())) == (200, "ann@acme.example")
        assert await _status(trusting, by_secret(uuid.uuid4(), email="no@acme.example")) == (401, "token_invalid")


async def test_keys_at_a_url_are_read_and_read_again_when_there_is_a_new_one(clone, admin, valkey_url, tmp_path):
    async with local.serving("ES256") as issuer:
        settings = web_api.settings_for(tmp_path, clone, valkey_url)
        settings = replace(settings, auth_issuer=HERE, auth_jwks_url=issuer.jwks_url, egress_allow="127.0.0.1")
        async with web_api.running(settings, admin) as api:
            ann = await _user(api)
            assert (await _status(api, issuer.sign(claims(ann))))[0] == 200
            assert (await _status(api, issuer.sign(claims(ann, jti="2"))))[0] == 200
            assert issuer.asked == ["/keys"]
            assert await _status(api, by_secret(ann)) == (401, "token_invalid")


async def test_unknown_keys_are_asked_for_at_a_bounded_rate(monkeypatch):
    now = [1000.0]
    async with local.serving("ES256") as issuer:
        issuers = Issuers(Outgoing(allow=["127.0.0.1"]), clock=lambda: now[0])

        async def check(kid):
            return await issuers.verify(
                issuer.sign({"iss": issuer.url}, kid=kid), issuer=issuer.url, algorithms=["ES256"]
            )

        await check("first")
        issuer.add_key("second", "ES256")
        for _ in range(5):
            with pytest.raises(Exception, match="not valid"):
                await check("second")
        now[0] += 31
        await check("second")
        assert issuer.asked == ["/.well-known/openid-configuration", "/keys", "/keys"]
        # who does not answer any more is believed for a day
        issuer.instead = dict.fromkeys(["/keys", "/.well-known/openid-configuration"], (500, b""))
        now[0] += 86_000
        await check("second")
        now[0] += 1000
        with pytest.raises(Unavailable):
            await check("second")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"keys": 5}',
        b'{"keys": [5, null, {"kty": "oct", "k": "AAAA", "kid": "first"}]}',
        b'{"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "first"}]}',
    ],
    ids=str,
)
async def test_nonsense_instead_of_keys_is_no_key(body):
    async with local.serving("ES256") as issuer:
        issuer.instead = {"/keys": (200, body)}
        issuers = Issuers(Outgoing(allow=["127.0.0.1"]))
        with pytest.raises(Exception, match=r"not valid|cannot be had"):
            await issuers.verify(issuer.sign({"iss": issuer.url}), issuer=issuer.url, algorithms=["ES256"])


async def test_a_document_of_another_issuer_is_not_believed():
    async with local.serving() as issuer:
        path = "/.well-known/openid-configuration"
        issuer.instead = {path: (200, json.dumps({"issuer": "x", "jwks_uri": issuer.jwks_url}).encode())}
        with pytest.raises(Unavailable):
            await Issuers(Outgoing(allow=["127.0.0.1"])).verify(
                issuer.sign({"iss": issuer.url}), issuer=issuer.url, algorithms=["RS256"]
            )
        assert issuer.asked == [path]


def test_the_secret_is_never_in_the_configuration(tmp_path):
    file = tmp_path / "wish.json"
    file.write_text(json.dumps({"auth": {"issuer": HERE, "supabaseJwtSecret": SECRET}}))
    wish = wanted({}, file, {})
    assert wish.secrets == {"supabase-jwt-secret": SECRET}
    assert SECRET not in json.dumps(wish.values)
    (tmp_path / "config.json").write_text(json.dumps({"auth": {"issuer": HERE, "supabaseJwtSecret": SECRET}}))
    with pytest.raises(SettingsError) as refused:
        Settings.load(tmp_path, {})
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"auth_issuer": HERE},
        {"auth_jwks_url": HERE},
        {"auth_issuer": HERE, "auth_jwks_url": HERE, "supabase_jwt_secret": "supabase-jwt-secret"},
    ],
    ids=str,
)
def test_settings_that_contradict_each_other_are_refused(tmp_path, changes):
    with pytest.raises(SettingsError):
        Settings(directory=tmp_path, **changes)


async def test_a_trusted_token_says_whose_it_is_here(supabase):
    await supabase.owner()
    user_id = await supabase.admin.fetchval("SELECT id FROM users")
    async with supabase.client() as client:
        body = {"access_token": by_secret(user_id), "refresh_token": "of the other service"}
        answer = await client.post(f"{API}/auth/callback", json=body)
        assert (answer.status_code, answer.json()) == (200, {"success": True, "data": {"userId": str(user_id)}})
        own = (await supabase.login("ann@acme.example")).json()["access_token"]
        for token in (by_secret(uuid.uuid4()), by_secret(user_id, secret="x" * 40), own, "nonsense"):
            answer = await client.post(f"{API}/auth/callback", json={"access_token": token})
            assert answer.status_code == 401
