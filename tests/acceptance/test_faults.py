"""Stops, power cuts, and a dispatcher that wakes up: what becomes of tasks. `test_fault_matrix.py` has the other faults."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from acceptance.conftest import HEALING, Instance, eventually
from acceptance.jobs import Jobs
from sfp_server.instance import supervisor

pytestmark = pytest.mark.acceptance


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
