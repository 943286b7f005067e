"""One runtime of each kind, with a private scratch directory and no warm workers unless a test asks."""

from pathlib import Path
import tempfile

import pytest

from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.process import ProcessRuntime
from sfp_server.runtimes.sandbox import SandboxRuntime

RUNTIMES = {"sandbox": SandboxRuntime, "process": ProcessRuntime}


@pytest.fixture
def folder():
    """Short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sfp") as path:
        yield Path(path)


@pytest.fixture(params=list(RUNTIMES))
def kind(request):
    return request.param


@pytest.fixture
async def make(kind, folder):
    """Makes open runtimes of one kind, and closes them."""
    opened = []

    async def make_runtime(allow=(), warm=0):
        policy = EgressPolicy(allow=frozenset(allow))
        runtime = RUNTIMES[kind](folder / "broker", policy, warm, scratch=folder / "scratch")
        await runtime.open()
        opened.append(runtime)
        return runtime

    yield make_runtime
    for runtime in opened:
        await runtime.close()


@pytest.fixture
async def runtime(make):
    return await make()
