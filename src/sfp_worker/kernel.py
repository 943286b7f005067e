"""The few Linux calls that Python's standard library does not have."""

import ctypes
import os
import struct

from sfp_worker.signals import SIGCHLD as _SIGCHLD

_libc = ctypes.CDLL(None, use_errno=True)
#: without letting another thread run: after `clone` there is none
_libc_alone = ctypes.PyDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_PR_CAPBSET_DROP = 24
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64

#: CLONE_NEW…: the namespaces that a worker has of its own
NEW_CGROUP = 0x02000000
NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000  # mnt uts ipc user pid net
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_SLAVE_ALL = (1 << 19) | (1 << 14)

_SECCOMP_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
#: (kernel 5.19) a signal, such as those by which Go pre-empts, does not interrupt a waiting connect
_FLAG_WAIT_KILLABLE = 1 << 5


class _Numbers:
    """System call numbers of this machine's architecture."""

    def __init__(self, audit_arch: int, clone: int, connect: int, seccomp: int) -> None:
        self.audit_arch = audit_arch
        self.clone = clone
        self.connect = connect
        self.seccomp = seccomp


_NUMBERS = {
    "x86_64": _Numbers(0xC000003E, 56, 42, 317),
    "aarch64": _Numbers(0xC00000B7, 220, 203, 277),
}
_PIDFD_GETFD = 438  # the same on every architecture


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _numbers() -> _Numbers:
    found = _NUMBERS.get(os.uname().machine)
    if found is None:
        raise OSError(38, f"no system call numbers for {os.uname().machine}")
    return found


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def write(path: str, text: bytes) -> None:
    """Write to a file of /proc at once; a text file would import its codec, and copy 200 pages in a fork."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text)
    finally:
        os.close(descriptor)


def set_dumpable(on: bool) -> None:
    """Off: no process of the same user can trace this one or read its memory and descriptors."""
    _prctl(_PR_SET_DUMPABLE, int(on))


def set_no_new_privs() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become_subreaper() -> None:
    """Orphans among our descendants become our children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signal: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal)


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """Our own copy of another process's descriptor, closed on exec."""
    return _check(_libc.syscall(ctypes.c_long(_PIDFD_GETFD), pidfd, descriptor, 0))


def fork_into(namespaces: int) -> int:
    """`os.fork` into new namespaces: 0 in the child, which has every capability there and none here.

    The caller must have one thread only: nothing that other threads hold is released in the child.
    """
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    flags = ctypes.c_ulong(namespaces | _SIGCHLD)
    pid = _libc_alone.syscall(ctypes.c_long(_numbers().clone), flags, None, None, None, None)
    if pid == 0:
        python.PyOS_AfterFork_Child()
    else:
        python.PyOS_AfterFork_Parent()
    return _check(pid)


def unshare_if_possible(namespaces: int) -> bool:
    """Leave for new namespaces; False where the kernel has no such kind."""
    return _libc.unshare(namespaces) == 0


def mount(kind: bytes, target: bytes, flags: int, options: bytes) -> None:
    """A new file system of that kind on `target`."""
    _check(_libc.mount(kind, target, kind, ctypes.c_ulong(flags), options))


def stop_sharing_mounts() -> None:
    """No mount made from now on reaches another mount namespace."""
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_SLAVE_ALL), None))


def drop_capabilities() -> None:
    """Every capability, for good: what is executed later gets none back either."""
    for number in range(_CAPABILITIES):
        if _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), None, None, None) < 0:
            break  # beyond the last one that this kernel knows
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, bytes(24)))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(flags: int, program: bytes) -> int:
    prog = _Program(len(program) // 8, program)
    return _check(
        _libc.syscall(
            ctypes.c_long(_numbers().seccomp),
            ctypes.c_long(_SECCOMP_SET_MODE_FILTER),
            ctypes.c_long(flags),
            ctypes.byref(prog),
        )
    )


def load_filter(program: bytes) -> None:
    """Load a BPF program (struct sock_filter[]) for this process and all it starts."""
    _seccomp(0, program)


def _instruction(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jt, jf, k)


def connect_filter() -> bytes:
    """BPF that asks a supervisor about every `connect`; foreign system call tables do not exist."""
    numbers = _numbers()
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    errno_enosys = 0x00050000 | 38
    return b"".join(
        (
            _instruction(load, 4),  # seccomp_data.arch
            _instruction(equal, numbers.audit_arch, 1, 0),
            _instruction(answer, errno_enosys),
            _instruction(load, 0),  # seccomp_data.nr
            _instruction(at_least, 0x40000000, 2, 0),  # x32
            _instruction(equal, numbers.connect, 0, 2),
            _instruction(answer, 0x7FC00000),  # SECCOMP_RET_USER_NOTIF
            _instruction(answer, errno_enosys),
            _instruction(answer, 0x7FFF0000),  # SECCOMP_RET_ALLOW
        )
    )


def connect_listener() -> int:
    """Load `connect_filter` and return the descriptor on which its notifications arrive."""
    program = connect_filter()
    try:
        return _seccomp(_FLAG_NEW_LISTENER | _FLAG_WAIT_KILLABLE, program)
    except OSError as error:
        if error.errno != 22:
            raise
        return _seccomp(_FLAG_NEW_LISTENER, program)
