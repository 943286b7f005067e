"""`init`: makes an instance, or nothing at all."""

import json
import socket
from pathlib import Path

import pytest

from acceptance.conftest import Instance, make, sfp

pytestmark = pytest.mark.acceptance


def entries(base: Path) -> list[str]:
    parent = base / "tenants"
    return sorted(path.name for path in parent.iterdir()) if parent.exists() else []


def test_it_prints_exactly_what_the_contract_says(spare: Instance):
    assert {"tenant", "url", "admin", "directory"} <= spare.made.keys()
    assert spare.made["admin"]["email"] == "admin@spare.local"
    assert spare.made["url"] == f"https://localhost:{spare.config['port']}"


def test_the_owners_password_is_kept_nowhere(spare: Instance):
    password = spare.made["admin"]["password"].encode()
    files = [path for path in spare.place.directory.rglob("*") if path.is_file()]
    assert [path for path in files if password in path.read_bytes()] == []


def test_it_refuses_to_overwrite(spare: Instance):
    before = spare.place.config.stat()
    done = sfp("init", "--tenant", "spare", "--base-dir", str(spare.base))
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert spare.place.config.stat() == before


def test_force_refuses_while_the_instance_runs(healthy: Instance):
    done = sfp("init", "--tenant", "main", "--base-dir", str(healthy.base), "--force")
    assert done.returncode == 1
    assert "stop" in done.stderr
    assert healthy.is_healthy()


def test_force_keeps_the_old_instance_beside_the_new_one(tmp_path: Path):
    old = make(tmp_path, "twice")
    key = (old.place.secrets / "audit-key").read_text()
    new = make(tmp_path, "twice", "--force")
    kept = [path for path in (tmp_path / "tenants").iterdir() if path.name.startswith("twice.replaced-")]
    assert [(path / "secrets" / "audit-key").read_text() for path in kept] == [key]
    assert (new.place.secrets / "audit-key").read_text() != key


@pytest.mark.parametrize("name", ["", "Upper", "a_b", "../up", "x" * 41, "spare;"])
def test_a_name_that_cannot_be_is_a_usage_error(tmp_path: Path, name: str):
    done = sfp("init", "--tenant", name, "--base-dir", str(tmp_path))
    assert (done.returncode, entries(tmp_path)) == (2, [])


def test_the_compose_driver_is_refused(tmp_path: Path):
    done = sfp("init", "--tenant", "x", "--base-dir", str(tmp_path), "--driver", "compose")
    assert (done.returncode, entries(tmp_path)) == (1, [])
    assert "not in this release" in done.stderr


@pytest.mark.parametrize(
    ("flags", "document"),
    [
        (["--worker-counts", "1,2,99"], {}),
        ([], {"noSuchKey": 1}),
        ([], {"database": {"url": "postgresql://nobody:none@127.0.0.1:1/none"}}),
    ],
    ids=["bad setting", "unknown key", "database out of reach"],
)
def test_a_failing_init_leaves_nothing(tmp_path: Path, flags: list[str], document: dict[str, object]):
    file = tmp_path / "given.json"
    file.write_text(json.dumps(document))
    done = sfp("init", "--tenant", "x", "--base-dir", str(tmp_path), "--config-file", str(file), *flags)
    assert (done.returncode, entries(tmp_path)) == (1, [])
    assert "Traceback" not in done.stderr


def test_the_older_configuration_file_is_understood(tmp_path: Path):
    file = tmp_path / "older.json"
    counts = {"critical": 2, "normal": 3, "batch": 0}
    file.write_text(json.dumps({"domain": "localhost", "workerCounts": counts, "secrets": {"npm-token": "n0t-shown"}}))
    made = make(tmp_path, "older", "--config-file", str(file))
    assert made.config["workerCounts"] == "2,3,0"
    assert "n0t-shown" not in made.place.config.read_text()
    assert (made.place.secrets / "imported-npm-token").read_text() == "n0t-shown"


def test_a_path_too_long_for_a_socket_works(tmp_path: Path):
    made = make(tmp_path / ("deep-" * 12) / ("long-" * 12), "far")  # init runs PostgreSQL on its socket
    assert made.place.config.is_file()


def test_other_ports_are_chosen_beside_a_taken_one(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        done = make(tmp_path, "one", "--port", str(taken))
    second = make(tmp_path, "two")
    assert taken not in {second.config["port"], second.config["apiPort"]}
    assert done.config["apiPort"] != second.config["apiPort"]
