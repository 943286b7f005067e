"""The few Linux calls that Python's standard library does not have."""

import ctypes
import os
import struct

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_SECCOMP_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
#: (kernel 5.19) a signal, such as those by which Go pre-empts, does not interrupt a waiting connect
_FLAG_WAIT_KILLABLE = 1 << 5


class _Numbers:
    """System call numbers of this machine's architecture."""

    def __init__(self, audit_arch: int, connect: int, seccomp: int) -> None:
        self.audit_arch = audit_arch
        self.connect = connect
        self.seccomp = seccomp


_NUMBERS = {
    "x86_64": _Numbers(0xC000003E, 42, 317),
    "aarch64": _Numbers(0xC00000B7, 203, 277),
}
_PIDFD_GETFD = 438  # the same on every architecture


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


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


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _seccomp(flags: int, program: bytes) -> int:
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None:
        raise OSError(38, f"no system call numbers for {os.uname().machine}")
    prog = _Program(len(program) // 8, program)
    return _check(
        _libc.syscall(
            ctypes.c_long(numbers.seccomp),
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
    numbers = _NUMBERS[os.uname().machine]
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
