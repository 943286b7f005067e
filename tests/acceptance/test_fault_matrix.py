"""One instance under 500 tasks, one fault after the other: work goes on by itself, and the whole history is right.

Each fault has a test of its own, which measures how long a new task takes to get through; at the end each rule of
`history.py` is a test over all that happened. CI strikes `QUICK`; `make test-faults` all, clocks and disk too.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

import breakage
from acceptance.conftest import Instance, eventually
from breakage import FAULTS, Fault
from history import RULES, History
from load import Load, ends, unexpected
from stage import own_disk, running, tokens

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

IN_FLIGHT = 500
#: in CI: each part killed or frozen, whichever hurts more
QUICK = (
    "kill-worker-supervisor",
    "freeze-worker-supervisor",
    "kill-worker-child",
    "kill-worker-ancestors",
    "freeze-dispatcher",
    "kill-dispatcher",
    "freeze-broker",
    "kill-broker",
    "freeze-api",
    "kill-api",
    "freeze-cache",
    "freeze-postgres-all",
    "freeze-postgres-backend",
    "kill-postgres-backend",
    "kill-postgres",
    "cut-connections",
    "freeze-caddy",
    "freeze-deliverer",
)
OTHERS = tuple(name for name in FAULTS if name not in QUICK)
#: what a clock may jump by, seconds
JUMPS = (3600, -3600, 86400, -86400)
CLOCKED = ("postgres", "api", "dispatcher", "broker", "deliverer")
#: how a task may end that may be tried once, and ran when something broke
ERRORS = {None, "worker_lost", "exit_code", "credential", "cancelled", "cannot_start"}


class Ask:
    """Asks the API itself again and again, as a signed-in client; keeps every answer that is not 200."""

    def __init__(self, instance: Instance, token: str) -> None:
        self._http = httpx.Client(
            base_url=instance.url, verify=instance.tls(), timeout=10, headers={"Authorization": f"Bearer {token}"}
        )
        self._thread = threading.Thread(target=self._run)
        self._ended = threading.Event()
        self.odd: list[httpx.Response] = []
        self.hung = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._http.close()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            try:
                answer = self._http.get("/sfp/api/tasks", params={"limit": 1})
            except httpx.ReadTimeout:
                self.hung += 1
            except httpx.TransportError:
                continue  # the edge itself is away
            else:
                if answer.status_code != 200:
                    self.odd.append(answer)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, bool]]:
    base = tmp_path_factory.mktemp("faults") / "disk"
    with own_disk(base) as is_mounted:
        yield base, is_mounted


@pytest.fixture(scope="module")
def load(disk: tuple[Path, bool]) -> Iterator[Load]:
    """Work in flight as long as faults are struck; `drained` ends it."""
    with running(disk[0]) as instance:
        made = Load(instance, seed=1, tokens=tokens(instance))
        feeding = made.run(IN_FLIGHT)
        try:
            feeding.__enter__()
            made.canary(60)
            made.stop_feeding = lambda: feeding.__exit__(None, None, None)  # type: ignore[attr-defined]
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def asked(load: Load) -> Iterator[Ask]:
    """A client that asks the API all the time, also while it is away."""
    with Ask(load.instance, load.tokens[0]) as ask:
        yield ask


@pytest.fixture(scope="module")
def history(load: Load) -> History:
    """All that happened, once everything has ended."""
    load.stop_feeding()  # type: ignore[attr-defined]
    load.settle(120)
    return load.history()


def strike(load: Load, fault: Fault) -> None:
    fault.strike(load.instance)
    began = time.monotonic()
    load.canary(fault.recovery)
    assert time.monotonic() - began <= fault.recovery
    eventually(load.instance.is_healthy)


@pytest.mark.parametrize("name", QUICK)
def test_work_goes_on_by_itself(load: Load, asked: Ask, name: str):
    strike(load, FAULTS[name])


@pytest.mark.faults
@pytest.mark.parametrize("name", OTHERS)
def test_work_goes_on_by_itself_after_more_faults(load: Load, name: str):
    strike(load, FAULTS[name])


def test_a_task_whose_worker_is_frozen_ends(load: Load):
    [pid] = breakage.found(breakage.worker_child, load.instance)
    task = _operation(pid)
    os.kill(pid, signal.SIGSTOP)
    load.canary(breakage.WORKER_HEALING)
    eventually(lambda: _is_over(load, task), breakage.WORKER_HEALING)


def _operation(pid: int) -> str:
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(entry for entry in environment if entry.startswith(b"SFP_OPERATION_ID=")).partition(b"=")[2].decode()


def _is_over(load: Load, task: str) -> bool:
    return all(run.ended is not None for run in load.recorder.runs if run.task == task)


def test_a_full_disk_heals_when_there_is_room(load: Load, disk: tuple[Path, bool]):
    folder, is_mounted = disk
    if not is_mounted:
        pytest.skip("a disk of its own needs root")
    with breakage.full_disk(folder):
        eventually(lambda: not load.instance.is_healthy() or breakage.is_full(folder))
        time.sleep(3)  # nothing tells how far the damage has got
    load.canary(breakage.HEALING)
    eventually(load.instance.is_healthy)


@pytest.mark.faults
@pytest.mark.skipif(breakage.FAKETIME is None, reason="libfaketime is not installed")
@pytest.mark.parametrize("name", CLOCKED)
def test_a_clock_that_jumps_stops_nothing(load: Load, name: str):
    breakage.give_clock(load.instance, name)
    for jump in JUMPS:
        breakage.set_clock(load.instance, name, jump)
        load.canary(breakage.WORKER_HEALING)
        breakage.set_clock(load.instance, name, 0)
        load.canary(breakage.WORKER_HEALING)


@pytest.mark.parametrize("rule", RULES)
def test_the_history_keeps_the_rule(history: History, rule: str):
    assert list(RULES[rule](history)) == []


def test_clients_are_told_to_come_back_and_never_hang(history: History, asked: Ask):
    assert {answer.status_code for answer in asked.odd} <= {503}, [answer.text for answer in asked.odd]
    assert all(answer.headers.get("retry-after") for answer in asked.odd)
    assert asked.hung == 0


def test_a_task_that_may_be_tried_again_never_fails(history: History):
    assert unexpected(history) == []


def test_tasks_end_with_errors_that_say_what_happened(history: History):
    assert {code or None for _, _, code in ends(history)} <= ERRORS


def test_there_was_enough_to_do(history: History):
    assert len(history.tasks) > IN_FLIGHT
    assert {"plain", "retry", "lossless", "keyed", "cancel", "scheduled", "secret"} <= {
        sort for sort, *_ in ends(history)
    }


def test_the_instance_is_whole_afterwards(history: History, load: Load):
    assert _states(load.instance) == {"RUNNING"}


def _states(instance: Instance) -> set[str]:
    from sfp_server.instance import supervisor

    return {process.state for process in supervisor.Supervisor(instance.place).processes()}
