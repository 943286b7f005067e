"""Starts the program: fork, limits, filters, execve. Never a shell."""

import errno
import os
import resource
import signal
import socket
import struct
from collections.abc import Mapping, Sequence

from sfp_worker import kernel
from sfp_worker.failure import Failed

#: what the out-of-memory killer should take first, before the supervisor
OOM_SCORE = 700
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

#: (resource, soft and hard limit)
Limit = tuple[int, int]


class Launch:
    """How to start one program."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.stdin: bytes | None = None
        self.limits: Sequence[Limit] = ()
        #: BPF programs to load, in order
        self.filters: Sequence[bytes] = ()
        #: ask about every connect
        self.gated = False
        #: user and group to become; None: stay
        self.identity: int | None = None


class Child:
    """A started program: its pid, our ends of its pipes, the listener of its connects."""

    def __init__(self, pid: int, stdout: int, stderr: int, listener: int | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.listener = listener


def start(launch: Launch) -> Child:
    """Start it; returns once the kernel has accepted the program.

    Raises:
        Failed: `cannot_start`.
    """
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    fail_read, fail_write = os.pipe()
    mine, theirs = socket.socketpair() if launch.gated else (None, None)
    stdin = _stdin(launch.stdin)
    pid = os.fork()
    if pid == 0:
        _become(launch, (stdin, out_write, err_write), fail_write, theirs)
    for descriptor in (stdin, out_write, err_write, fail_write):
        os.close(descriptor)
    listener = None
    if mine is not None and theirs is not None:
        theirs.close()
        listener = _receive_listener(mine)
    with open(fail_read, "rb") as pipe:
        failure = pipe.read(8)
    if failure:
        os.waitpid(pid, 0)
        for descriptor in (out_read, err_read, *([listener] if listener is not None else [])):
            os.close(descriptor)
        raise _cannot_start(launch, *struct.unpack("ii", failure))
    return Child(pid, out_read, err_read, listener)


def _receive_listener(mine: socket.socket) -> int | None:
    with mine:
        _, descriptors, _, _ = socket.recv_fds(mine, 1, 1)
    if not descriptors:
        return None  # the child says why on the other pipe
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _stdin(text: bytes | None) -> int:
    """A descriptor to read `text` from: in memory, so that nobody has to pump it."""
    if text is None:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    memory = os.memfd_create("stdin", os.MFD_CLOEXEC)
    with open(memory, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(memory, 0, os.SEEK_SET)
    return memory


_STEP_SETUP, _STEP_CHDIR, _STEP_EXEC = range(3)


def _become(launch: Launch, streams: tuple[int, int, int], fail: int, gate: socket.socket | None) -> None:
    """In the child: become the program, or say why not. Does not return."""
    step = _STEP_SETUP
    try:
        os.setsid()
        for target, source in enumerate(streams):
            os.dup2(source, target)
        # Python ignores these two; a program expects their default.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        _raise_oom_score()
        if launch.identity is not None:
            os.setgroups([])
            os.setresgid(launch.identity, launch.identity, launch.identity)
            os.setresuid(launch.identity, launch.identity, launch.identity)
        step = _STEP_CHDIR
        os.chdir(launch.cwd)
        step = _STEP_SETUP
        for number, value in launch.limits:
            resource.setrlimit(number, (value, value))
        for program in launch.filters:
            kernel.load_filter(program)
        if gate is not None:
            socket.send_fds(gate, [b"g"], [kernel.connect_listener()])
        step = _STEP_EXEC
        os.execvpe(launch.argv[0], list(launch.argv), dict(launch.env))  # noqa: S606 (no shell is the point)
    except OSError as error:
        os.write(fail, struct.pack("ii", step, error.errno or 0))
    except BaseException:
        os.write(fail, struct.pack("ii", step, errno.EINVAL))
    os._exit(127)


def _raise_oom_score() -> None:
    # We are not dumpable until exec, so our own /proc files belong to root; nobody else runs yet.
    kernel.set_dumpable(True)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(OOM_SCORE))
    except OSError:
        return  # no /proc to write to: the kernel then judges by size alone


def _cannot_start(launch: Launch, step: int, code: int) -> Failed:
    if step == _STEP_EXEC:
        return Failed("cannot_start", f"cannot start {launch.argv[0]!r}: {os.strerror(code)}")
    what = "enter the workdir" if step == _STEP_CHDIR else "set up the program's limits"
    return Failed("cannot_start", f"cannot {what}: {os.strerror(code)}")
