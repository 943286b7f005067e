"""What only the container runtime promises: images, the walls of a container, and what a crash leaves."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from workers import Attendant, python, run, workload

import engine as engines
from sfp_server.runtimes import containerspec
from sfp_server.runtimes.base import Network, RuntimeUnavailable
from sfp_server.runtimes.container import ContainerRuntime, Supply
from sfp_server.runtimes.egress import EgressPolicy

LABEL = "sfp.instance"


@pytest.fixture
def kind(engine):
    """These tests are about one kind."""
    return "container"


@pytest.fixture
def made(kind, folder):
    """Makes a runtime of other terms than the shared ones; whoever makes it closes it."""

    def make(policy=None, **fields):
        return engines.runtime(None, policy or EgressPolicy(), 0, scratch=folder / "other", **fields)

    return make


def containers(socket, runtime):
    """Ids of the runtime's containers, running or not."""
    filters = json.dumps({"label": [f"{LABEL}={runtime._instance}"]})
    with engines.client(socket) as client:
        found = client.get("/containers/json", params={"all": "true", "filters": filters}).raise_for_status().json()
    return [one["Id"] for one in found]


async def start_fails(runtime, load, match):
    await runtime.open()
    try:
        with pytest.raises(RuntimeUnavailable, match=match):
            await runtime.start(load, Attendant())
    finally:
        await runtime.close()


async def test_an_image_that_is_not_here_is_said_and_not_fetched(made):
    await start_fails(
        made(image="localhost/no-such-image:1"), workload("true"), "no-such-image:1 is not on this machine: pull it"
    )


async def test_an_image_that_cannot_be_fetched_is_said(made):
    await start_fails(made(image="localhost/no-such-image:1", pull=True), workload("true"), "no-such-image|localhost")


async def test_a_type_without_an_image_is_said(made):
    load = workload("true", kind="deploy")
    await start_fails(
        made(image=None, images={"command": engines.IMAGE}), load, "no container image for tasks of type deploy"
    )


async def test_a_type_runs_in_its_own_image(made, engine):
    engines.make_image(engine, "localhost/sfp-other:1", mark="other")
    runtime = made(images={"other": "localhost/sfp-other:1"})
    await runtime.open()
    try:
        for kind, mark in (("command", ""), ("other", "other")):
            _, seen = await run(runtime, workload("cat", "/etc/mark", kind=kind))
            assert seen.text("stdout") == mark
    finally:
        await runtime.close()


@pytest.mark.parametrize(("interpreter", "match"), [("/usr/bin/false", "3.11 or newer"), ("/no/python", "no/python")])
async def test_an_image_without_python_is_said_and_leaves_nothing(made, engine, interpreter, match):
    runtime = made(python=interpreter)
    await start_fails(runtime, workload("true"), match)
    assert containers(engine, runtime) == []


async def test_an_engine_that_does_not_answer_is_said(folder):
    runtime = ContainerRuntime(
        None, EgressPolicy(), scratch=folder / "other", supply=Supply(engine=f"unix://{folder}/no")
    )
    with pytest.raises(RuntimeUnavailable, match="engine does not answer"):
        await runtime.open()
    with pytest.raises(RuntimeUnavailable):
        await runtime.start(workload("true"), Attendant())
    assert "does not answer" in runtime.isolation()["engine"]
    await runtime.close()


WALLS = """
import json, os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def refused(action):
    try:
        action()
    except OSError as error:
        return error.errno
print(json.dumps({
    "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privs": status["NoNewPrivs"].strip(),
    "seccomp": int(status["Seccomp_filters"]) > 1,
    "uid": os.getuid(),
    "writable": [path for path in ("/", "/etc", "/usr", "/sfp-code", "/sfp-control", "/proc/sys/kernel", "/sys/fs/cgroup")
                 if os.access(path, os.W_OK)],
    "control": os.listdir("/sfp-control"),
    "first": [refused(lambda: open("/proc/1/" + name).read()) for name in ("environ", "maps", "fd/3")],
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
    "processes": sorted(int(pid) for pid in os.listdir("/proc") if pid.isdigit()) == [1, os.getpid()],
    "host": socket.gethostname(),
    "hosts": open("/etc/hosts").read().split(),
    "setuid": [path for path in (".", "/tmp", "/var/tmp", "/dev/shm") if os.statvfs(path).f_flag & os.ST_NOSUID == 0],
    "sizes": [os.statvfs(path).f_blocks * os.statvfs(path).f_frsize >> 20 for path in (".", "/tmp", "/var/tmp", "/dev/shm")],
    "mount": refused(lambda: os.chroot("/")),
}))
"""


async def test_the_walls_of_a_container(runtime):
    ended, seen = await run(runtime, python(WALLS))
    assert ended.code == 0, seen.text()
    found = json.loads(seen.text())
    assert found.pop("uid") >= 0x60000000
    assert found == {
        "capabilities": ["0000000000000000"] * 5,
        "no_new_privs": "1",
        "seccomp": True,
        "writable": [],
        "control": [],
        "first": [13, 13, 13],
        "interfaces": ["lo"],
        "processes": True,
        "host": "worker",
        "hosts": ["127.0.0.1", "localhost", "worker", "::1", "localhost"],
        "setuid": [],
        "sizes": [64, 64, 64, 64],
        "mount": 1,
    }


@pytest_asyncio.fixture(loop_scope="session")
async def greeter():
    """A TCP server on loopback that greets; yields its port."""
    server = await asyncio.start_server(lambda _, writer: (writer.write(b"hello"), writer.close()), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_the_profile_for_other_engines_leaves_the_gate_its_calls(made, greeter, tmp_path, monkeypatch):
    runtime = made(policy=EgressPolicy(allow=frozenset({f"127.0.0.1:{greeter}"})))
    await runtime.open()
    if runtime._prepared.about.name == "podman":  # it takes a profile as a file; the words are the same
        (tmp_path / "profile.json").write_text(containerspec.gate_profile())
        monkeypatch.setattr(containerspec, "gate_profile", lambda: str(tmp_path / "profile.json"))
        runtime._prepared = replace(runtime._prepared, about=replace(runtime._prepared.about, name="docker"))
    code = f"import os, socket; print(socket.create_connection(('127.0.0.1', {greeter})).recv(9)); os.chroot('/')"
    try:
        ended, seen = await run(runtime, python(code, network=Network.EGRESS))
        assert seen.text("stdout") == "b'hello'"
        assert "PermissionError" in seen.text("stderr")
        assert ended.code == 1
    finally:
        await runtime.close()


async def test_volumes_of_an_image_are_small_and_in_memory(made, engine):
    engines.make_image(engine, "localhost/sfp-volume:1", changes=["VOLUME /data"])
    runtime = made(image="localhost/sfp-volume:1")
    await runtime.open()
    try:
        _, seen = await run(runtime, workload("stat", "-f", "-c", "%T %b %S", "/data"))
        kind, blocks, size = seen.text().split()
        assert (kind, int(blocks) * int(size)) == ("tmpfs", 64 << 20)
    finally:
        await runtime.close()


async def test_a_private_directory_may_lie_deep(kind, folder):
    runtime = engines.runtime(None, EgressPolicy(), 0, scratch=folder / ("deep" * 20))
    await runtime.open()
    assert (await run(runtime, workload("true")))[0].code == 0
    await runtime.close()


async def test_nothing_of_a_container_remains(made, engine, folder):
    runtime = made()
    await runtime.open()
    await run(runtime, workload("true"))
    handle = await runtime.start(workload("sleep", "60"), Attendant())
    assert len(containers(engine, runtime)) >= 1
    await runtime.stop(handle)
    await runtime.close()
    assert containers(engine, runtime) == []
    assert list((folder / "other" / "containers").iterdir()) == []


CRASHES = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path[:0] = {path!r}
import engine
from sfp_server.runtimes.egress import EgressPolicy
from workers import Attendant, workload

async def main():
    runtime = engine.runtime(None, EgressPolicy(), 0, scratch=Path({folder!r}) / "other")
    await runtime.open()
    await runtime.start(workload("sleep", "7777"), Attendant())
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def test_what_a_crashed_dispatcher_leaves_is_removed_by_the_next(made, engine, folder):
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = CRASHES.format(path=path, folder=str(folder))
    crashed = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stderr=subprocess.DEVNULL)
    await asyncio.wait_for(crashed.wait(), 60)
    runtime = made()
    left = containers(engine, runtime)
    await runtime.open()
    running = await runtime.start(workload("sleep", "60"), Attendant())
    another = made()
    await another.open()  # of the same instance, while we run
    assert len(left) == 1
    assert containers(engine, runtime) == [json.loads(running)["group"]]
    await another.close()
    await runtime.close()


async def test_a_handle_reaches_no_container_that_is_not_ours(runtime, engine):
    """Handles come from rows of the database."""
    spec = {
        "Image": engines.IMAGE,
        "Entrypoint": ["/usr/bin/sleep"],
        "Cmd": ["60"],
        "HostConfig": {"NetworkMode": "none"},
    }
    spec["HostConfig"]["Mounts"] = [{"Type": "bind", "Source": "/usr", "Target": "/usr", "ReadOnly": True}]
    spec["HostConfig"]["Ulimits"] = [{"Name": name, "Soft": 1024, "Hard": 1024} for name in ("nofile", "nproc")]
    with engines.client(engine) as client:
        ident = client.post("/containers/create", json=spec).raise_for_status().json()["Id"]
        client.post(f"/containers/{ident}/start").raise_for_status()
        await runtime.stop(json.dumps({"runtime": "container", "processes": [[0, 0]], "group": ident}))
        state = client.get(f"/containers/{ident}/json").raise_for_status().json()["State"]
        client.delete(f"/containers/{ident}", params={"force": "true"})
    assert state["Running"]


async def test_a_task_is_ended_through_the_engine_by_a_dispatcher_that_comes_after(made, folder):
    """As when the process cannot be signalled, because the engine counts processes elsewhere."""
    before, after = made(), made()
    await before.open()
    await after.open()
    handle = await before.start(workload("sleep", "60"), Attendant())
    unseen = json.dumps({**json.loads(handle), "processes": [[0, 0]]})
    waiting = asyncio.create_task(after.wait(unseen))
    await after.stop(unseen)
    assert (await asyncio.wait_for(waiting, 20)).failure.code == "worker_lost"
    assert (await asyncio.wait_for(before.wait(handle), 20)).failure.code == "worker_lost"
    await after.close()
    await before.close()


async def test_an_engine_that_counts_elsewhere_tells_the_exit_itself(made, monkeypatch):
    monkeypatch.setattr("sfp_server.runtimes.container._peer", lambda _: 0)
    runtime = made()
    await runtime.open()
    try:
        for code in (0, 7):
            ended, _ = await run(runtime, workload("sh", "-c", f"exit {code}"))
            assert (ended.code, ended.failure) == (code, None)
        handle = await runtime.start(workload("sleep", "60"), Attendant())
        await runtime.stop(handle)
        assert (await runtime.wait(handle)).failure.code == "worker_lost"
    finally:
        await runtime.close()
