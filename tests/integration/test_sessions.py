"""Sessions: seen, ended one by one and all at once; and keys that are replaced while people are signed in."""

import time

import pytest

from sfp_server.identity.keyset import KeySet, needed
from sfp_server.instance.keys import add_signing_key, drop_signing_keys
from sfp_server.instance.place import Place
from sfp_server.settings import SettingsError
from web_api import API

SESSIONS = f"{API}/auth/sessions"


async def _works(api, token):
    async with api.client(token) as client:
        return (await client.get(f"{API}/users/me")).status_code == 200


async def _dies(api, token):
    """Whether the token opens nothing within a second."""
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        if not await _works(api, token):
            return True
    return False


async def test_everybody_sees_their_own_sessions_and_nobody_elses(api):
    ann = await api.owner()
    max_ = await api.member()
    await api.login("ann@acme.example", address="198.51.100.7")
    async with api.client(ann) as client:
        items = (await client.get(SESSIONS)).json()["items"]
    assert [(item["address"], item["isCurrent"]) for item in items] == [("198.51.100.7", False), ("192.0.2.1", True)]
    async with api.client(max_) as client:
        assert len((await client.get(SESSIONS)).json()["items"]) == 1
        for item in items:
            assert (await client.delete(f"{SESSIONS}/{item['id']}")).status_code == 404
    assert await _works(api, ann)


async def test_one_session_is_ended_from_another(api):
    here = await api.owner()
    there = (await api.login("ann@acme.example", address="198.51.100.7")).json()
    async with api.client(here) as client:
        found = (await client.get(SESSIONS)).json()["items"][0]["id"]
        assert (await client.delete(f"{SESSIONS}/{found}")).json() == {"success": True, "ended": 1}
        assert (await client.delete(f"{SESSIONS}/{found}")).status_code == 404
        refreshed = await client.post(
            f"{API}/auth/token", json={"grant_type": "refresh_token", "refresh_token": there["refresh_token"]}
        )
    assert refreshed.status_code == 401
    assert await _dies(api, there["access_token"])
    assert await _works(api, here)


async def test_signing_out_everywhere_ends_every_session_of_the_user_alone(api):
    ann, max_ = await api.owner(), await api.member()
    other = (await api.login("ann@acme.example")).json()["access_token"]
    async with api.client(ann) as client:
        assert (await client.delete(SESSIONS)).json() == {"success": True, "ended": 2}
    assert await _dies(api, ann)
    assert await _dies(api, other)
    assert await _works(api, max_)
    detail = await api.admin.fetchval("SELECT detail FROM audit_log WHERE action = 'session.ended'")
    assert '"sessions": 2' in detail


async def test_a_new_signing_key_signs_nobody_out_and_is_used_without_a_restart(api):
    at = Place(directory=api.settings.directory, tenant="acme")
    before = await api.owner()
    async with api.client() as client:
        old = (await client.get(f"{API}/auth/.well-known/jwks.json")).json()["keys"]
    add_signing_key(at)
    await _until_keys(api, 2)
    after = (await api.login("ann@acme.example")).json()["access_token"]
    async with api.client() as client:
        both = (await client.get(f"{API}/auth/.well-known/jwks.json")).json()["keys"]
    assert both[0] == old[0]
    assert await _works(api, before)
    assert await _works(api, after)
    assert drop_signing_keys(at, life=3600, now=time.time()) == []
    assert len(drop_signing_keys(at, life=3600, now=time.time(), all_old=True)) == 1
    await _until_keys(api, 1)
    async with api.client(before) as client:  # the answer that was kept is a second old at most
        assert await _dies(api, before)
        assert (await client.get(f"{API}/users/me")).json()["code"] == "token_invalid"
    assert await _works(api, after)


async def _until_keys(api, number):
    deadline = time.monotonic() + 5
    async with api.client() as client:
        while len((await client.get(f"{API}/auth/.well-known/jwks.json")).json()["keys"]) != number:
            assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("made_at", "now", "expected"),
    [
        ([100], 10**9, [True]),
        ([100, 1000], 1000 + 3659, [True, True]),
        ([100, 1000], 1000 + 3660, [False, True]),
        ([100, 1000, 4000], 1000 + 3700, [False, True, True]),
    ],
)
def test_a_key_counts_until_the_last_token_of_its_time_has_died(made_at, now, expected):
    assert needed(made_at, 3600, now) == expected


def test_the_directory_is_looked_at_once_a_second_at_most(tmp_path):
    at = Place(directory=tmp_path, tenant="x")
    now = [0.0]
    add_signing_key(at)
    keys = KeySet(at.signing, life=3600, ticks=lambda: now[0])
    add_signing_key(at)
    assert [keys.find("unknown"), len(keys.live())] == [None, 1]
    now[0] = 1.0
    assert len(keys.live()) == 2
    for file in at.signing.iterdir():  # what cannot be read for a moment changes nothing
        file.write_text("half a ke")
    now[0] = 2.0
    assert len(keys.live()) == 2


def test_without_a_key_nothing_starts(tmp_path):
    (tmp_path / "signing").mkdir()
    with pytest.raises(SettingsError):
        KeySet(tmp_path / "signing", life=3600)
