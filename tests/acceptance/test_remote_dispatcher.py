"""Tasks run on other machines: each test's machines have a network of their own and no file of the instance."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from acceptance.conftest import Instance, eventually, make
from acceptance.jobs import Jobs
from acceptance.machines import PROGRAM, Machine, Wire, running, wire
from sfp_server.instance import configuration

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make networks"),
    pytest.mark.timeout(300),
]
LEASE = 4
RETRY = {"maxAttempts": 3, "delaySeconds": 0, "jitter": False}


@pytest.fixture(scope="module")
def cable() -> Iterator[Wire]:
    with wire() as made:
        yield made


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, cable: Wire) -> Iterator[Instance]:
    """An instance that runs nothing on its own machine."""
    base = tmp_path_factory.mktemp("home")
    settings = {
        "dispatchers": {"listen": f"{cable.address}:19443"},
        "dispatcher": {"slots": 0},
        "tasks": {"graceSeconds": 1, "leaseSeconds": LEASE},
    }
    (base / "more.json").write_text(json.dumps(settings))
    made = make(base, "home", "--config-file", str(base / "more.json"), "--worker-counts", "1,4,1")
    started = made.run("start")
    assert started.returncode == 0, started.stderr
    yield made
    made.run("stop", "-f")


@pytest.fixture(scope="module")
def work(home: Instance) -> Iterator[Jobs]:
    with home.client() as client:
        yield Jobs(client)


@pytest.fixture(scope="module")
def first(cable: Wire, home: Instance, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return cable.machine(home, tmp_path_factory.mktemp("machines") / "first", "first", slots=1)


@pytest.fixture(scope="module")
def second(cable: Wire, home: Instance, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return cable.machine(home, tmp_path_factory.mktemp("machines") / "second", "second", slots=2)


@pytest.fixture
def alone(first: Machine) -> Iterator[Machine]:
    """The first machine, running."""
    first.start("--toolchain", "salesforce=2.1")
    eventually(first.is_ready, 30)
    yield first
    first.join()
    first.stop()


@pytest.fixture
def both(alone: Machine, second: Machine) -> Iterator[tuple[Machine, Machine]]:
    """Both machines, running."""
    second.start()
    eventually(second.is_ready, 30)
    yield alone, second
    second.stop()


def rows(home: Instance, statement: str, *values: Any) -> list[asyncpg.Record]:
    """A look behind the curtain."""
    url = configuration.settings(home.place, {}).admin_url()

    async def work() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url, server_settings={"search_path": "sfp"})
        try:
            return await connection.fetch(statement, *values)
        finally:
            await connection.close()

    return asyncio.run(work())


def attempts(home: Instance, task: str) -> list[tuple[str, str]]:
    """(machine, status) of each attempt."""
    found = rows(
        home,
        "SELECT coalesce(dispatchers.name, '?') AS name, attempts.status FROM attempts"
        " LEFT JOIN dispatchers ON dispatchers.id = dispatcher_id WHERE task_id = $1 ORDER BY attempt",
        task,
    )
    return [(row["name"], row["status"]) for row in found]


def long_task(work: Jobs, seconds: int = 60, **options: Any) -> tuple[str, str]:
    """A task that runs so long, and the marker by which its processes are known."""
    marker = f"marker-{uuid.uuid4().hex}"
    script = f"import time; print('begun', flush=True); time.sleep({seconds})"
    return work.submit(["python3", "-c", script, marker], retry=RETRY, **options), marker


def once_then_quick(work: Jobs) -> tuple[str, str]:
    """A task whose first attempt runs for a minute, and every later one ends at once."""
    marker = f"marker-{uuid.uuid4().hex}"
    script = "import os, time; time.sleep(60 if os.environ['SFP_ATTEMPT'] == '1' else 0)"
    return work.submit(["python3", "-c", script, marker], retry=RETRY), marker


def test_a_task_elsewhere_has_all_that_a_task_has(home: Instance, work: Jobs, alone: Machine, tmp_path: Path) -> None:
    upload = tmp_path / "input.bin"
    upload.write_bytes(os.urandom(3_000_000))
    artifact = work.client.artifacts.upload(upload)
    work.client.secrets.set("REMOTE_TOKEN", "a-secret-that-nobody-sees")
    script = """
import hashlib, os, pathlib
data = pathlib.Path("input.bin").read_bytes()
print(hashlib.sha256(data).hexdigest())
print("the token is", os.environ["TOKEN"], len(os.environ["TOKEN"]))
pathlib.Path(os.environ["SFP_PROGRESS"]).write_text("50 half way\\n")
pathlib.Path("out").mkdir()
pathlib.Path("out/copy.bin").write_bytes(data[::-1])
pathlib.Path("out/small.txt").write_text("small")
pathlib.Path(os.environ["SFP_RESULT"]).write_text('{"answer": 42}')
"""
    ran = work.python(
        script,
        workspace={"artifact": artifact["id"]},
        artifacts=["out/*"],
        credentials=[{"type": "secret", "name": "REMOTE_TOKEN", "env": "TOKEN"}],
    )
    assert ran.status == "completed", ran
    assert ran.stdout == [hashlib.sha256(upload.read_bytes()).hexdigest(), "the token is *** 25"]
    assert ran.result is not None
    assert ran.result["output"] == {"answer": 42}
    kept = {item["name"]: item for item in work.client.artifacts.of_task(ran.id)}
    assert kept.keys() == {"out/copy.bin", "out/small.txt"}
    copy = work.client.artifacts.download(ran.id, "out/copy.bin", tmp_path / "copy.bin")
    assert copy.read_bytes() == upload.read_bytes()[::-1]
    assert attempts(home, ran.id) == [("first", "completed")]
    assert [row["name"] for row in rows(home, "SELECT name FROM leases WHERE task_id = $1", ran.id)] == ["REMOTE_TOKEN"]
    assert not list((alone.directory / "work" / "spool").iterdir())
    assert "a-secret-that-nobody-sees" not in alone.log


def test_a_task_elsewhere_is_cancelled_like_any_other(work: Jobs, alone: Machine) -> None:
    task, marker = long_task(work)
    eventually(lambda: running(marker), 20)
    began = time.monotonic()
    work.client.tasks.cancel(task)
    assert work.wait(task).status == "cancelled"
    assert time.monotonic() - began < 5
    assert running(marker) == []


def test_the_death_of_a_machine_s_dispatcher_costs_an_attempt_and_nothing_else(
    home: Instance, work: Jobs, both: tuple[Machine, Machine]
) -> None:
    machines = {machine.name: machine for machine in both}
    task, marker = once_then_quick(work)
    eventually(lambda: running(marker), 20)
    (victim, _), *_ = attempts(home, task)
    machines[victim].kill()
    eventually(lambda: not running(marker), 5)
    ran = work.wait(task, timeout=15 + LEASE)
    assert ran.status == "completed"
    assert [status for _, status in attempts(home, task)] == ["lost", "completed"]
    machines[victim].start()
    eventually(machines[victim].is_ready, 30)


def test_a_dispatcher_that_comes_back_ends_at_once_what_it_left(home: Instance, work: Jobs, alone: Machine) -> None:
    task, marker = once_then_quick(work)
    eventually(lambda: running(marker), 20)
    alone.kill()
    alone.start()
    assert work.wait(task, timeout=20).status == "completed"
    assert [status for _, status in attempts(home, task)] == ["lost", "completed"]


def test_a_frozen_dispatcher_that_wakes_up_kills_its_worker_and_writes_nothing(
    home: Instance, work: Jobs, both: tuple[Machine, Machine]
) -> None:
    machines = {machine.name: machine for machine in both}
    marker = f"marker-{uuid.uuid4().hex}"
    script = (
        "import os, time\n"
        "first = os.environ['SFP_ATTEMPT'] == '1'\n"
        "for n in range(600 if first else 1):\n"
        "    print('from', os.environ['SFP_ATTEMPT'], flush=True); time.sleep(0.1)\n"
    )
    task = work.submit(["python3", "-c", script, marker], retry=RETRY)
    eventually(lambda: running(marker), 20)
    (victim, _), *_ = attempts(home, task)
    machines[victim].freeze(with_leash=True)
    try:
        ran = work.wait(task, timeout=30)
        assert ran.status == "completed"
        lines = len(ran.lines)
        assert running(marker), "its worker is not frozen"
    finally:
        machines[victim].thaw()
    eventually(lambda: not running(marker), 5)
    after = [entry["message"] for entry in work.client.tasks.logs(task)]
    assert (len(after), after[-1]) == (lines, "from 2")
    assert [status for _, status in attempts(home, task)] == ["lost", "completed"]
    assert work.sh("true").status == "completed"


@pytest.mark.faults
def test_a_frozen_dispatcher_is_killed_before_others_take_its_tasks(
    home: Instance, work: Jobs, both: tuple[Machine, Machine]
) -> None:
    machines = {machine.name: machine for machine in both}
    task, marker = once_then_quick(work)
    eventually(lambda: running(marker), 20)
    (victim, _), *_ = attempts(home, task)
    machines[victim].freeze()
    assert machines[victim].ended(LEASE) == -signal.SIGKILL
    eventually(lambda: not running(marker), 1)
    assert attempts(home, task) == [(victim, "active")]
    assert work.wait(task, timeout=15 + LEASE).status == "completed"


@pytest.mark.faults
def test_a_machine_that_is_cut_off_ends_its_workers_before_others_take_their_tasks(
    home: Instance, work: Jobs, both: tuple[Machine, Machine]
) -> None:
    machines = {machine.name: machine for machine in both}
    task, marker = once_then_quick(work)
    eventually(lambda: running(marker), 20)
    (victim, _), *_ = attempts(home, task)
    machines[victim].cut()
    try:
        ran = work.wait(task, timeout=15 + LEASE)
        assert ran.status == "completed"
        eventually(lambda: not running(marker), 3)  # by its own clock: nobody can reach it
    finally:
        machines[victim].join()
    assert [status for _, status in attempts(home, task)] == ["lost", "completed"]
    other = next(name for name in machines if name != victim)
    machines[other].stop()
    assert work.wait(work.submit(["true"]), timeout=45).status == "completed"
    assert machines[victim].process is not None


def test_two_machines_share_the_work_and_neither_has_more_than_its_slots(
    home: Instance, work: Jobs, both: tuple[Machine, Machine]
) -> None:
    tasks = [work.submit(["sleep", "1"]) for _ in range(9)]
    most: dict[str, int] = {}

    def look() -> bool:
        counted = rows(
            home,
            "SELECT name, count(*) AS busy FROM attempts JOIN dispatchers ON dispatchers.id = dispatcher_id"
            " WHERE attempts.status = 'active' GROUP BY name",
        )
        for row in counted:
            most[row["name"]] = max(most.get(row["name"], 0), row["busy"])
        return not rows(home, "SELECT FROM tasks WHERE id = ANY ($1) AND finished_at IS NULL", tasks)

    eventually(look, 60)
    assert most == {"first": 1, "second": 2}
    assert all(work.wait(task).status == "completed" for task in tasks)


@pytest.mark.faults
def test_kept_files_survive_a_courier_that_dies_on_the_way(home: Instance, work: Jobs, alone: Machine) -> None:
    script = "import os; open('big.bin', 'wb').write(os.urandom(1 << 20) * 200)"
    task = work.submit(["python3", "-c", script], artifacts=["big.bin"])
    store = home.place.directory / "artifacts"
    eventually(lambda: list(store.glob("*.incoming")), 40)
    assert rows(home, "SELECT FROM artifacts WHERE task_id = $1", task) == []
    os.kill(home.pids("courier")[0], signal.SIGKILL)
    os.kill(home.pids("api")[0], signal.SIGKILL)
    assert work.wait(task, timeout=60).status == "completed"
    (kept,) = rows(home, "SELECT id, size, sha256 FROM artifacts WHERE task_id = $1", task)
    with (store / str(kept["id"])).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == kept["sha256"]
    assert kept["size"] == 200 << 20
    assert list(store.glob("*.incoming")) == []


def test_a_wrong_token_is_told_so(cable: Wire, home: Instance, alone: Machine, tmp_path: Path) -> None:
    alone.stop()
    token = alone.directory / "token"
    right = token.read_text()
    try:
        token.write_text(right[:5] + "A" * 43 + right[48:])
        assert alone.start().ended() == 1
        assert "the token opens nothing" in alone.log
        token.write_text(right[:48] + "A" * 43)
        assert alone.start().ended() == 1
        assert "not the instance that made the token" in alone.log
        token.write_text("something else")
        assert alone.start().ended() == 1
    finally:
        token.write_text(right)
    assert right.strip() not in alone.log


def test_a_removed_machine_is_out_at_once(
    cable: Wire, home: Instance, work: Jobs, second: Machine, tmp_path: Path
) -> None:
    gone = cable.machine(home, tmp_path / "gone", "gone", slots=1).start()
    eventually(gone.is_ready, 30)
    task, marker = once_then_quick(work)
    eventually(lambda: running(marker), 20)
    where = ["-t", home.tenant, "--base-dir", str(home.base)]
    removed = subprocess.run([str(PROGRAM), "dispatcher", "remove", *where, "gone"], capture_output=True, text=True)
    assert removed.returncode == 0, removed.stderr
    eventually(lambda: [status for _, status in attempts(home, task)] == ["lost"], 3)
    assert gone.ended(20) == 1
    assert running(marker) == []
    assert rows(home, "SELECT FROM pg_roles WHERE rolname LIKE 'sfp_at_gone%'") == []
    second.start()
    assert work.wait(task, timeout=30).status == "completed"
    second.stop()


def test_a_dispatcher_that_is_stopped_lets_its_task_end_and_leaves(home: Instance, work: Jobs, alone: Machine) -> None:
    task = work.submit(["sleep", "3"])
    eventually(lambda: work.client.tasks.status(task)["status"] == "active", 20)
    assert alone.process is not None
    alone.process.terminate()
    assert alone.ended() == 0
    assert work.wait(task, timeout=5).status == "completed"
    assert rows(home, "SELECT FROM dispatchers WHERE name = 'first' AND seen_at > now() - interval '10 seconds'") == []


def test_a_task_that_nobody_can_run_says_what_is_missing(home: Instance, work: Jobs, alone: Machine) -> None:
    task = work.client.tasks.submit("command", {"argv": ["true"]}, runtime="container")["operationId"]

    def explained() -> bool:
        status = work.client.tasks.status(task)
        return (status["reason"], status["reasonDetail"]) == (
            "no_runtime",
            "no dispatcher offers the runtime container",
        )

    eventually(explained, 10)
    work.client.tasks.cancel(task)


def test_the_report_names_every_machine(home: Instance, work: Jobs, alone: Machine) -> None:
    def shown() -> bool:
        return {item["name"] for item in home.json("status")["dispatchers"]} >= {"local", "first"}

    eventually(shown, 15)
    listed = subprocess.run(
        [str(PROGRAM), "dispatcher", "list", "-t", home.tenant, "--base-dir", str(home.base), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (mine,) = [item for item in json.loads(listed.stdout) if item["name"] == "first"]
    assert (mine["alive"], mine["slots"], mine["runtimes"]) == (True, 1, ["sandbox"])
    told = {item["name"]: item for item in work.client.health.dispatchers() if item["alive"]}
    assert (told["first"]["remote"], told["first"]["toolchains"]) == (True, {"salesforce": "2.1"})
    assert (told["local"]["remote"], told["local"]["slots"]) == (False, 0)
