"""One runtime of each kind, with a private scratch directory and no warm workers unless a test asks."""

import inspect
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio
from workers import RUNTIMES

import engine as engines
from sfp_server.runtimes.egress import EgressPolicy


def pytest_collection_modifyitems(items):
    """All on one event loop, so that runtimes can be kept open from test to test."""
    for item in items:
        if item.path.parent == Path(__file__).parent and inspect.iscoroutinefunction(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if item.path.name == "test_container.py" or _kind(item) == "container":
            item.add_marker(pytest.mark.container)


def _kind(item):
    call = getattr(item, "callspec", None)
    return None if call is None else call.params.get("kind")


@pytest.fixture(scope="session")
def folder():
    """Short enough for a unix socket."""
    with tempfile.TemporaryDirectory(prefix="sfp") as path:
        yield Path(path)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def opened(folder):
    """Runtimes by what they were made with: to open one takes longer than most tests."""
    runtimes = {}
    yield runtimes
    for runtime in runtimes.values():
        await runtime.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine(opened):
    """The socket of a private container engine; also in the environment, for our own child processes."""
    if why := engines.missing():
        pytest.skip(why)
    with engines.engine() as socket:
        yield socket
        for key in [key for key in opened if key[0] == "container"]:
            await opened.pop(key).close()


@pytest.fixture(params=list(RUNTIMES))
def kind(request):
    if request.param == "container":
        request.getfixturevalue("engine")
    return request.param


@pytest.fixture
def make(kind, folder, opened):
    """Gives open runtimes of one kind."""

    async def make_runtime(allow=(), warm=0, *, fresh=False):
        policy = EgressPolicy(allow=frozenset(allow))
        key = (kind, policy, warm)
        if fresh or key not in opened:
            runtime = RUNTIMES[kind](folder / "broker", policy, warm, scratch=folder / "scratch")
            await runtime.open()
            if fresh:
                return runtime
            opened[key] = runtime
        return opened[key]

    return make_runtime


@pytest_asyncio.fixture(loop_scope="session")
async def runtime(make):
    return await make()
