"""Secrets over HTTP: versions, who may be wrong about them, and the key pair that changes underneath."""

import asyncio
import json
import uuid

import pytest

from sfp_server.credentials.leasing import open_row
from sfp_server.credentials.model import secret_place
from sfp_server.credentials.service import SQL
from sfp_server.db.database import Database
from sfp_server.errors import Conflict
from vaults import Vault
from web_api import API


@pytest.fixture
def vault(api) -> Vault:
    """The vault of the API's instance."""
    key = api.settings.secret("broker-key")
    return Vault.of(api.settings, key)


@pytest.fixture
async def brokering(clone):
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        yield database


@pytest.fixture
async def owner(api):
    async with api.client(await api.owner()) as client:
        yield client


async def put(client, name, body, status=200, **headers):
    answer = await client.put(f"{API}/secrets/{name}", json=body, headers=headers)
    assert answer.status_code == status, answer.text
    return answer


async def opened(api, brokering, opener, name):
    """What a lease would hand out now."""
    team = await api.admin.fetchval("SELECT id FROM teams WHERE slug = 'acme'")
    async with brokering.serving(team) as tx:
        (row,) = await tx.all(SQL["sealed_secrets"], [name])
    place = secret_place(
        secret_id=row["id"], team_id=team, name=name, version=row["value_of"], is_reference=row["is_reference"]
    )
    return open_row(opener, row, place, name).decode()


async def test_versions_are_kept_and_an_earlier_one_comes_back_as_the_next(api, owner, vault, brokering):
    for value in ("first-value", "second-value"):
        await put(owner, "TOKEN", {"value": value})
    answer = await put(owner, "TOKEN", {"restore": 1})
    assert (answer.json()["version"], answer.headers["etag"]) == (3, '"3"')
    assert await opened(api, brokering, vault.opener, "TOKEN") == "first-value"
    versions = (await owner.get(f"{API}/secrets/TOKEN/versions")).json()["items"]
    assert [(item["version"], item["restoredFrom"], item["isCurrent"]) for item in versions] == [
        (3, 1, True), (2, None, False), (1, None, False),
    ]  # fmt: skip
    assert "value" not in json.dumps(versions)
    await put(owner, "TOKEN", {"restore": 3})  # of a restored one: the same value again
    assert await opened(api, brokering, vault.opener, "TOKEN") == "first-value"
    assert (await put(owner, "TOKEN", {"restore": 9}, 404)).json()["code"] == "not_found"
    actions = await api.admin.fetch("SELECT action FROM audit_log WHERE action LIKE 'secret.%' ORDER BY id")
    assert [row[0] for row in actions] == ["secret.set"] * 2 + ["secret.restored"] * 2


async def test_who_is_wrong_about_the_version_changes_nothing(owner):
    await put(owner, "TOKEN", {"value": "first-value"}, **{"If-None-Match": "*"})
    assert (await put(owner, "TOKEN", {"value": "other-value"}, 412, **{"If-None-Match": "*"})).json()[
        "currentVersion"
    ] == 1
    await put(owner, "TOKEN", {"value": "second-value"}, **{"If-Match": '"1"'})
    wrong = (await put(owner, "TOKEN", {"value": "third-value"}, 412, **{"If-Match": '"1"'})).json()
    assert (wrong["code"], wrong["currentVersion"]) == ("version_conflict", 2)
    assert (await put(owner, "TOKEN", {"value": "third-value", "version": 1}, 409)).json()["currentVersion"] == 2
    await put(owner, "TOKEN", {"value": "third-value"}, 400, **{"If-Match": "2"})
    await put(owner, "OTHER", {"value": "third-value"}, 412, **{"If-Match": "*"})
    assert (await owner.delete(f"{API}/secrets/TOKEN", headers={"If-Match": '"1"'})).status_code == 412
    assert (await owner.get(f"{API}/secrets/TOKEN")).json()["version"] == 2
    assert (await owner.delete(f"{API}/secrets/TOKEN", headers={"If-Match": '"2"'})).status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        {}, {"value": "abc"}, {"value": "   a   "}, {"value": "long-enough", "restore": 1}, {"restore": 0},
        {"reference": {"source": "vault", "path": "sfp/acme/x"}}, {"reference": {"source": "nowhere", "path": "x"}},
        {"reference": {"source": "vault", "path": "../x"}}, {"value": "long-enough", "more": 1},
    ],
)  # fmt: skip
async def test_a_body_that_is_not_one_of_the_three_is_refused(owner, body):
    await put(owner, "TOKEN", body, 400)


async def test_many_versions_are_not_kept_for_ever_but_what_is_in_use_is(api, owner, vault, brokering):
    await put(owner, "TOKEN", {"value": "first-value"})
    await put(owner, "TOKEN", {"restore": 1})
    for _ in range(52):
        await put(owner, "TOKEN", {"restore": 1})
    kept = await api.admin.fetch("SELECT version FROM secret_versions ORDER BY version")
    assert [kept[0][0], kept[1][0], kept[-1][0], len(kept)] == [1, 5, 54, 51]
    assert await opened(api, brokering, vault.opener, "TOKEN") == "first-value"


async def test_a_public_key_that_a_writer_of_the_database_put_there_seals_nothing(api, owner):
    await put(owner, "TOKEN", {"value": "first-value"})
    await api.admin.execute("INSERT INTO vault_keys (version, public_key, mac) VALUES (2, sha256('theirs'), '\\x00')")
    answer = await put(owner, "TOKEN", {"value": "second-value"}, 503)
    assert answer.json()["code"] == "unavailable"
    assert (await owner.get(f"{API}/secrets/TOKEN")).json()["version"] == 1


async def rotated(keys):
    """Until everything is sealed to one key pair."""
    async with asyncio.timeout(20):
        while len(await keys.states()) != 1:
            await keys.keep_up()


async def test_no_read_fails_while_the_key_pair_changes(api, owner, vault, brokering):
    names = [f"S{number}" for number in range(30)]
    for name in names:
        await put(owner, name, {"value": f"value-of-{name}"})
    await put(owner, "S0", {"value": "value-of-S0"})
    keys = vault.keyring(brokering)
    await keys.load()
    reads = 0

    async def read():
        nonlocal reads
        while True:
            for name in names:
                assert await opened(api, brokering, keys.opener, name) == f"value-of-{name}"
                reads += 1

    async def write():
        while True:
            await put(owner, "S1", {"value": "value-of-S1"})

    busy = [asyncio.create_task(read()), asyncio.create_task(write())]
    before = vault.ring
    for version in (2, 3):
        assert await keys.rotate(team_id=None, actor="admin") == version
        await rotated(keys)
        while reads < version * len(names) and not any(task.done() for task in busy):
            await asyncio.sleep(0)
    for task in busy:
        task.cancel()
    outcomes = await asyncio.gather(*busy, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes), outcomes
    assert set(vault.ring.keys) == {3}
    assert not set(before.keys.values()) & set(vault.ring.keys.values())
    assert await api.admin.fetchval("SELECT count(*) FROM secret_versions WHERE key_version <> 3") == 0
    assert await api.admin.fetchval("SELECT count(*) FROM audit_log WHERE action = 'vault.rotated'") == 2


async def test_a_rotation_goes_on_where_a_crash_left_it(api, owner, vault, brokering):
    """The broker dies after each step in turn; the next one finishes, and nothing was unreadable in between."""
    await put(owner, "TOKEN", {"value": "the-value"})
    following = vault.ring.with_next()
    vault.file.write_text(following.text())  # died after the source was written
    assert await opened(api, brokering, vault.opener, "TOKEN") == "the-value"
    second = vault.keyring(brokering)
    await second.load()
    async with brokering.serving() as tx:
        await second._publish(tx, vault.ring)  # died after the public key was there
    await put(owner, "OTHER", {"value": "another-value"})
    assert await api.admin.fetchval("SELECT max(key_version) FROM secret_versions") == 2
    assert await opened(api, brokering, vault.opener, "TOKEN") == "the-value"
    assert await second._rewrap_all(vault.ring, "secret_versions") == 0  # died before the old key was forgotten
    assert await opened(api, brokering, vault.opener, "TOKEN") == "the-value"
    third = vault.keyring(brokering)
    await third.load()
    await rotated(third)
    assert set(vault.ring.keys) == {2}
    assert await opened(api, brokering, vault.opener, "TOKEN") == "the-value"
    assert await opened(api, brokering, vault.opener, "OTHER") == "another-value"


async def test_a_second_rotation_waits_for_the_first(owner, vault, brokering):
    await put(owner, "TOKEN", {"value": "the-value"})
    keys = vault.keyring(brokering)
    await keys.load()
    await keys.rotate(team_id=None, actor="admin")
    with pytest.raises(Conflict):
        await keys.rotate(team_id=None, actor="admin")


async def test_a_key_that_something_needs_is_not_forgotten(api, owner, vault, brokering):
    """What somebody changed in the database cannot be sealed anew: its key stays, and owners see that it does."""
    await put(owner, "TOKEN", {"value": "the-value"})
    await put(owner, "BROKEN", {"value": "the-value"})
    await api.admin.execute(
        "UPDATE secret_versions SET sealed_key = '\\x00' WHERE secret_id = (SELECT id FROM secrets WHERE name = 'BROKEN')"
    )
    keys = vault.keyring(brokering)
    await keys.load()
    await keys.rotate(team_id=None, actor="admin")
    await keys.keep_up()
    assert [(state.version, state.sealed, state.is_current) for state in await keys.states()] == [
        (1, 1, False), (2, 1, True),
    ]  # fmt: skip
    assert keys.broken == 1
    assert set(vault.ring.keys) == {1, 2}
    await owner.delete(f"{API}/secrets/BROKEN")
    await keys.keep_up()
    assert set(vault.ring.keys) == {2}


async def test_owners_rotate_and_see_how_far_it_is(api, owner, vault, brokering, short_path):
    await put(owner, "TOKEN", {"value": "the-value"})
    api.settings.run_directory.mkdir(exist_ok=True)
    async with vault.running(brokering, api.settings):
        answer = await owner.post(f"{API}/secrets/rotate-keys")
        assert (answer.status_code, answer.json()) == (202, {"version": 2})
        async with asyncio.timeout(10):
            while len((shown := (await owner.get(f"{API}/secrets/rotate-keys")).json())["items"]) > 1:
                await asyncio.sleep(0.02)
    (item,) = shown["items"]
    assert (item["version"], item["sealed"], item["isCurrent"], shown["broken"]) == (2, 1, True, 0)


async def test_leases_of_another_teams_task_do_not_exist(api, owner):
    assert (await owner.get(f"{API}/leases")).json() == {"items": [], "nextCursor": None}
    assert (await owner.get(f"{API}/tasks/{uuid.uuid4()}/leases")).status_code == 404
