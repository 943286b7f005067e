"""A worker that has been handed a task is never used again, and nothing of a task is there for the next one.

The first task leaves a mark wherever it can: files, shared memory, queues, keys, names of sockets, processes that
outlive it, its host name, its memory. The second, in the next warm worker, looks for it; and root looks from outside at
the memory of everything that the second worker is made of. `process` is no isolation (docs/threat-model.md) and is
asked for less.
"""

import asyncio
import json
import secrets

import memory
import pytest
from workers import Attendant, python, run

from sfp_server.runtimes.base import Limits, Network

#: what the two tasks have in common: where a mark may be left
COMMON = r"""
import ctypes, os, socket, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
KEY = 0x5F9A77
FOLDERS = sorted({"/tmp", "/var/tmp", "/dev/shm", "/run", "/dev/mqueue", os.getcwd(), os.environ["HOME"], os.environ["TMPDIR"],
                  os.path.dirname(os.environ["SFP_RESULT"]), os.path.dirname(os.environ["HOME"]), "/", "/usr", "/sfp"})
"""

LEAVE = (
    COMMON
    + r"""
mark = sys.stdin.readline().strip()
left = []
for folder in FOLDERS:
    try:
        with open(folder + "/mark-" + mark, "w") as file:
            file.write(mark)
        left.append("file")
    except OSError:
        pass
os.environ["MARK"] = mark
number = libc.shmget(KEY, 8192, 0o1666)
if number >= 0:
    libc.shmat.restype = ctypes.c_void_p
    address = libc.shmat(number, None, 0)
    if address not in (None, 2**64 - 1):
        ctypes.memmove(address, mark.encode(), len(mark))
        left.append("shm")
if libc.semget(KEY, 1, 0o1666) >= 0: left.append("sem")
if libc.msgget(KEY, 0o1666) >= 0: left.append("msg")
if libc.mq_open(b"/sfp-mark", 0o102, 0o666, None) >= 0: left.append("mq")
if libc.syscall(248, b"user", b"sfp-mark", mark.encode(), len(mark), -5) > 0: left.append("key")
try:
    socket.sethostname("marked"); left.append("host")
except OSError:
    pass
memory = [bytearray(mark.encode() * 64) for _ in range(4000)]  # 16 MB: whatever is given back is given back with it
for _ in range(2):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for target in ("\0sfp-mark", ("127.0.0.1", 47653)):
                try:
                    listener = socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET)
                    listener.bind(target); listener.listen()
                except OSError:
                    pass
                else:
                    globals()["kept" + str(len(target))] = listener
            os.execv(sys.executable, ["python3", "-c", "import time; time.sleep(600)", "7777"])
        os._exit(0)
print("left", *sorted(set(left)), flush=True)
"""
)

LOOK = (
    COMMON
    + r"""
import glob
found = []
for folder in FOLDERS:
    found += glob.glob(folder + "/mark-*")
if "MARK" in os.environ: found.append("environment")
for name, number in (("shm", libc.shmget(KEY, 0, 0)), ("sem", libc.semget(KEY, 0, 0)), ("msg", libc.msgget(KEY, 0)),
                     ("mq", libc.mq_open(b"/sfp-mark", 0)), ("key", libc.syscall(249, b"user", b"sfp-mark", None, 0))):
    if number >= 0: found.append(name)
for kind, target in ((socket.AF_UNIX, "\0sfp-mark"), (socket.AF_INET, ("127.0.0.1", 47653))):
    try:
        socket.socket(kind).connect(target)
        found.append(str(target))
    except OSError:
        pass
if socket.gethostname() == "marked": found.append("host")
commands = [open(f"/proc/{pid}/cmdline").read() for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]
found += [f"process {command}" for command in commands if "7777" in command.split("\0")]
for name in ("/proc/net/unix", "/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg", "/proc/keys"):
    try:
        text = open(name).read()
    except OSError:
        continue
    if "sfp-mark" in text or str(KEY) in text: found.append(name)
print("open", *sorted(int(name) for name in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd/" + name)))
print("found", *found, flush=True)
sys.stdin.readline()
"""
)

WAIT = "import sys; print('up', flush=True); import time; time.sleep(600)"
SMALL = Limits(memory_mb=512, disk_mb=64, processes=64)


@pytest.fixture
def isolated(kind):
    if kind == "process":
        pytest.skip("a process is no isolation, and says so")


@pytest.mark.parametrize("network", list(Network))
async def test_what_one_task_leaves_the_next_does_not_find(isolated, make, network):
    runtime = await make(warm=2)
    mark = secrets.token_hex(16)
    first, seen = await run(runtime, python(LEAVE, stdin=mark + "\n", network=network))
    assert first.code == 0, seen.text()
    assert "file" in seen.text().split()  # it could leave something
    _, looked = await run(runtime, python(LOOK, network=network))
    found = [line for line in looked.text().splitlines() if line.startswith(("found", "open"))]
    assert found == ["open 0 1 2", "found"], looked.text()


async def test_nothing_of_a_task_is_in_the_memory_of_the_next_worker(isolated, make):
    runtime = await make(warm=2)
    mark = secrets.token_hex(16)
    first, seen = await run(runtime, python(LEAVE, stdin=mark + "\n"))
    assert first.code == 0, seen.text()
    _, pids = await started(runtime, argument := secrets.token_hex(8), up := Attendant())
    own, above = memory.family(argument)
    assert own, pids
    places = {process.pid: memory.holds(process.pid, mark.encode()) for process in [*own, *above]}
    assert {pid: where for pid, where in places.items() if where} == {}
    assert any(memory.holds(process.pid, argument.encode()) for process in own)  # we can see what is there
    assert "up" in up.text()
    await runtime.stop(pids)


async def started(runtime, argument, attendant):
    """A worker whose program runs, with `argument` in its argv; and its handle."""
    load = python(WAIT, limits=SMALL)
    load = type(load)(
        **{**{name: getattr(load, name) for name in load.__dataclass_fields__}, "argv": (*load.argv, argument)}
    )
    handle = await runtime.start(load, attendant)
    await attendant.saw("up")
    return load, handle


async def test_two_workers_share_no_page_that_was_not_there_before_both(isolated, make):
    """A page that two workers map is one that neither has written since it was made: their common origin maps it too."""
    if not memory.can_see_frames():
        pytest.skip("physical pages are not shown here")
    runtime = await make(warm=2)
    arguments = [secrets.token_hex(8) for _ in range(2)]
    handles = [(await started(runtime, argument, Attendant()))[1] for argument in arguments]
    families = [memory.family(argument) for argument in arguments]
    pages = [set().union(*(memory.frames(process.pid) for process in own)) for own, _ in families]
    origin = set().union(*(memory.frames(process.pid) for _, above in families for process in above))
    assert all(len(mine) > 100 for mine in pages)
    assert (pages[0] & pages[1]) - origin == set()
    for handle in handles:
        await runtime.stop(handle)


async def test_two_workers_hold_no_end_of_a_common_socket_or_pipe(isolated, make):
    runtime = await make(warm=2)
    arguments = [secrets.token_hex(8) for _ in range(2)]
    handles = [(await started(runtime, argument, Attendant()))[1] for argument in arguments]
    families = [memory.family(argument) for argument in arguments]
    ends = [set().union(*(memory.connections(process.pid) for process in own)) for own, _ in families]
    assert all(ends)
    assert ends[0] & ends[1] == set()
    for handle in handles:
        await runtime.stop(handle)


async def test_a_worker_that_had_a_task_never_has_another(kind, make):
    """A hundred tasks, one after the other and in pairs: as many workers."""
    runtime = await make(warm=2)
    count = 10 if kind == "container" else 100
    code = "import os; print(os.listdir(), os.listdir(os.environ['HOME'])); open('x', 'w')"

    async def one():
        seen = Attendant()
        handle = await runtime.start(python(code, limits=SMALL), seen)
        ended = await runtime.wait(handle)
        assert (ended.code, seen.text()) == (0, "[] []")
        return handle

    handles = [handle for _ in range(count // 2) for handle in await asyncio.gather(one(), one())]
    workers = {tuple(json.loads(handle)["processes"][-1]) for handle in handles}
    assert len(set(handles)) == count
    assert len(workers) == count or kind == "container"
