"""`kill -9` of anything at any time: the instance heals by itself, and what it had is there."""

import os
import signal
import threading
from pathlib import Path
from typing import Self

import httpx
import pytest

from acceptance.conftest import HEALING, Instance, eventually
from sfp_server.instance import supervisor

pytestmark = pytest.mark.acceptance

SERVICES = ["postgres", "cache", "api", "dispatcher", "broker", "deliverer", "auditor", "caddy", "guard"]


class Watch:
    """Asks the edge again and again while something is broken; keeps every answer but success."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._ended = threading.Event()
        self.answers: list[httpx.Response] = []

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._ended.wait(0.05):
            try:
                with self._instance.http() as http:
                    answer = http.get("/health")
            except httpx.TransportError:
                continue  # the edge itself is away: nobody is there to answer
            if answer.status_code != 200:
                self.answers.append(answer)


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_is_back_within_15_seconds(healthy: Instance, service: str):
    killed = healthy.pids(service)
    with Watch(healthy) as watch:
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: set(healthy.pids(service)).isdisjoint({*killed, 0}))
        eventually(lambda: healthy.json("status")["status"] == "running")
    assert {answer.status_code for answer in watch.answers} <= {503}
    assert all(answer.headers.get("retry-after") for answer in watch.answers)


def test_a_killed_api_is_answered_for_by_the_edge(healthy: Instance):
    with Watch(healthy) as watch:
        for pid in healthy.pids("api"):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: watch.answers)
        eventually(healthy.is_healthy)
    answer = watch.answers[0]
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.json()["code"] == "unavailable"


def test_a_killed_supervisor_is_revived_with_everything(healthy: Instance):
    before = supervisor.supervisor_pid(healthy.place)
    assert before is not None
    os.kill(before, signal.SIGKILL)
    eventually(lambda: supervisor.supervisor_pid(healthy.place) not in {None, before})
    eventually(lambda: supervisor.Supervisor(healthy.place).is_alive() and healthy.is_healthy(), HEALING)


def test_after_a_power_cut_start_brings_everything_back(healthy: Instance):
    with healthy.client() as client:
        client.secrets.set("KEPT", "through the power cut")
    victims = supervisor.leftovers(healthy.place)
    watcher = supervisor.supervisor_pid(healthy.place)
    assert watcher is not None
    for pid in (*healthy.pids("guard"), watcher, *victims):  # the guard first: it would start everything again
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # a child that went with its parent
    eventually(lambda: supervisor.leftovers(healthy.place) == [])
    started = healthy.run("start")
    assert started.returncode == 0, started.stderr
    with healthy.client() as client:
        assert "KEPT" in [secret["name"] for secret in client.secrets.list()]


def test_stop_and_start_keep_everything(healthy: Instance):
    with healthy.client() as client:
        client.secrets.set("KEPT_TOO", "through stop and start")
    assert healthy.run("stop").returncode == 0
    assert healthy.json("status")["status"] == "stopped"
    assert supervisor.leftovers(healthy.place) == []
    assert healthy.run("start").returncode == 0
    with healthy.client() as client:
        assert "KEPT_TOO" in [secret["name"] for secret in client.secrets.list()]


def test_stop_wins_over_a_guard_that_starts_the_instance_again(healthy: Instance):
    watcher = supervisor.supervisor_pid(healthy.place)
    assert watcher is not None
    os.kill(watcher, signal.SIGKILL)
    stopped = healthy.run("stop")  # meanwhile the guard is starting everything again
    assert stopped.returncode == 0, stopped.stderr
    assert supervisor.leftovers(healthy.place) == []  # nor a supervisord that could still start something
    assert healthy.run("start").returncode == 0


def test_one_supervisord_is_left_when_start_and_guard_meet(healthy: Instance):
    watcher = supervisor.supervisor_pid(healthy.place)
    assert watcher is not None
    os.kill(watcher, signal.SIGKILL)
    assert healthy.run("start").returncode == 0
    eventually(healthy.is_healthy)
    running = [
        pid
        for pid in supervisor.leftovers(healthy.place)
        if b"supervisor.supervisord" in supervisor._read(pid, "cmdline")
    ]
    assert running == [supervisor.supervisor_pid(healthy.place)]


def test_a_stop_that_cuts_leaves_nothing_of_its_workers(healthy: Instance):
    with healthy.client() as client:
        task = client.tasks.submit("command", {"argv": ["sleep", "1000"]})["operationId"]
        eventually(lambda: client.tasks.status(task)["status"] == "active")
    [dispatcher] = healthy.pids("dispatcher")
    assert healthy.run("stop", "-f").returncode == 0
    groups = list(Path("/sys/fs/cgroup").rglob(f"sfp-{dispatcher}-*"))
    folders = [
        entry
        for top in ("/run/sfp-server", str(healthy.place.run / "workers"))
        for entry in Path(top).glob(f"*-{dispatcher}-*")
    ]
    assert (groups, folders) == ([], [])
    assert healthy.run("start").returncode == 0
