"""What an owner sees of the trail, and what anybody can check without the server."""

import json
from dataclasses import replace

import pytest

import auditing
from sfp_proof.chain import Sealed
from sfp_proof.check import Check
from sfp_proof.checkpoint import Checkpoints, files_at, read
from sfp_proof.keys import KeyRing
from sfp_proof.receipt import mismatch
from web_api import API


@pytest.fixture
async def audited(api, clone, tmp_path):
    (tmp_path / "run").mkdir()
    async with auditing.running(api.settings, clone):
        yield api


async def sealed(api):
    """Wait until everything that was written has its seal: the auditor is told at once."""
    import asyncio

    async with asyncio.timeout(10):
        while await api.admin.fetchval("SELECT count(*) FROM audit_log WHERE seq IS NULL"):
            await asyncio.sleep(0.01)  # sealing has no event of its own


async def test_an_owner_reads_the_trail_of_the_own_team_newest_first(audited):
    owner = await audited.owner()
    async with audited.client(owner) as client:
        for name in ("ONE", "TWO"):
            await client.put(f"{API}/secrets/{name}", json={"value": "value"})
        await client.delete(f"{API}/secrets/ONE")
        await sealed(audited)
        answer = (await client.get(f"{API}/audit?action=secret.")).json()
        exact = (await client.get(f"{API}/audit?action=secret.set&subject=secret:TWO")).json()
        paged = (await client.get(f"{API}/audit?limit=1&action=secret.set")).json()
        rest = (await client.get(f"{API}/audit?limit=1&action=secret.set&cursor={paged['nextCursor']}")).json()
    assert [(item["action"], item["subject"]) for item in answer["items"]] == [
        ("secret.deleted", "secret:ONE"),
        ("secret.set", "secret:TWO"),
        ("secret.set", "secret:ONE"),
    ]
    assert [item["subject"] for item in exact["items"]] == ["secret:TWO"]
    assert exact["items"][0]["detail"] == {"version": 1}
    assert exact["items"][0]["sealedAt"] is not None
    assert [item["subject"] for item in rest["items"]] == ["secret:ONE"]
    assert rest["nextCursor"] is None


async def test_times_and_actors_select(audited):
    owner = await audited.owner()
    async with audited.client(owner) as client:
        await client.put(f"{API}/secrets/ONE", json={"value": "value"})
        (item,) = (await client.get(f"{API}/audit?action=secret.set")).json()["items"]
        mine = await client.get(f"{API}/audit", params={"actor": item["actor"], "from": item["at"]})
        before = await client.get(f"{API}/audit", params={"to": item["at"], "action": "secret.set"})
        nobody = await client.get(f"{API}/audit", params={"actor": "user:nobody"})
        by_name = await client.get(f"{API}/audit", params={"actor": item["actorName"].upper(), "from": item["at"]})
        vague = await client.get(f"{API}/audit", params={"from": "2026-01-01T00:00:00"})
    assert [entry["id"] for entry in mine.json()["items"]] == [item["id"]]
    assert "@" in item["actorName"]
    assert [entry["id"] for entry in by_name.json()["items"]] == [item["id"]]
    assert (before.json()["items"], nobody.json()["items"]) == ([], [])
    assert vague.status_code == 400


async def test_another_team_and_a_member_see_nothing(audited):
    await audited.owner()
    other = await audited.owner("eve@other.example", team="other")
    async with audited.client(other) as client:
        items = (await client.get(f"{API}/audit?limit=200")).json()["items"]
    teams = await audited.admin.fetch(
        "SELECT DISTINCT slug FROM audit_log JOIN teams ON teams.id = team_id WHERE audit_log.id = ANY($1::bigint[])",
        [item["id"] for item in items],
    )
    assert [row["slug"] for row in teams] == ["other"]
    async with audited.client(await audited.member()) as client:
        for path in ("/audit", "/audit/verify", "/audit/export"):
            assert (await client.get(API + path)).status_code == 403


async def test_verify_says_what_it_has_checked(audited):
    async with audited.client(await audited.owner()) as client:
        await client.put(f"{API}/secrets/ONE", json={"value": "value"})
        await sealed(audited)
        report = (await client.get(f"{API}/audit/verify")).json()
    entries = await audited.admin.fetchval("SELECT count(*) FROM audit_log WHERE team_id IS NOT NULL")
    assert (report["ok"], report["complete"], report["entries"], report["problems"]) == (True, True, entries, [])
    assert report["checkedTo"]["entry"] == entries


async def test_verify_names_the_place(audited):
    async with audited.client(await audited.owner()) as client:
        for number in range(3):
            await client.put(f"{API}/secrets/S{number}", json={"value": "value"})
        await sealed(audited)
        await audited.admin.execute("ALTER TABLE audit_log DISABLE TRIGGER USER")
        row = await audited.admin.fetchrow(
            "UPDATE audit_log SET subject = 'secret:other' WHERE subject = 'secret:S1' RETURNING id, team_seq"
        )
        await audited.admin.execute("DELETE FROM audit_log WHERE subject = 'secret:S2'")  # the last one: a cut tail
        report = (await client.get(f"{API}/audit/verify")).json()
    assert report["ok"] is False
    assert [(problem["kind"], problem["place"]["entry"]) for problem in report["problems"]] == [
        ("changed", row["team_seq"]),
        ("cut", row["team_seq"] + 1),
    ]
    assert report["problems"][0]["place"]["id"] == row["id"]


async def test_a_verification_that_takes_long_is_waited_on(audited):
    async with audited.client(await audited.owner()) as client:
        await sealed(audited)
        begun = (await client.get(f"{API}/audit/verify?wait=0")).json()
        while not (report := (await client.get(f"{API}/audit/verify?run={begun['run']}")).json())["complete"]:
            pass
    assert begun["complete"] is False
    assert begun["ok"] is None
    assert (report["run"], report["ok"]) == (begun["run"], True)


async def test_without_the_auditor_the_answer_is_503(api):
    async with api.client(await api.owner()) as client:
        answer = await client.get(f"{API}/audit/verify")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def test_an_export_is_checked_without_the_server(audited):
    async with audited.client(await audited.owner()) as client:
        for number in range(4):
            await client.put(f"{API}/secrets/S{number}", json={"value": "value"})
        await sealed(audited)
        export = (await client.get(f"{API}/audit/export")).text
    async with audited.client() as client:
        keys = KeyRing.read((await client.get(f"{API}/audit/.well-known/jwks.json")).text)
    lines = [Sealed.from_json(json.loads(line)) for line in export.splitlines()]

    def problems(entries):
        check = Check(keys, Checkpoints(), team=lines[0].entry.team)
        for entry in entries:
            check.add(entry)
        return [(problem.kind, problem.entry) for problem in check.finish().problems]

    assert len(lines) >= 6
    assert problems(lines) == []
    changed = replace(lines[3], entry=replace(lines[3].entry, detail='{"version": 2}'))
    assert problems([*lines[:3], changed, *lines[4:]]) == [("changed", 4)]
    assert problems([*lines[:2], *lines[3:]]) == [("missing", 3)]
    assert problems([lines[1], lines[0], *lines[2:]])[0] == ("missing", 1)


async def test_every_entry_that_our_processes_write_is_attested(audited):
    owner = await audited.owner()
    async with audited.client(owner) as client:
        await client.put(f"{API}/secrets/ONE", json={"value": "value"})
        token = await audited.application_token(owner)
        await client.delete(f"{API}/application-tokens/{token['id']}")
        await client.patch(f"{API}/queues/normal", json={"slots": 3})
        await client.post(f"{API}/auth/logout")
    await audited.login("ann@acme.example", "wrong password")
    await sealed(audited)
    rows = await audited.admin.fetch("SELECT action, attested FROM audit_log ORDER BY id")
    assert {row["action"] for row in rows} >= {
        "user.created", "team.created", "membership.owner", "session.opened", "session.refused", "session.ended",
        "secret.set", "application_token.created", "application_token.revoked", "queue.changed",
    }  # fmt: skip
    assert [row["action"] for row in rows if not row["attested"]] == []


async def test_the_auditor_writes_a_checkpoint_as_it_ends(api, clone, tmp_path):
    (tmp_path / "run").mkdir()
    async with auditing.running(api.settings, clone):
        await api.owner()
        await sealed(api)
    keys = KeyRing.read(api.settings.secret("audit-public.pem"))
    found = read(files_at(api.settings.checkpoint_directory), keys)
    assert found.problems == []
    assert found.head().seq == await api.admin.fetchval("SELECT max(seq) FROM audit_log")


@pytest.fixture
async def finished(audited):
    """A task of ann's that is cancelled before anybody ran it, and one that waits; (client, ids)."""
    async with audited.client(await audited.owner()) as client:
        ids = []
        for _ in range(2):
            body = {"type": "command", "data": {"argv": ["echo", "a secret word"]}, "labels": {"pr": "1"}}
            ids.append((await client.post(f"{API}/tasks", json=body)).json()["operationId"])
        await client.delete(f"{API}/tasks/{ids[0]}")
        yield audited, client, ids


async def test_a_receipt_is_signed_and_says_what_was_asked(finished):
    api, client, (ended, waiting) = finished
    document = (await client.get(f"{API}/tasks/{ended}/receipt")).json()
    early = await client.get(f"{API}/tasks/{waiting}/receipt")
    keys = KeyRing.read(json.dumps((await client.get(f"{API}/audit/.well-known/jwks.json")).json()))
    assert (early.status_code, early.json()["code"]) == (409, "not_finished")
    assert mismatch(document, keys) is None
    receipt = document["receipt"]
    assert (receipt["task"], receipt["team"], receipt["ended"]["status"]) == (ended, "acme", "cancelled")
    assert receipt["asked"]["name"] == "ann@acme.example"
    assert "a secret word" not in json.dumps(document)
    async with api.client(await api.owner("eve@other.example", team="other")) as stranger:
        assert (await stranger.get(f"{API}/tasks/{ended}/receipt")).status_code == 404


def leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for number, item in enumerate(value):
            yield from leaves(item, (*path, number))
    else:
        yield path


async def test_any_change_of_a_receipt_is_noticed(finished):
    _, client, (ended, _) = finished
    text = (await client.get(f"{API}/tasks/{ended}/receipt")).text
    keys = KeyRing.read((await client.get(f"{API}/audit/.well-known/jwks.json")).text)
    unnoticed = []
    paths = list(leaves(json.loads(text)))
    for path in paths:
        document = json.loads(text)
        *parents, last = path
        part = document
        for key in parents:
            part = part[key]
        part[last] = "x" if part[last] is None else None
        if mismatch(document, keys) is None:
            unnoticed.append(path)
    assert len(paths) > 25
    assert unnoticed == []
    more = json.loads(text)
    more["receipt"]["more"] = 1
    assert mismatch(more, keys) is not None
    assert mismatch({**json.loads(text), "note": "x"}, keys) is not None
