"""Starts the program: fork, limits, filters, execve. Never a shell."""

from __future__ import annotations

import errno
import os
import resource
import struct
from _socket import socketpair

from sfp_worker import kernel
from sfp_worker.control import receive_with_descriptors, send_descriptor
from sfp_worker.failure import Failed
from sfp_worker.signals import SIG_DFL, SIGKILL, SIGPIPE, SIGXFSZ, handle

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Mapping, Sequence

#: what the out-of-memory killer should take first, before the supervisor
OOM_SCORE = b"700"
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"

#: signals that stay ignored in a program unless reset
IGNORED_BY_PYTHON = (SIGPIPE, SIGXFSZ)

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
    streams = (_stdin(launch.stdin), out_write, err_write)
    try:
        special = launch.gated or launch.filters
        pid, listener = _fork(launch, streams) if special else (_spawn(launch, streams), None)
    except Failed:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        for descriptor in streams:
            os.close(descriptor)
    _raise_oom_score(pid)
    return Child(pid, out_read, err_read, listener)


def _spawn(launch: Launch, streams: tuple[int, int, int]) -> int:
    """The short way, 3 ms less than fork: the child shares our memory until it is the program.

    So directory and limits cannot be set in between; we take them on ourselves, who serve one job only.
    """
    try:
        os.chdir(launch.cwd)
    except OSError as error:
        raise _cannot_start(launch, _STEP_CHDIR, error.errno or 0) from error
    try:
        for number, value in launch.limits:
            resource.setrlimit(number, (value, value))
    except (OSError, ValueError) as error:
        raise _cannot_start(launch, _STEP_SETUP, getattr(error, "errno", 0)) from error
    try:
        return os.posix_spawn(
            _program(launch),
            list(launch.argv),
            dict(launch.env),
            file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(streams)],
            setsid=True,
            setsigdef=IGNORED_BY_PYTHON,
        )
    except OSError as error:
        raise _cannot_start(launch, _STEP_EXEC, error.errno or 0) from error


def _program(launch: Launch) -> str:
    """What to execute: looked up on the PATH that the program gets, not on ours.

    Raises:
        FileNotFoundError: there is no such program.
    """
    name = launch.argv[0]
    if "/" in name:
        return name
    failure: OSError = FileNotFoundError(errno.ENOENT, "not found")
    for folder in launch.env.get("PATH", DEFAULT_PATH).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
        if os.path.isfile(path):
            failure = PermissionError(errno.EACCES, "not executable")
    raise failure


def _fork(launch: Launch, streams: tuple[int, int, int]) -> tuple[int, int | None]:
    """The long way, with filters or the gate: (pid, listener of its connects)."""
    fail_read, fail_write = os.pipe()
    mine, theirs = socketpair() if launch.gated else (None, None)
    pid = os.fork()
    if pid == 0:
        _become(launch, streams, fail_write, theirs)
    os.close(fail_write)
    listener = None
    if mine is not None and theirs is not None:
        theirs.close()
        listener = _receive_listener(mine)
    with open(fail_read, "rb") as pipe:
        failure = pipe.read(8)
    if failure:
        os.waitpid(pid, 0)
        if listener is not None:
            os.close(listener)
        raise _cannot_start(launch, *struct.unpack("ii", failure))
    return pid, listener


def _receive_listener(mine: socket) -> int | None:
    _, descriptors = receive_with_descriptors(mine, 1)
    mine.close()
    return descriptors[0] if descriptors else None  # without: the child says why on the other pipe


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


def _become(launch: Launch, streams: tuple[int, int, int], fail: int, gate: socket | None) -> None:
    """In the child: become the program, or say why not. Does not return."""
    step = _STEP_SETUP
    try:
        os.setsid()
        kernel.die_with_parent(SIGKILL)  # where no namespace ends it with us
        for target, source in enumerate(streams):
            os.dup2(source, target)
        for number in IGNORED_BY_PYTHON:
            handle(number, SIG_DFL)
        step = _STEP_CHDIR
        os.chdir(launch.cwd)
        step = _STEP_SETUP
        for number, value in launch.limits:
            resource.setrlimit(number, (value, value))
        for program in launch.filters:
            kernel.load_filter(program)
        if gate is not None:
            send_descriptor(gate, kernel.connect_listener())
        step = _STEP_EXEC
        os.execve(_program(launch), list(launch.argv), dict(launch.env))  # noqa: S606 (no shell is the point)
    except OSError as error:
        os.write(fail, struct.pack("ii", step, error.errno or 0))
    except BaseException:
        os.write(fail, struct.pack("ii", step, errno.EINVAL))
    os._exit(127)


def _raise_oom_score(pid: int) -> None:
    try:
        kernel.write(f"/proc/{pid}/oom_score_adj", OOM_SCORE)
    except OSError:
        return  # ended already, or another user's: the kernel then judges by size alone


def _cannot_start(launch: Launch, step: int, code: int) -> Failed:
    if step == _STEP_EXEC:
        return Failed("cannot_start", f"cannot start {launch.argv[0]!r}: {os.strerror(code)}")
    what = "enter the workdir" if step == _STEP_CHDIR else "set up the program's limits"
    return Failed("cannot_start", f"cannot {what}: {os.strerror(code)}")
