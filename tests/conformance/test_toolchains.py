"""Toolchains: what a worker that needs one finds, and that no other worker does."""

import json
import tempfile
from pathlib import Path

import pytest
from workers import RUNTIMES, Attendant, run, workload

from sfp_server.runtimes import toolchains
from sfp_server.runtimes.base import RuntimeUnavailable
from sfp_server.runtimes.egress import EgressPolicy

TOOL = "#!/bin/sh\necho tool of $TOOL_HOME\n"


def installed(folder, name, **description):
    home = folder / "toolchains" / name
    (home / "bin").mkdir(parents=True)
    tool = home / "bin" / f"{name}-tool"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    about = {"version": "1.2.3", "path": ["bin"], "env": {"TOOL_HOME": "{toolchain}/home"}} | description
    (home / "toolchain.json").write_text(json.dumps(about))
    return home


@pytest.fixture(scope="session")
def tools():
    """Outside of pytest's own folder: workers of a dispatcher that is root are nobody."""
    with tempfile.TemporaryDirectory(prefix="sfp-tools") as path:
        folder = Path(path)
        folder.chmod(0o755)
        installed(folder, "alpha")
        installed(folder, "beta", version="2.0.0")
        yield toolchains.find(folder / "toolchains") | {"git": toolchains.Toolchain(name="git", version="2")}


@pytest.fixture
def made_with(folder, kind, opened, tools):
    """Gives open runtimes of one kind with these toolchains."""
    if kind == "container":
        pytest.skip("a container's toolchain is its image")

    async def make(warm=0):
        key = kind, "tools", warm
        if key not in opened:
            opened[key] = RUNTIMES[kind](
                folder / "broker", EgressPolicy(), warm, scratch=folder / "scratch", toolchains=tools
            )
            await opened[key].open()
        return opened[key]

    return make


@pytest.mark.parametrize("warm", [0, 1])
async def test_a_worker_finds_the_toolchain_that_its_task_needs_and_no_other(made_with, warm):
    runtime = await made_with(warm)
    for name in ("alpha", "beta"):
        for _ in range(2):
            ended, seen = await run(runtime, workload(f"{name}-tool", toolchain=name), Attendant())
            assert (ended.code, ended.failure) == (0, None), (ended, seen.text())
            assert seen.text().startswith("tool of /")
            assert seen.text().endswith("/home")
        ended, _ = await run(runtime, workload(f"{name}-tool"), Attendant())
        assert ended.failure.code == "cannot_start"
    ended, _ = await run(runtime, workload("beta-tool", toolchain="alpha"), Attendant())
    assert ended.failure.code == "cannot_start"


async def test_nobody_can_write_to_a_toolchain(made_with, tools):
    runtime = await made_with()
    ended, _ = await run(runtime, workload("sh", "-c", "echo x > ${TOOL_HOME%/home}/bin/new", toolchain="alpha"))
    assert ended.code != 0
    assert [path.name for path in (tools["alpha"].folder / "bin").iterdir()] == ["alpha-tool"]


async def test_a_toolchain_that_is_not_there_is_said_so(made_with):
    runtime = await made_with()
    with pytest.raises(RuntimeUnavailable, match="gamma is not installed on this machine"):
        await runtime.start(workload("true", toolchain="gamma"), Attendant())


async def test_one_that_is_part_of_the_system_needs_nothing(made_with):
    runtime = await made_with()
    ended, seen = await run(runtime, workload("git", "--version", toolchain="git"))
    assert ended.code == 0
    assert "git version" in seen.text()


@pytest.mark.parametrize(
    "wrong",
    [
        {"path": ["/usr/bin"]},
        {"path": ["../other"]},
        {"path": ["a:b"]},
        {"env": {"PATH": "x"}},
        {"env": {"SFP_RESULT": "x"}},
        {"env": {"A B": "x"}},
        {"version": None},
        {"unknown": 1},
    ],
)
def test_one_that_is_described_wrongly_is_left_out(wrong):
    with tempfile.TemporaryDirectory(prefix="sfp-tools") as path:
        folder = Path(path)
        folder.chmod(0o755)
        installed(folder, "good")
        installed(folder, "wrong", **wrong)
        assert toolchains.versions(toolchains.find(folder / "toolchains")) == {"good": "1.2.3"}


def test_none_are_none(tmp_path):
    assert toolchains.find(tmp_path / "nowhere") == {}
