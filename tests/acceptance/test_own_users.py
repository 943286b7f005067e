"""Started by root, every service that can is a user of its own, and sees nothing of the others."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.conftest import eventually
from sfp_server.instance import launch
from sfp_server.instance.guard import user_of
from sfp_server.instance.services import FIRST_USER, OWN_USERS

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has users to give")

#: stands where a service stands, as its user, and tells what it can do; arguments: pid, user, paths, another's pid
INTRUDER = """
import ctypes, json, os, sys
from pathlib import Path
pid, user, paths, other = json.loads(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
place = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
assert libc.setns(place, 0x20000) == 0
os.setgroups([]); os.setresgid(user, user, user); os.setresuid(user, user, user)
def can(act):
    try:
        return act() is None or bool(act())
    except OSError:
        return False
seen = {path: can((lambda: os.listdir(path)) if path.endswith("/") else Path(path).read_bytes) for path in paths}
seen |= {"signal": can(lambda: os.kill(other, 0)), "environment": can(Path(f"/proc/{other}/environ").read_bytes)}
print(json.dumps(seen))
"""


def test_each_service_is_a_user_of_its_own_without_capabilities(healthy):
    users = {name: user_of(healthy.pids(name)[0]) for name in OWN_USERS if healthy.pids(name)}
    assert users.keys() >= {"postgres", "cache", "caddy", "api", "broker", "deliverer", "auditor"}
    assert len(set(users.values())) == len(users)
    assert min(users.values()) >= FIRST_USER
    assert {user_of(healthy.pids(name)[0]) for name in ("dispatcher", "guard")} == {0}
    for name in users:
        status = Path(f"/proc/{healthy.pids(name)[0]}/status").read_text()
        effective = next(line for line in status.splitlines() if line.startswith("CapEff:")).split()[1]
        assert int(effective, 16) & ~(1 << launch.CAPABILITIES["NET_BIND_SERVICE"]) == 0, name
        assert "NoNewPrivs:\t1" in status, name


def test_nothing_on_the_disk_changes_hands(healthy):
    owners = {os.lstat(os.path.join(folder, name)).st_uid
              for folder, folders, files in os.walk(healthy.place.directory) for name in [*folders, *files]}  # fmt: skip
    assert owners == {0}


@pytest.mark.parametrize("name", ["caddy", "api", "deliverer", "broker", "cache"])
def test_who_takes_a_service_over_gets_nothing_of_the_others(healthy, name):
    place = healthy.place
    own = {"caddy": "config.json", "api": "secrets/db-sfp_api", "deliverer": "secrets/db-sfp_deliverer",
           "broker": "secrets/db-sfp_broker", "cache": "secrets/valkey.conf"}  # fmt: skip
    foreign = [f"secrets/{other}" for other in ("db-postgres", "db-sfp_dispatcher", "valkey.tls")]
    foreign += [
        "postgres/PG_VERSION",
        "run/control/",
        *(path for who, path in own.items() if who not in {name, "caddy"}),
    ]
    if name != "broker":
        foreign.append("secrets/vault-private.pem")
    paths = [str(place.directory / path) + ("/" if path.endswith("/") else "") for path in [own[name], *foreign]]
    pid = healthy.pids(name)[0]
    other = healthy.pids("dispatcher")[0] if name != "caddy" else healthy.pids("api")[0]
    told = json.dumps([pid, user_of(pid), [*paths, "/etc/shadow", "/root/"], other])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", INTRUDER, told], capture_output=True, text=True)
    seen = json.loads(done.stdout or done.stderr)
    assert seen.pop(paths[0]) is True
    assert {what for what, could in seen.items() if could} == set()


def test_a_service_that_cannot_be_its_own_user_still_starts(healthy, tmp_path, monkeypatch):
    """As where the file system cannot show its files as another user's."""
    attempts = []

    def refuses(*_arguments):
        attempts.append(os.getpid())
        raise OSError("not here")

    monkeypatch.setattr(launch, "mount_as_own", refuses)
    service = json.loads((healthy.place.directory / "services.json").read_text())["cache"]
    assert launch.try_own_user(ctypes.CDLL(None, use_errno=True), healthy.place.directory, service) is False
    assert os.geteuid() == 0


def test_killed_services_come_back_as_the_same_user(healthy):
    before = user_of(healthy.pids("api")[0])
    os.kill(healthy.pids("api")[0], signal.SIGKILL)
    eventually(lambda: healthy.is_healthy() and user_of(healthy.pids("api")[0]) == before)
