"""What a hostile program in a sandbox tries, and does not get."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "conformance"))

from workers import Attendant, broker, python, run, secret, workload

from sfp_server.runtimes.base import Limits, Network
from sfp_server.runtimes.cgroups import Cgroups
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.sandbox import SandboxRuntime


@pytest.fixture
async def runtime():
    with tempfile.TemporaryDirectory(prefix="sfp") as folder:
        runtime = SandboxRuntime(Path(folder) / "broker", EgressPolicy(), 0, scratch=Path(folder) / "scratch")
        runtime.folder = Path(folder)
        await runtime.open()
        yield runtime
        await runtime.close()


CALLS = """
import ctypes, os, errno, socket, fcntl, termios
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_ulong(a) for a in args])
    print(name, errno.errorcode.get(ctypes.get_errno(), "OK") if result < 0 else "OK")
call("mount", 165, 0, 0, 0, 0, 0)
call("umount2", 166, 0, 0)
call("pivot_root", 155, 0, 0)
call("unshare", 272, 0x10000000)
call("setns", 308, 0, 0)
call("clone", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, 0, 0)
call("keyctl", 250, 0, 0)
call("bpf", 321, 0, 0, 0)
call("perf_event_open", 298, 0, 0, 0, 0, 0)
call("userfaultfd", 323, 0)
call("io_uring_setup", 425, 1, 0)
call("ptrace", 101, 0, 0, 0, 0)
call("process_vm_readv", 310, 1, 0, 0, 0, 0, 0)
call("open_by_handle_at", 304, 0, 0, 0)
call("fsopen", 430, 0, 0)
call("move_mount", 429, 0, 0, 0, 0, 0)
call("personality", 135, 0x0400000)
call("tiocsti", 16, 0, 0x5412, 0)
call("tiocsti_high", 16, 0, 0x100005412, 0)
call("siocgifconf", 16, 0, 0x8912, 0)
call("fastopen", 44, 0, 0, 0, 0x20000000, 0, 0)
call("packet", 41, 17, 3, 0)
call("packet_high", 41, 0x100000011, 3, 0)
call("vsock", 41, 40, 1, 0)
call("netlink_audit", 41, 16, 3, 9)
call("netlink_route", 41, 16, 3, 0)
call("personality_query", 135, 0xffffffff)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are this architecture's")
async def test_system_calls_that_a_worker_may_not_make(runtime):
    _, seen = await run(runtime, python(CALLS))
    answers = dict(line.split() for line in seen.text("stdout").splitlines())
    expected = dict.fromkeys(answers, "EPERM") | {
        "clone3": "ENOSYS",
        "packet": "EAFNOSUPPORT",
        "packet_high": "EAFNOSUPPORT",
        "vsock": "EAFNOSUPPORT",
        "netlink_audit": "EAFNOSUPPORT",
        "netlink_route": "OK",
        "personality_query": "OK",
    }
    assert len(answers) == 28
    assert answers == expected


async def test_the_file_system_is_read_only_but_for_one_bounded_place(runtime):
    code = """
for place in / /usr /etc /dev /sfp /sfp/sfp_worker /run /var /proc; do
  (: > $place/x) 2>/dev/null && echo "wrote $place"
done
head -c 100000000 /dev/zero > /dev/shm/big 2>/dev/null; stat -c %s /dev/shm/big
rm /dev/shm/big; head -c 100000000 /dev/zero > /tmp/big 2>/dev/null; stat -c %s /tmp/big; rm /tmp/big
"""
    _, seen = await run(runtime, workload("sh", "-c", code, limits=Limits(memory_mb=512, disk_mb=16, processes=64)))
    shm, tmp = (int(line) for line in seen.text().splitlines())
    assert shm <= 64 << 20
    assert tmp <= 16 << 20


async def test_the_hosts_files_are_not_in_sight(runtime):
    code = "ls -A / /etc /home /root /mnt /work /opt /srv /var/lib 2>/dev/null; cat /etc/shadow /etc/passwd 2>/dev/null"
    _, seen = await run(runtime, workload("sh", "-c", code))
    words = set(seen.text().split())
    assert not words & {"root", "home", "work", "shadow", "ssh", "opt", "mnt", "srv"}
    assert "root:" not in seen.text()


async def test_no_other_process_is_in_sight(runtime):
    _, seen = await run(runtime, python("import os; print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()))"))
    assert json.loads(seen.text()) in ([1, 2], [1, 3])


async def test_no_environment_of_the_host_is_in_sight(runtime, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    code = "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'"
    _, seen = await run(runtime, workload("sh", "-c", code))
    assert "postgresql" not in seen.text()
    assert str(runtime.folder) not in seen.text()


ATTACK = """
import os, signal
def attempt(name, action):
    try:
        action()
        print(name, "worked")
    except OSError as error:
        print(name, type(error).__name__)
for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGSEGV):
    os.kill(1, number)
attempt("mem", lambda: open("/proc/1/mem", "rb"))
attempt("environ", lambda: open("/proc/1/environ", "rb").read())
attempt("fds", lambda: os.listdir("/proc/1/fd"))
attempt("root", lambda: os.listdir("/proc/1/root"))
attempt("maps", lambda: open("/proc/1/maps").read())
print("alive")
"""


async def test_the_supervisor_cannot_be_killed_or_read(runtime):
    async with broker(runtime.folder / "broker", secret("hunter2hunter2")):
        ended, seen = await run(runtime, python(ATTACK), Attendant("ticket"))
    assert (ended.code, ended.failure) == (0, None)
    assert "worked" not in seen.text()
    assert seen.text().endswith("alive")


async def test_a_secret_is_in_no_argv_and_no_environment_of_the_host(runtime):
    seen = Attendant("ticket-abcdef")
    async with broker(runtime.folder / "broker", secret("hunter2hunter2")):
        program_text = 'import time; print("up", flush=True); time.sleep(60.4217)'
        handle = await runtime.start(python(program_text), seen)
        await seen.saw("up")
        program = next(p for p in psutil.process_iter(["cmdline"]) if program_text in (p.info["cmdline"] or ()))
        family = [program, *program.parents()]
        outside = [p for p in psutil.process_iter() if p != program]
        for process in outside:
            for name in ("cmdline", "environ"):
                text = read(f"/proc/{process.pid}/{name}")
                assert b"hunter2" not in text
                assert b"ticket-abcdef" not in text
        assert len(family) > 2
        await runtime.stop(handle)
    assert "hunter2" not in handle


def read(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


async def test_core_files_are_not_written(runtime):
    code = "import os, signal, subprocess; subprocess.run(['sh', '-c', 'kill -SEGV $$']); print(os.listdir('.'))"
    _, seen = await run(runtime, python(code))
    assert seen.text() == "[]"


async def test_no_capability_and_no_new_privileges(runtime):
    _, seen = await run(runtime, workload("sh", "-c", "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; ulimit -c"))
    lines = dict(line.split(":\t") for line in seen.text().splitlines()[:-1])
    assert {lines[name] for name in lines if name.startswith("Cap")} == {"0" * 16}
    assert (lines["NoNewPrivs"], lines["Seccomp"], seen.text().splitlines()[-1]) == ("1", "2", "0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's dispatcher can become nobody")
async def test_on_the_host_a_worker_is_nobody(runtime):
    seen = Attendant()
    handle = await runtime.start(workload("sh", "-c", "echo up; sleep 60.4217"), seen)
    await seen.saw("up")
    pid, _ = json.loads(handle)["processes"][-1]
    assert psutil.Process(pid).uids().real == 65534
    await runtime.stop(handle)


async def test_udp_leads_nowhere(runtime):
    code = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for action in (lambda: s.sendto(b"x", ("1.1.1.1", 53)), lambda: s.connect(("1.1.1.1", 53))):
    try:
        action(); print("sent")
    except OSError as error:
        print("refused")
"""
    for network in Network:
        _, seen = await run(runtime, python(code, network=network))
        assert seen.text() == "refused\nrefused"


async def test_a_connected_socket_cannot_be_turned_against_the_host(runtime):
    """The socket handed in lives in the host's network: it must not become a listener, nor connect anew."""
    greeted = asyncio.Event()

    async def greet(_, writer):
        greeted.set()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    code = f"""
import ctypes, os, socket
s = socket.socket(); s.connect(("127.0.0.1", {port})); s.recv(1); s.shutdown(socket.SHUT_WR)
libc = ctypes.CDLL(None, use_errno=True)
unspecified = (ctypes.c_char * 16)()
print(libc.connect(s.fileno(), unspecified, 16))
def attempt(name, action):
    try:
        action(); print(name, "worked")
    except OSError:
        print(name, "refused")
attempt("listen", lambda: s.listen(1))
attempt("again", lambda: s.connect(("127.0.0.1", 1)))
attempt("fastopen", lambda: s.sendto(b"x", 0x20000000, ("127.0.0.1", {port})))
"""
    open_to = SandboxRuntime(
        None, EgressPolicy(allow=frozenset({f"127.0.0.1:{port}"})), 0, scratch=runtime.folder / "o"
    )
    await open_to.open()
    _, seen = await run(open_to, python(code, network=Network.EGRESS))
    await open_to.close()
    server.close()
    assert seen.text("stdout").splitlines() == ["-1", "listen refused", "again refused", "fastopen refused"]
    assert greeted.is_set()


async def test_without_cgroups_rlimits_hold(runtime):
    runtime._cgroups = Cgroups(version="none", notes=("switched off for a test",))
    limits = Limits(memory_mb=200, disk_mb=16, processes=20)
    forks = "import os, time\nn = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\nexcept OSError: print(n)"
    _, seen = await run(runtime, python(forks, limits=limits))
    assert 5 < int(seen.text()) <= 20
    hog = "x = []\nwhile True: x.append(bytearray(8 << 20))"
    ended, _ = await run(runtime, python(hog, limits=limits))
    assert ended.failure.code == "out_of_memory" or "MemoryError" in _.text()
    assert "RLIMIT" in runtime.isolation()["process count"]


@pytest.mark.parametrize("victim", ["outer", "inner"])
async def test_whoever_is_killed_the_worker_is_lost_and_gone(runtime, victim):
    seen = Attendant()
    handle = await runtime.start(workload("sh", "-c", "echo up; exec sleep 7654"), seen)
    await seen.saw("up")
    pids = [pid for pid, _ in json.loads(handle)["processes"]]
    os.kill(pids[0] if victim == "outer" else pids[-1], signal.SIGKILL)
    ended = await asyncio.wait_for(runtime.wait(handle), 2)
    assert ended.failure.code == "worker_lost"
    assert not [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", "7654"]]


@pytest.mark.parametrize(
    "argv",
    [
        ["git", "--version"],
        ["python3", "-c", "import ssl, ctypes, multiprocessing; multiprocessing.Pool(2).map(len, ['ab'])"],
        ["node", "-e", "require('child_process').execSync('true'); require('os').networkInterfaces()"],
        ["perl", "-e", "print 1"],
        ["sh", "-c", "printf x | gzip | gunzip | sed s/x/y/ | grep y; getent passwd worker; date; id"],
    ],
    ids=lambda argv: argv[0],
)
async def test_ordinary_programs_work(runtime, argv):
    ended, seen = await run(runtime, workload(*argv, limits=Limits(memory_mb=2048, disk_mb=64, processes=128)))
    assert ended.code == 0, seen.text()


async def test_an_extra_authority_is_among_the_certificates(runtime):
    extra = runtime.folder / "extra.pem"
    extra.write_text("-----BEGIN CERTIFICATE-----\nEXTRA\n-----END CERTIFICATE-----\n")
    other = SandboxRuntime(None, EgressPolicy(), 0, scratch=runtime.folder / "o", extra_ca_file=extra)
    await other.open()
    _, seen = await run(other, workload("sh", "-c", "tail -2 /etc/ssl/certs/ca-certificates.crt | head -1"))
    await other.close()
    assert seen.text() == "EXTRA"
