"""An instance with a container engine: its tasks wait while there is none, and run in containers when there is."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import engine as engines
from acceptance.conftest import Instance, eventually, make
from acceptance.jobs import Jobs
from sfp_client import Client

pytestmark = [pytest.mark.container, pytest.mark.acceptance]


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the instance looks for the engine; nothing is there yet."""
    if why := engines.missing():
        pytest.skip(why)
    return tmp_path_factory.mktemp("engine") / "socket"


@pytest.fixture(scope="module")
def contained(tmp_path_factory: pytest.TempPathFactory, promised: Path) -> Iterator[Instance]:
    base = tmp_path_factory.mktemp("base dir")
    more = base / "more.json"
    container = {"engine": str(promised), "images": f"command={engines.IMAGE}", "mounts": "/usr"}
    more.write_text(json.dumps({"worker": {"container": container}}))
    made = make(base, "contained", "--config-file", str(more))
    started = made.run("start")
    assert started.returncode == 0, started.stderr
    yield made
    made.run("stop", "-f")


def submit(client: Client, *argv: str, **fields) -> str:
    return client.tasks.submit("command", {"argv": list(argv)}, runtime="container", **fields)["operationId"]


def test_a_task_waits_for_the_engine_and_then_runs_in_its_container(contained, promised):
    with contained.client() as client:
        jobs = Jobs(client)
        client.secrets.set("NPM_TOKEN", "s3cr3t-value")
        waiting = submit(
            client,
            "sh",
            "-c",
            "id -u; hostname; cat /etc/mark; echo $NPM_TOKEN",
            credentials=[{"type": "secret", "name": "NPM_TOKEN", "env": "NPM_TOKEN"}],
        )
        eventually(lambda: client.tasks.get(waiting).get("reason"), 30)
        assert client.tasks.get(waiting)["status"] == "pending"
        with engines.engine() as socket:
            promised.symlink_to(socket)
            ran = jobs.wait(waiting, timeout=60)
            user, host, *said = ran.stdout
            assert (ran.status, host, said[-1]) == ("completed", "worker", "***")
            assert int(user) >= 0x60000000
            ended = jobs.wait(submit(client, "sh", "-c", "exit 3"))
            assert (ended.status, ended.result["exitCode"]) == ("failed", 3)
            sandboxed = jobs.run(["hostname"])  # the default goes on as before
            assert sandboxed.status == "completed"
