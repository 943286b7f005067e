"""The vault of a running instance: its key pair changes, and its broker is killed, while tasks draw."""

import json
import os
import signal
import stat
from pathlib import Path

import pytest

from acceptance.conftest import Instance, eventually, sfp
from sfp_client.client import Client

pytestmark = pytest.mark.acceptance

SECRET = "value-that-stays-the-same"


def run(owner: Client) -> dict:
    """One task that checks its secret and prints it."""
    argv = ["/bin/sh", "-c", f'[ "$TOKEN" = {SECRET} ] && echo "it is $TOKEN"']
    credentials = [{"type": "secret", "name": "VAULT_TEST", "env": "TOKEN"}]
    submitted = owner.tasks.submit("command", {"argv": argv}, credentials=credentials)
    return {"id": submitted["operationId"], **owner.tasks.wait(submitted["operationId"], timeout=60)}


def test_the_key_pair_changes_and_the_broker_dies_and_no_task_notices(healthy: Instance, owner: Client):
    owner.secrets.set("VAULT_TEST", SECRET)
    for number in range(40):
        owner.secrets.set(f"FILLER_{number}", f"filler-value-{number}")
    ring = healthy.place.vault / "keys"
    before = json.loads(ring.read_text())
    told = sfp("keys", "rotate-vault", "-t", healthy.tenant, "--base-dir", str(healthy.base), "--json")
    assert told.returncode == 0, told.stderr
    done = json.loads(told.stdout)
    for pid in healthy.pids("broker"):
        os.kill(pid, signal.SIGKILL)
    assert run(owner)["status"] == "completed"
    eventually(lambda: set(json.loads(ring.read_text())) == {str(done["version"])})
    assert not set(before.values()) & set(json.loads(ring.read_text()).values())
    task = run(owner)
    assert task["status"] == "completed"
    assert [line["message"] for line in owner.tasks.logs(task["id"])] == ["it is ***"]
    (keys,) = owner.secrets.keys()["items"]
    assert (keys["version"], keys["isCurrent"]) == (done["version"], True)
    assert [lease["endedAt"] is not None for lease in owner.secrets.leases(task["id"])] == [True]


def test_only_the_broker_sees_the_private_keys(healthy: Instance):
    assert stat.S_IMODE(healthy.place.vault.stat().st_mode) == 0o700
    assert stat.S_IMODE((healthy.place.vault / "keys").stat().st_mode) == 0o600
    for service in ("api", "deliverer", "caddy", "postgres", "cache", "auditor"):
        for pid in healthy.pids(service):
            assert list(Path(f"/proc/{pid}/root{healthy.place.vault}").iterdir()) == [], service
