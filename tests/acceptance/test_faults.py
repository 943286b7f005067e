"""Work goes on while parts die: accepted tasks end, none runs twice at once, followers miss nothing."""

import itertools
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import httpx
import psutil
import pytest

from acceptance.conftest import HEALING, Instance, eventually
from acceptance.jobs import Jobs
from acceptance.outside import Outside
from sfp_client import Client
from sfp_client.errors import TimedOut
from sfp_server.instance import supervisor

pytestmark = pytest.mark.acceptance


class Follow:
    """Follows the channel of all tasks in a thread, through the edge, from first to last."""

    def __init__(self, instance: Instance, token: str) -> None:
        self._client = Client(instance.url, token, ca_file=instance.place.edge_root_copy)
        self._thread = threading.Thread(target=self._run)
        self._ended = threading.Event()
        self.numbers: list[int] = []
        self.final: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        import time

        last = 0  # not from now on: a connection that comes late must still tell everything
        while not self._ended.is_set():
            try:
                for event in self._client.events("tasks", after=last, deadline=time.monotonic() + 1):
                    last = event.seq
                    self.numbers.append(event.seq)
                    if event.event in {"task.completed", "task.failed", "task.cancelled"}:
                        self.final[event.data["operationId"]] = event.event
            except TimedOut:
                continue


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


def postgres_backend(instance: Instance) -> list[int]:
    """One connection of the API."""
    found = [
        child.pid
        for pid in instance.pids("postgres")
        for child in psutil.Process(pid).children(recursive=True)
        if "sfp_api" in " ".join(child.cmdline())
    ]
    return found[:1]


def a_worker(instance: Instance) -> list[int]:
    """Everything of one worker that runs a task."""
    [dispatcher] = instance.pids("dispatcher")
    children = psutil.Process(dispatcher).children(recursive=True)
    sleeping = [child for child in children if _argv(child)[:1] == ["sleep"]]
    return [parent.pid for child in sleeping[:1] for parent in child.parents() if parent in children][-1:]


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def service(name: str) -> Callable[[Instance], list[int]]:
    return lambda instance: instance.pids(name)


VICTIMS: dict[str, Callable[[Instance], list[int]]] = {
    **{name: service(name) for name in ("postgres", "cache", "api", "dispatcher", "broker", "deliverer", "caddy")},
    "postgres backend": postgres_backend,
    "worker": a_worker,
}


@pytest.mark.parametrize("victim", VICTIMS)
def test_accepted_tasks_end_whatever_is_killed(jobs: Jobs, healthy: Instance, outside: Outside, victim: str):
    token = jobs.client.transport.token()
    assert token is not None
    jobs.client.secrets.set("THROUGH_FAULTS", "a value that is long enough")
    credentials = [{"type": "secret", "name": "THROUGH_FAULTS", "env": "IT"}]
    script = f'curl -sS -m 20 {outside.url}/visit/$SFP_OPERATION_ID; test -n "$IT"'
    mark = uuid.uuid4().hex
    with Follow(healthy, token) as follow, Ask(healthy, token) as ask:
        long = jobs.submit(["sh", "-c", f"sleep 3; echo {mark}"], priority="critical")
        eventually(lambda: jobs.client.tasks.status(long)["status"] == "active")
        tasks = [long]
        for number in range(12):
            if number == 4:
                victims = VICTIMS[victim](healthy)
                assert victims
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
            tasks.append(jobs.submit(["sh", "-c", script], network="egress", credentials=credentials))
        ended = {task: jobs.wait(task, timeout=60) for task in tasks}
        eventually(lambda: set(tasks) <= follow.final.keys())
        eventually(healthy.is_healthy)
    assert {one.code for one in ended.values()} <= {None, "worker_lost", "credential"}, ended
    if victim not in {"dispatcher", "worker", "broker"}:
        assert {one.code for one in ended.values()} == {None}
    assert [task for task in tasks if outside.visits.count(f"/visit/{task}") > 1] == []
    assert [one.id for one in ended.values() if len(jobs.client.tasks.get(one.id)["attempts"]) > 1] == []
    assert all(after == before + 1 for before, after in itertools.pairwise(follow.numbers))
    assert {answer.status_code for answer in ask.odd} <= {503}, [answer.text for answer in ask.odd]
    assert all(answer.headers.get("retry-after") for answer in ask.odd)
    assert ask.hung == 0


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    """Processes that neither work nor go away."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGCONT)


def test_a_frozen_dispatcher_does_not_overwrite_what_came_after_it(jobs: Jobs, healthy: Instance):
    retry = {"maxAttempts": 2, "backoff": "fixed", "delaySeconds": 0, "jitter": False}
    task = jobs.submit(["sh", "-c", "echo attempt $SFP_ATTEMPT; sleep 2"], retry=retry)
    eventually(lambda: jobs.client.tasks.status(task)["status"] == "active")
    with frozen(healthy.pids("dispatcher")):
        assert healthy.pids("dispatcher")
        jobs.client.tasks.status(task)  # the API answers all the same
    ran = jobs.wait(task, timeout=60)
    assert ran.status == "completed"
    attempts = [attempt["status"] for attempt in jobs.client.tasks.get(task)["attempts"]]
    assert attempts in (["completed"], ["lost", "completed"])


def test_stop_lets_running_tasks_end_and_keeps_waiting_ones(jobs: Jobs, healthy: Instance):
    running = jobs.submit(["sh", "-c", "sleep 1; echo done"], concurrency_key="stop")
    eventually(lambda: jobs.client.tasks.status(running)["status"] == "active")
    waiting = [jobs.submit(["echo", "later"], concurrency_key="stop") for _ in range(3)]
    assert healthy.run("stop").returncode == 0
    assert healthy.run("start").returncode == 0
    assert jobs.wait(running).stdout == ["done"]
    assert [jobs.wait(task).stdout for task in waiting] == [["later"]] * 3


def test_after_a_power_cut_waiting_tasks_run_and_running_ones_are_told(jobs: Jobs, healthy: Instance):
    running = jobs.submit(["sleep", "1000"], concurrency_key="cut")
    eventually(lambda: jobs.client.tasks.status(running)["status"] == "active")
    waiting = [jobs.submit(["echo", "later"], concurrency_key="cut") for _ in range(3)]
    watcher = supervisor.supervisor_pid(healthy.place)
    assert watcher is not None
    for pid in (*healthy.pids("guard"), watcher, *supervisor.leftovers(healthy.place)):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: supervisor.leftovers(healthy.place) == [])
    assert healthy.run("start").returncode == 0
    assert jobs.wait(running, timeout=HEALING).code == "worker_lost"
    assert [jobs.wait(task).stdout for task in waiting] == [["later"]] * 3
