"""A running instance: private, reachable as promised, and honest about why it cannot start."""

import json
import os
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from acceptance.conftest import Instance, make
from sfp_server.instance import binaries, keys, supervisor
from sfp_server.instance.doctor import exposed

pytestmark = pytest.mark.acceptance


def test_starting_a_running_instance_says_so(healthy: Instance):
    pids = healthy.pids("api")
    done = healthy.run("start")
    assert (done.returncode, "already" in done.stdout) == (0, True)
    assert healthy.pids("api") == pids


def test_status_names_every_service(healthy: Instance):
    report = healthy.json("status")
    names = {"api", "dispatcher", "critical-worker", "normal-worker", "batch-worker", "postgres", "cache", "caddy"}
    assert report["status"] == "running", report
    assert names <= report["services"].keys()
    assert all(service["health"] == "healthy" for service in report["services"].values())
    assert {"tenant", "status", "services", "queues", "resources", "lastHealthCheck", "isolation"} <= report.keys()
    assert report["isolation"] != {}


def test_doctor_finds_nothing_broken(healthy: Instance):
    findings = healthy.json("doctor")
    assert [finding for finding in findings if finding["state"] == "broken"] == []


def test_logs_are_one_json_value(healthy: Instance):
    entries = healthy.json("logs", "-s", "postgres", "--tail", "5")
    assert entries
    assert {entry["service"] for entry in entries} == {"postgres"}
    assert healthy.run("logs", "-s", "nothing").returncode == 2


def test_an_unknown_instance_is_not_found(healthy: Instance):
    other = Instance(healthy.base, "nobody", healthy.made)
    assert {other.run(command).returncode for command in ("start", "stop", "status", "logs")} == {3}


def test_a_second_instance_just_works(healthy: Instance):
    other = make(healthy.base, "beside")
    try:
        assert other.run("start").returncode == 0
        assert other.is_healthy()
        assert healthy.is_healthy()
        assert {other.config["port"], other.config["apiPort"]}.isdisjoint(
            {healthy.config["port"], healthy.config["apiPort"]}
        )
    finally:
        stopped = other.run("stop")
    assert stopped.returncode == 0
    assert supervisor.leftovers(other.place) == []
    assert other.run("stop").returncode == 0  # twice is fine
    assert healthy.is_healthy()


def test_everything_below_the_directory_is_private(healthy: Instance):
    assert list(exposed(healthy.place.directory)) == []
    assert list(exposed(healthy.place.run)) == []
    modes = {stat.S_IMODE(path.stat().st_mode) for path in healthy.place.secrets.iterdir()}
    assert modes == {0o600}


def test_no_process_shows_a_secret(healthy: Instance):
    secrets = [(healthy.place.secrets / name).read_text().strip().encode() for name in keys.REQUIRED]
    secrets.append(healthy.made["admin"]["password"].encode())
    shown = [
        path
        for process in Path("/proc").iterdir()
        if process.name.isdigit()
        for path in (process / "cmdline", process / "environ")
        if any(secret in readable(path) for secret in secrets)
    ]
    assert shown == []


def readable(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_services_keep_no_rights_they_do_not_need(healthy: Instance):
    for service in ("api", "broker", "deliverer", "auditor", "postgres", "cache", "caddy", "dispatcher"):
        for pid in healthy.pids(service):
            facts = dict(
                line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
            )
            assert facts["NoNewPrivs"] == "1", service
            assert service == "dispatcher" or int(facts["CapEff"], 16) == 0, service


@pytest.mark.parametrize(
    ("service", "secrets"),
    [
        (
            "api",
            {
                "db-sfp_api",
                "answer-key",
                "edge-key",
                "provider-key",
                "broker-key",
                "vault-public",
                "valkey",
                "audit-key",
                "audit-public.pem",
            },
        ),
        ("broker", {"db-sfp_broker", "broker-key", "audit-key"}),
        ("dispatcher", {"db-sfp_dispatcher"}),
        ("auditor", {"db-sfp_auditor", "audit-key", "audit-signing.pem", "audit-public.pem"}),
        ("deliverer", {"db-sfp_deliverer", "valkey"}),
        ("caddy", {"edge-key"}),
    ],
)
def test_a_service_sees_its_own_secrets_only(healthy: Instance, service: str, secrets: set[str]):
    for pid in healthy.pids(service):
        seen = Path(f"/proc/{pid}/root{healthy.place.directory}")
        assert {path.name for path in (seen / "secrets").iterdir()} == secrets
        assert list((seen / "postgres").iterdir()) == []
        assert list((seen / "run" / "control").iterdir()) == []


@pytest.mark.parametrize("role", ["postgres", "sfp_api"])
def test_postgresql_wants_a_password(healthy: Instance, role: str):
    done = subprocess.run(
        [
            str(binaries.postgres("psql")),
            "-h",
            str(healthy.place.run / "postgres"),
            "-U",
            role,
            "-w",
            "sfp",
            "-c",
            "SELECT 1",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "password" in done.stderr


def test_only_loopback_is_listened_on(healthy: Instance):
    import psutil

    family = [
        process for process in psutil.process_iter() if f"SFP_INSTANCE={healthy.place.directory}" in environ(process)
    ]
    addresses = {
        connection.laddr.ip
        for process in family
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def environ(process) -> list[str]:
    return readable(Path(f"/proc/{process.pid}/environ")).decode(errors="replace").split("\0")


def test_the_edge_has_a_certificate_that_its_root_confirms(healthy: Instance):
    with healthy.http() as http:
        answer = http.get("/health")
    assert (answer.status_code, answer.headers["x-content-type-options"]) == (200, "nosniff")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{healthy.url}/health")


def test_the_access_log_has_no_query_and_no_header(healthy: Instance):
    with healthy.http() as http:
        http.get("/health", params={"token": "s3cret-in-query"}, headers={"Authorization": "Bearer s3cret-in-header"})
    log = (healthy.place.logs / "access.log").read_text()
    assert "/health?" in log
    assert "s3cret" not in log


def test_a_forwarded_address_from_a_client_is_not_believed(healthy: Instance):
    with healthy.http() as http:
        http.get("/health", headers={"X-Forwarded-For": "203.0.113.7"})
    assert "203.0.113.7" not in (healthy.place.logs / "access.log").read_text()


def test_200_stalled_clients_do_not_hurt_others(healthy: Instance):
    with (
        stalled(healthy, 100, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") as _heads,
        stalled(
            healthy, 100, b"POST /sfp/api/auth/admin/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        ) as _bodies,
        healthy.http() as http,
    ):
        times: list[float] = []
        for _ in range(20):
            began = time.monotonic()
            assert http.get("/health").status_code == 200
            times.append(time.monotonic() - began)
    assert sorted(times)[len(times) // 2] < 0.5


@contextmanager
def stalled(instance: Instance, count: int, start: bytes) -> Iterator[None]:
    """So many TLS clients that begin a request and then say nothing."""
    context = instance.tls()
    clients: list[ssl.SSLSocket] = []
    try:
        for _ in range(count):
            plain = socket.create_connection(("127.0.0.1", instance.config["port"]), timeout=10)
            client = context.wrap_socket(plain, server_hostname="localhost")
            client.sendall(start)
            clients.append(client)
        yield
    finally:
        for client in clients:
            client.close()


def test_a_named_port_that_is_taken_is_told_with_its_holder(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        named = make(tmp_path, "named", "--port", str(port))
        done = named.run("start")
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert f"pid {os.getpid()}" in done.stderr
    assert supervisor.leftovers(named.place) == []


def test_data_of_another_postgresql_is_refused(spare: Instance):
    version = spare.place.database / "PG_VERSION"
    kept = version.read_text()
    version.write_text("16\n")
    try:
        done = spare.run("start")
    finally:
        version.write_text(kept)
    assert done.returncode == 1
    assert "PostgreSQL 16" in done.stderr
    assert supervisor.leftovers(spare.place) == []


def test_missing_secrets_are_named(spare: Instance):
    secret = spare.place.secrets / "broker-key"
    kept = secret.read_text()
    secret.unlink()
    try:
        done = spare.run("start")
    finally:
        secret.write_text(kept)
        secret.chmod(0o600)
    assert (done.returncode, "broker-key" in done.stderr) == (1, True)


def test_a_foreign_database_in_the_environment_is_refused(spare: Instance):
    done = spare.run("start", env={"DATABASE_URL": "postgresql://somebody:s3cret@elsewhere/else"})
    assert (done.returncode, "DATABASE_URL" in done.stderr, "s3cret" in done.stderr) == (1, True, False)


def test_a_service_that_keeps_dying_is_told_and_nothing_stays(spare: Instance):
    control = spare.place.database / "global" / "pg_control"
    control.rename(control.with_name("pg_control.away"))
    try:
        done = spare.run("start")
    finally:
        control.with_name("pg_control.away").rename(control)
    assert done.returncode == 1
    assert "postgres keeps dying" in done.stderr
    assert supervisor.leftovers(spare.place) == []


def test_doctor_lists_weaknesses_with_what_to_do_and_no_secret(healthy):
    done = healthy.run("doctor", "--security", "--json")
    findings = {finding["what"]: finding for finding in json.loads(done.stdout)}
    weak = [finding for finding in findings.values() if finding["state"] != "fine"]
    assert done.returncode == (1 if weak else 0)
    assert all(finding["detail"] and finding["mend"] for finding in weak)
    assert findings["TLS"]["state"] == "warning"  # its own authority
    assert findings["egress.allow"]["state"] == "warning"
    assert findings["file modes"]["state"] == "fine"
    assert findings["long tokens"]["state"] == "fine"  # so the database was asked
    assert os.geteuid() != 0 or findings["users"]["state"] == "fine"
    secrets = [path.read_text().strip() for path in healthy.place.secrets.iterdir() if path.is_file()]
    assert [secret for secret in secrets if secret in done.stdout] == []
