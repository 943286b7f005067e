"""A dispatcher that gives no sign of life for half a lease is killed, and only then."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

#: holds the leash as a dispatcher does; its loop works, is stuck, or ends
SCRIPT = """
import asyncio, sys, time
from sfp_server.processes.leash import leash

async def main():
    async with leash(1.0):
        print("held", flush=True)
        if sys.argv[1] == "stuck":
            time.sleep(60)
        await asyncio.sleep(60 if sys.argv[1] == "works" else 0)

asyncio.run(main())
"""


def start(how: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, how], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process.stdout as out:
        assert out.readline() == "held\n"
    return process


def warden(process: subprocess.Popen[str]) -> psutil.Process:
    [child] = psutil.Process(process.pid).children()
    return child


def test_a_frozen_dispatcher_is_killed():
    frozen = start("works")
    frozen.send_signal(signal.SIGSTOP)
    assert frozen.wait(20) == -signal.SIGKILL


def test_a_stuck_dispatcher_is_killed():
    assert start("stuck").wait(20) == -signal.SIGKILL


def test_one_that_ends_in_order_ends_its_warden_first():
    ending = start("ends")
    assert ending.wait(20) == 0


def test_a_warden_ends_with_a_dispatcher_that_is_killed():
    killed = start("works")
    beside = warden(killed)
    killed.kill()
    killed.wait(20)
    beside.wait(20)
    assert not beside.is_running()


def test_a_dispatcher_that_works_is_left_alone_also_by_a_warden_that_was_frozen():
    working = start("works")
    beside = warden(working)
    beside.suspend()
    with pytest.raises(subprocess.TimeoutExpired):
        working.wait(2)
    beside.resume()
    with pytest.raises(subprocess.TimeoutExpired):
        working.wait(1)
    working.kill()
    working.wait(20)
