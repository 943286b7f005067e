"""A whole instance, started once per run, driven through the command line and HTTPS as a user would."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from acceptance.jobs import Jobs
from acceptance.outside import Outside, make_repository
from sfp_client import Client
from sfp_server.instance import supervisor
from sfp_server.instance.place import Place

PROGRAM = Path(sys.executable).with_name("sfp-server")
#: the contract's promise after a `kill -9`, seconds
HEALING = 15.0


def sfp(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would, with nothing of ours in the environment."""
    clean = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.run(
        [str(PROGRAM), *arguments], capture_output=True, text=True, env={**clean, **(env or {})}, timeout=150
    )


@dataclass(frozen=True)
class Instance:
    """An instance that was made, and how to reach it."""

    base: Path
    tenant: str
    made: dict[str, Any]

    @property
    def place(self) -> Place:
        return Place(directory=Path(self.made["directory"]), tenant=self.tenant)

    @property
    def config(self) -> dict[str, Any]:
        return json.loads(self.place.config.read_text())

    @property
    def url(self) -> str:
        return f"https://localhost:{self.config['port']}"

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.config['apiPort']}"

    def run(self, command: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return sfp(command, "-t", self.tenant, "--base-dir", str(self.base), *arguments, env=env)

    def json(self, command: str, *arguments: str) -> Any:
        done = self.run(command, "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.place.edge_root_copy))

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.tls(), timeout=10)

    def client(self) -> Client:
        """An SDK client, signed in as the owner."""
        client = Client(self.url, ca_file=self.place.edge_root_copy)
        client.auth.login(self.made["admin"]["email"], self.made["admin"]["password"])
        return client

    def pids(self, service: str) -> list[int]:
        return [item.pid for item in supervisor.Supervisor(self.place).processes() if item.service == service]

    def is_healthy(self) -> bool:
        try:
            with self.http() as http:
                return http.get("/health").json().get("status") == "healthy"
        except (httpx.HTTPError, ValueError):
            return False


def make(base: Path, tenant: str, *arguments: str) -> Instance:
    done = sfp("init", "--tenant", tenant, "--base-dir", str(base), "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return Instance(base, tenant, json.loads(done.stdout))


def eventually(condition: Callable[[], object], timeout: float = HEALING) -> float:
    """Seconds until the condition held. Fails when it does not hold in time."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout, f"not within {timeout} s"
        time.sleep(0.1)  # between two looks from outside there is no event to wait for
    return time.monotonic() - began


@pytest.fixture(scope="session")
def commits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A directory with a bare repository, and its commits, oldest first."""
    directory = tmp_path_factory.mktemp("git")
    return directory, make_repository(directory)


@pytest.fixture(scope="session")
def outside(commits: tuple[Path, list[str]]) -> Iterator[Outside]:
    """A web and git server on loopback, which the instance's `egress.allow` names."""
    server = Outside(commits[0])
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def instance(tmp_path_factory: pytest.TempPathFactory, outside: Outside) -> Iterator[Instance]:
    """A running instance for all tests that leave it as they found it; its path holds a space, on purpose."""
    base = tmp_path_factory.mktemp("base dir")
    more = base / "more.json"
    settings = {
        "egress": {"allow": outside.url.removeprefix("http://")},
        "tasks": {"graceSeconds": 2},
        "worker": {"outputMb": 4, "artifactMb": 32},  # small, so that reaching them takes little time
    }
    more.write_text(json.dumps(settings))
    made = make(base, "main", "--config-file", str(more), "--worker-counts", "2,4,2")
    started = made.run("start")
    assert started.returncode == 0, started.stderr
    yield made
    made.run("stop", "-f")


@pytest.fixture
def healthy(instance: Instance) -> Instance:
    """The shared instance, healed from what the test before did to it."""
    if not supervisor.Supervisor(instance.place).is_alive():
        assert instance.run("start").returncode == 0
    eventually(instance.is_healthy, 30)
    return instance


@pytest.fixture(scope="session")
def owner(instance: Instance) -> Iterator[Client]:
    """An SDK client of the shared instance, signed in once."""
    with instance.client() as client:
        yield client


@pytest.fixture
def jobs(healthy: Instance, owner: Client) -> Jobs:
    """Commands on the shared, healthy instance."""
    return Jobs(owner)


@pytest.fixture
def raw(healthy: Instance, owner: Client) -> Iterator[httpx.Client]:
    """Plain HTTP with the owner's token: for what the SDK would never send."""
    headers = {"Authorization": f"Bearer {owner.transport.token()}"}
    with httpx.Client(base_url=f"{healthy.api_url}/sfp/api", headers=headers, timeout=20) as client:
        yield client


@pytest.fixture(scope="session")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that was made and is not running."""
    made = make(tmp_path_factory.mktemp("spare"), "spare")
    yield made
    made.run("stop", "-f")
