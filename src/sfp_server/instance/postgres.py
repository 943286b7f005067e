"""The embedded PostgreSQL: making its data directory, and running it for a moment while nobody else does."""

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from sfp_server.instance import binaries, templates
from sfp_server.instance.place import Place, write, write_json
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.services import Service, launcher, python_environment

#: version 3.0 of the frontend/backend protocol
PROTOCOL = 3 << 16
#: for the instance's own processes, and for dispatchers elsewhere: 7 each
OWN_CONNECTIONS, REMOTE_CONNECTIONS = 60, 140


def create_cluster(at: Place) -> None:
    """Run initdb: with a superuser password and no trust, then the database `sfp`. Raises InstanceError."""
    arguments = ["-D", str(at.database), "-U", "postgres", "--pwfile", str(at.secrets / "db-postgres")]
    arguments += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
    _run(at, "initdb", [str(binaries.postgres("initdb")), *arguments])
    configure(at)
    single_user = [str(binaries.postgres("postgres")), "--single", "-D", str(at.database), "postgres"]
    # single-user mode needs no password; nobody but our own roles may look into any database
    _run(
        at,
        "create-database",
        single_user,
        text="CREATE DATABASE sfp\nREVOKE CONNECT ON DATABASE postgres FROM PUBLIC\n",
    )


def configure(at: Place, *, remote: bool = False) -> None:
    """(Re)write the server's configuration files: they follow the release, not the day of `init`.

    Args:
        remote: dispatchers on other machines connect, too.
    """
    connections = OWN_CONNECTIONS + (REMOTE_CONNECTIONS if remote else 0)
    write(at.database / "postgresql.conf", templates.postgresql_conf(connections=connections))
    write(at.database / "pg_hba.conf", templates.pg_hba_conf())


def check_version(at: Place) -> None:
    """Raises InstanceError when the data was made by another major version, or is not there."""
    try:
        found = (at.database / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise InstanceError(
            f"the database directory {at.database} cannot be read ({error.strerror}): "
            "restore it from a backup, or make the instance anew with `init --force`"
        ) from error
    if found != str(binaries.POSTGRES_MAJOR):
        raise InstanceError(
            f"the data in {at.database} was made by PostgreSQL {found}, and this release brings "
            f"PostgreSQL {binaries.POSTGRES_MAJOR}: start it with the release that made it, "
            "and move the data with pg_dump and restore"
        )


@contextmanager
def running_alone(at: Place, service: Service) -> Generator[None]:
    """The server, on its private socket, for the length of the block. Raises InstanceError when it does not start."""
    write_json(at.directory / "services.json", {service.name: service.launch()})
    log = at.logs / "postgres.log"
    with log.open("ab") as output:
        log.chmod(0o600)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", launcher(), str(at.directory), service.name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=python_environment(at),
            start_new_session=True,  # Ctrl-C reaches us only: we end it in order
        )
    try:
        _wait_until_ready(at, process, log)
        yield
    finally:
        process.send_signal(2)  # SIGINT: fast shutdown
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        if process.poll() is None:
            process.kill()
            process.wait()


def is_ready(at: Place) -> bool:
    """True when the server takes connections on its socket: it asks for a password, which is not given.

    What pg_isready does, without starting a program (and it fails for users without an account).
    """
    facts = b"user\0postgres\0database\0sfp\0\0"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(2)
        try:
            connection.connect(str(at.run / "postgres" / ".s.PGSQL.5432"))
            connection.sendall(struct.pack("!ii", len(facts) + 8, PROTOCOL) + facts)
            return connection.recv(1) == b"R"  # R: authenticate; E: still starting, or shutting down
        except OSError:
            return False


def _wait_until_ready(at: Place, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while not is_ready(at):
        if process.poll() is not None or time.monotonic() > deadline:
            raise InstanceError(f"PostgreSQL does not start: {last_line(log)}")
        time.sleep(0.03)


def last_line(log: Path) -> str:
    """The last line of a log that says something, shortened; the reason of a crash is nearly always there."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return "its log says nothing"
    telling = [line for line in lines if any(word in line for word in ("FATAL", "PANIC", "rror", "refuse"))]
    return (telling or [line for line in lines if line] or ["its log says nothing"])[-1][-300:]


def _run(at: Place, name: str, argv: list[str], text: str = "") -> None:
    """Run one of PostgreSQL's programs with the server's own rights, through launch.py."""
    once = Service(name=name, argv=argv, env=python_environment(at), unprivileged_user=True)
    write_json(at.directory / "services.json", {name: once.launch()})
    command = [sys.executable, "-I", "-S", launcher(), str(at.directory), name]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, env=python_environment(at), check=False, timeout=300
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        reason = next((line for line in reversed(lines) if "rror" in line or "FATAL" in line), lines[-1])
        raise InstanceError(f"PostgreSQL's {name} failed: {reason.strip()}")
