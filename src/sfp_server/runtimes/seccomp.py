"""The system calls that no worker may make, as a BPF program for bubblewrap (or for the worker itself).

A deny-list in the manner of Docker's and Flatpak's: what reaches into the kernel's less walked parts,
changes namespaces or mounts, looks into other processes, or goes around the connect gate (io_uring,
MSG_FASTOPEN). Numbers are compared in 32 bits where the kernel reads 32, else high bits would pass by.
"""

import errno
import os
from typing import Any

DENIED = (  # noqa: SIM905 (as people read such lists)
    # mounts and namespaces
    "mount umount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr "
    "unshare setns chroot "
    # keys, tracing, other processes
    "keyctl add_key request_key ptrace process_vm_readv process_vm_writev process_madvise kcmp "
    "perf_event_open bpf userfaultfd lookup_dcookie fanotify_init "
    # ways around path and connect checks
    "open_by_handle_at io_uring_setup io_uring_enter io_uring_register "
    # the machine
    "kexec_load kexec_file_load init_module finit_module delete_module create_module get_kernel_syms "
    "query_module nfsservctl acct swapon swapoff reboot syslog quotactl quotactl_fd uselib _sysctl sysfs "
    "iopl ioperm vm86 vm86old vhangup settimeofday stime clock_settime clock_adjtime adjtimex sethostname "
    "setdomainname move_pages migrate_pages"
).split()

_CLONE_NEW = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_LOW = 0xFFFFFFFF
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_MSG_FASTOPEN = 0x20000000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C


def program(*, internet: str = "all") -> bytes:
    """The filter as `struct sock_filter[]`.

    `internet` is for workers without a network namespace of their own: `none` refuses every internet
    socket, `tcp` all but TCP (a UDP socket can send without connecting), `all` leaves it to the namespace.

    Raises:
        OSError: libseccomp is not there or refuses.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise OSError(f"libseccomp cannot be used: {error}") from error
    rules: Any = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in DENIED:
        _add(rules, refuse, name)
    _add(rules, pyseccomp.ERRNO(errno.ENOSYS), "clone3")  # its flags are in memory: libc falls back to clone
    low, argument = pyseccomp.MASKED_EQ, pyseccomp.Arg
    for flag in _CLONE_NEW:
        _add(rules, refuse, "clone", argument(0, low, flag, flag))
    _add(rules, refuse, "personality", argument(0, pyseccomp.NE, _LOW))
    for request in (_TIOCSTI, _TIOCLINUX):
        _add(rules, refuse, "ioctl", argument(1, low, _LOW, request))
    _add(rules, refuse, "ioctl", argument(1, low, 0xFFFFFF00, 0x8900))  # interfaces of a handed-in socket
    for name, position in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        _add(rules, refuse, name, argument(position, low, _MSG_FASTOPEN, _MSG_FASTOPEN))
    _restrict_sockets(rules, pyseccomp, internet)
    return _exported(rules)


def _restrict_sockets(rules: Any, seccomp: Any, internet: str) -> None:
    unknown, refuse = seccomp.ERRNO(errno.EAFNOSUPPORT), seccomp.ERRNO(errno.EACCES)
    argument = seccomp.Arg
    for family in range(_AF_NETLINK):
        if family not in {_AF_UNIX, _AF_INET, _AF_INET6}:
            _add(rules, unknown, "socket", argument(0, seccomp.EQ, family))
    _add(rules, unknown, "socket", argument(0, seccomp.GT, _AF_NETLINK))
    _add(rules, unknown, "socket", argument(0, seccomp.EQ, _AF_NETLINK), argument(2, seccomp.NE, 0))
    for family in (_AF_INET, _AF_INET6):
        if internet == "none":
            _add(rules, refuse, "socket", argument(0, seccomp.EQ, family))
        elif internet == "tcp":
            for kind in (2, 3, 4, 5, 6):  # all but SOCK_STREAM
                masked = argument(1, seccomp.MASKED_EQ, 0xF, kind)
                _add(rules, refuse, "socket", argument(0, seccomp.EQ, family), masked)


def _add(rules: Any, action: int, name: str, *arguments: Any) -> None:
    try:
        rules.add_rule(action, name, *arguments)
    except (OSError, ValueError) as error:
        if not _is_unknown(name):
            raise OSError(f"seccomp rule for {name} cannot be made: {error}") from error


def _is_unknown(name: str) -> bool:
    """Whether this libseccomp or architecture has no such call, which then cannot be made either."""
    import pyseccomp

    resolve: Any = pyseccomp.resolve_syscall
    try:
        return int(resolve(pyseccomp.system_arch(), name)) < 0
    except (OSError, ValueError):
        return True


def _exported(rules: Any) -> bytes:
    descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with open(descriptor, "w+b") as file:  # noqa: PTH123 (a descriptor)
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def has_user_notification() -> bool:
    """Whether the kernel can ask a supervisor about system calls (5.0; with handed-in sockets 5.9)."""
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail", encoding="ascii") as file:  # noqa: PTH123
            available = file.read().split()
    except OSError:
        return False
    release = tuple(int(part) for part in os.uname().release.split(".")[:2] if part.isdigit())
    return "user_notif" in available and release >= (5, 9)
