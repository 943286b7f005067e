"""Workers that are forked from a template: what holds for that way alone. The rest is in test_runtimes.py, for both."""

import asyncio
import json
import os
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import pytest_asyncio
from workers import Attendant, python, run, workload

from sfp_server.runtimes import template
from sfp_server.runtimes.base import RuntimeUnavailable
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.launch import start_time
from sfp_server.runtimes.sandbox import SandboxRuntime

PTY = "import os, sys, time; os.openpty(); print(sorted(os.listdir('/dev/pts')), flush=True); time.sleep(60)"
IDENTITIES = """
import json, os, time
print(json.dumps([os.readlink(f"/proc/self/ns/{n}") for n in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")]), flush=True)
time.sleep(60)
"""


def made(folder, **options):
    return SandboxRuntime(
        folder / "broker", EgressPolicy(), options.pop("warm", 0), scratch=folder / "scratch", **options
    )


@pytest.fixture
def outside():
    """Outside of pytest's own folder, which nobody may enter; bubblewrap is started as nobody."""
    with tempfile.TemporaryDirectory(prefix="sfp-bwrap") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.fixture
def templates():
    """Gives the templates that were not there when the test began: other tests keep runtimes open."""
    before = set(_templates())
    return lambda: [pid for pid in _templates() if pid not in before]


@pytest_asyncio.fixture(loop_scope="session")
async def runtime(folder, templates):
    runtime = made(folder)
    await runtime.open()
    yield runtime
    await runtime.close()


def _templates():
    """Processes of this machine that are templates of ours (bubblewrap's outer ones left out)."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
            outer = (Path(f"/proc/{parent}") / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if b"from sfp_worker.template" in b" ".join(words) and outer[0].endswith(b"bwrap") and _is_ours(parent):
            found.append(int(folder.name))
    return found


def _is_ours(pid):
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid()


async def test_each_worker_has_all_namespaces_of_its_own(runtime):
    seen = [Attendant() for _ in range(3)]
    handles = [await runtime.start(python(IDENTITIES), attendant) for attendant in seen]
    for attendant in seen:
        await attendant.saw("cgroup:")
    for kind in zip(*(json.loads(attendant.text()) for attendant in seen), strict=True):
        assert len(set(kind)) == 3, kind
    for handle in handles:
        await runtime.stop(handle)
    assert runtime.isolation()["workers"] == "forked from a pristine template"


async def test_workers_of_one_template_do_not_share_their_terminals(runtime):
    first, second = Attendant(), Attendant()
    handles = [await runtime.start(python(PTY), attendant) for attendant in (first, second)]
    for attendant in (first, second):
        await attendant.saw("'ptmx'")
        assert attendant.text() == "['0', 'ptmx']"
    for handle in handles:
        await runtime.stop(handle)


async def test_when_the_template_dies_its_workers_do_and_the_next_one_has_a_new_template(runtime, templates):
    attendant = Attendant()
    handle = await runtime.start(python("print('here', flush=True); import time; time.sleep(60)"), attendant)
    await attendant.saw("here")
    (old,) = templates()
    os.kill(old, 9)
    async with asyncio.timeout(20):
        ended = await runtime.wait(handle)
    assert ended.failure.code == "worker_lost"
    ended, _ = await run(runtime, workload("true"))
    assert ended.code == 0
    assert old not in templates()


async def test_a_template_is_replaced_and_ends_with_its_last_worker(runtime, monkeypatch, templates):
    attendant = Attendant()
    handle = await runtime.start(python("print('here', flush=True); import sys; sys.stdin.read()"), attendant)
    await attendant.saw("here")
    long = await runtime.start(python("import time; time.sleep(60)"), Attendant())
    (old,) = templates()
    born = start_time(old)
    # Too old for one more: the next worker comes from a new one, which then is too old as well.
    monkeypatch.setattr(template, "FORKS_AT_MOST", 1)
    ended, _ = await run(runtime, workload("true"))
    assert ended.code == 0
    assert start_time(old) == born, "it lives as long as its workers"
    assert len(templates()) == 2
    for worker in (handle, long):
        await runtime.stop(worker)
    async with asyncio.timeout(10):
        while start_time(old) is not None:
            await asyncio.sleep(0.01)


async def test_where_no_namespaces_can_be_made_inside_each_worker_is_built(folder, outside, templates):
    """What Ubuntu's AppArmor profile for bubblewrap does, by bubblewrap's own means."""
    wrapper = outside / "bwrap"
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("bwrap")} --unshare-user --disable-userns "$@"\n')
    wrapper.chmod(0o755)
    runtime = made(folder, warm=1, bwrap_path=str(wrapper))
    await runtime.open()
    try:
        ended, _ = await run(runtime, workload("true"))
        assert ended.code == 0
        assert runtime.isolation()["workers"].startswith("built one by one: ")
        assert "the kernel refuses new namespaces" in runtime.isolation()["workers"]
        assert templates() == []
    finally:
        await runtime.close()


async def test_nothing_is_left_of_a_closed_runtime(folder, templates):
    runtime = made(folder, warm=2)
    await runtime.open()
    await runtime.start(python("import time; time.sleep(60)"), Attendant())
    assert len(templates()) == 1
    await runtime.close()
    assert templates() == []


async def test_no_group_is_left_where_no_worker_came_to_be(folder, templates, monkeypatch):
    runtime = made(folder)
    await runtime.open()
    before = _groups()

    async def refuse(*_arguments):
        raise RuntimeUnavailable("no template can be started now")

    monkeypatch.setattr(runtime, "_usable_template", refuse)
    with pytest.raises(RuntimeUnavailable):
        await runtime.start(workload(["true"]), Attendant())
    await asyncio.gather(*runtime._cleanups)
    assert _groups() <= before
    await runtime.close()


async def test_no_group_is_left_of_a_start_that_was_cancelled(folder, templates, monkeypatch):
    runtime = made(folder)
    await runtime.open()
    before = _groups()
    begun, may_go_on = threading.Event(), threading.Event()
    group = runtime._group

    def slowly(limits):
        begun.set()
        may_go_on.wait(20)
        return group(limits)

    monkeypatch.setattr(runtime, "_group", slowly)
    starting = asyncio.create_task(runtime.start(workload(["true"]), Attendant()))
    await asyncio.to_thread(begun.wait, 20)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    may_go_on.set()
    await asyncio.gather(*runtime._cleanups)
    assert _groups() <= before
    await runtime.close()


async def test_a_warm_worker_that_dies_waits_no_longer_and_leaves_nothing(folder, templates):
    before = _groups()
    runtime = made(folder, warm=1)
    await runtime.open()
    pool = runtime._pools[None]
    await pool.filled()
    [worker] = pool._waiting
    worker.kill()
    await worker.process.wait()
    await asyncio.sleep(0)  # its end is told by a callback
    assert list(pool._waiting) == []
    await asyncio.gather(*pool._discarding)
    assert _groups() <= before
    await runtime.close()


def _groups():
    return {
        name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith(f"sfp-{os.getpid()}-")
    }
