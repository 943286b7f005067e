"""Refusals that must not be told apart do the same work: as many hashes, and the same statements in the same order.

Time itself is measured by `benchmarks/timing.py`; a test that asserted milliseconds would fail by chance.
"""

import pytest

from sfp_server.db.database import Tx
from sfp_server.identity import passwords
from web_api import API


@pytest.fixture
def work(monkeypatch):
    """What was done since it was last cleared: `hash`, or the text of a statement."""
    done = []

    def recorded(original):
        async def call(self, statement, *values):
            done.append(statement)
            return await original(self, statement, *values)

        return call

    for name in ("one", "all", "value", "execute"):
        monkeypatch.setattr(Tx, name, recorded(getattr(Tx, name)))
    verify = passwords._verify

    def counted(stored, password):
        done.append("hash")
        return verify(stored, password)

    monkeypatch.setattr(passwords, "_verify", counted)
    return done


async def test_a_refused_sign_in_does_the_same_whatever_was_wrong(api, work):
    await api.owner()
    await api.member("out@acme.example")
    await api.admin.execute("UPDATE users SET disabled_at = now() WHERE email = 'out@acme.example'")
    await api.admin.execute("INSERT INTO users (email) VALUES ('sso@acme.example')")
    await api.login("nobody@acme.example", "x", address="198.51.100.1")  # the hash that nobody has is made once
    done = {}
    for name in ("ann", "nobody", "out", "sso"):
        work.clear()
        answer = await api.login(f"{name}@acme.example", "wrong", address="198.51.100.2")
        assert answer.status_code == 401
        done[name] = list(work)
    assert done["ann"].count("hash") == 1
    assert done["ann"] == done["nobody"] == done["out"] == done["sso"]


async def test_a_refused_token_costs_one_look_whatever_became_of_it(api, work):
    owner = await api.owner()
    revoked, expired = [await api.application_token(owner) for _ in range(2)]
    await api.admin.execute("UPDATE application_tokens SET revoked_at = now() WHERE id = $1", revoked["id"])
    await api.admin.execute("UPDATE application_tokens SET expires_at = now() WHERE id = $1", expired["id"])
    done = {}
    for name, made in (("revoked", revoked), ("expired", expired)):
        work.clear()
        async with api.client(made["token"]) as client:
            assert (await client.get(f"{API}/tasks")).json()["code"] == f"token_{name}"
        done[name] = list(work)
    assert done["revoked"] == done["expired"]
    assert len(done["revoked"]) == 1
