"""The commands that check what the server signed, with files alone."""

import asyncio
import json

import pytest

import auditing
from sfp_client.cli import main
from web_api import API


@pytest.fixture
async def files(api, clone, tmp_path):
    """An export, a receipt, the keys and the checkpoints, as a person keeps them."""
    (tmp_path / "run").mkdir()
    async with auditing.running(api.settings, clone), api.client(await api.owner()) as client:
        for number in range(5):
            await client.put(f"{API}/secrets/S{number}", json={"value": "a long value"})
        body = {"type": "command", "data": {"argv": ["true"]}}
        task = (await client.post(f"{API}/tasks", json=body)).json()["operationId"]
        await client.delete(f"{API}/tasks/{task}")
        async with asyncio.timeout(10):
            while await api.admin.fetchval("SELECT count(*) FROM audit_log WHERE seq IS NULL"):
                await asyncio.sleep(0.01)  # sealing has no event of its own
        (tmp_path / "export.jsonl").write_bytes((await client.get(f"{API}/audit/export")).content)
        (tmp_path / "receipt.json").write_bytes((await client.get(f"{API}/tasks/{task}/receipt")).content)
        (tmp_path / "keys.json").write_bytes((await client.get(f"{API}/audit/.well-known/jwks.json")).content)
    return tmp_path


def check(files, *more):
    arguments = ["audit", "verify", "--offline", "--export", str(files / "export.jsonl")]
    arguments += ["--checkpoints", str(files / "audit"), "--key", str(files / "keys.json"), *more]
    return main.run(arguments, "sfp-server")


async def test_an_export_that_was_not_touched_is_whole(files, capsys):
    assert check(files) == 0
    assert capsys.readouterr().out.startswith("the trail is whole: 7 entries, up to entry 7 of ")


CHANGES = {
    "edited": (lambda lines: [lines[0], lines[1].replace('"actor":"', '"actor":"x'), *lines[2:]], "changed", 2),
    "deleted": (lambda lines: [*lines[:2], *lines[3:]], "missing", 3),
    "cut": (lambda lines: lines[:-2], "cut", 6),
    "doubled": (lambda lines: [*lines[:3], lines[2], *lines[3:]], "repeated", 3),
    "rubbish": (lambda lines: [*lines, "rubbish"], "changed", None),
    "exchanged": (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "missing", 3),
}


async def test_a_changed_export_is_named(files, capsys):
    file = files / "export.jsonl"
    lines = file.read_text().splitlines()
    found = {}
    for name, (change, _, _) in CHANGES.items():
        file.write_text("\n".join(change(lines)) + "\n")
        assert check(files, "--json") == 1
        problem = json.loads(capsys.readouterr().out)["problems"][0]
        found[name] = (problem["kind"], problem["place"].get("entry"))
    assert found == {name: (kind, entry) for name, (_, kind, entry) in CHANGES.items()}


async def test_a_receipt_is_checked_with_a_file_of_keys(files, capsys):
    arguments = ["receipt", "verify", str(files / "receipt.json"), "--key", str(files / "keys.json")]
    assert main.run(arguments, "sfp-server") == 0
    assert "cancelled" in capsys.readouterr().out
    genuine = (files / "receipt.json").read_text()
    (files / "receipt.json").write_text(genuine.replace('"status"', '"status":"completed","status"', 1))
    assert main.run(arguments, "sfp-server") == 1  # it would say two things, to two readers
    assert "twice" in capsys.readouterr().err
    (files / "receipt.json").write_text(genuine.replace("cancelled", "completed"))
    assert main.run(arguments, "sfp-server") == 1
    assert "does not match its signature" in capsys.readouterr().err


async def test_what_is_no_receipt_is_told_in_a_sentence(files, capsys):
    arguments = ["receipt", "verify", str(files / "other.json"), "--key", str(files / "keys.json")]
    for text in ("", "[]", '{"receipt": 1}', "\xff", '{"receipt": {}, "signature": {}}', "[" * 100_000):
        (files / "other.json").write_text(text)
        assert main.run(arguments, "sfp-server") == 1, text[:40]
        assert "Traceback" not in capsys.readouterr().err


async def test_what_is_missing_for_an_offline_check_is_a_usage_error(capsys):
    assert main.run(["audit", "verify", "--offline"], "sfp-server") == 2
    assert main.run(["audit", "verify", "--export", "x"], "sfp-server") == 2
