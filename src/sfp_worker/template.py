"""A process that has done nothing but import this package, and forks workers into namespaces of their own.

    order {disk_bytes} + [control socket, cgroup files…] → fork into new namespaces → the life of a
    worker (supervisor.py) … its exit status → ended {id, status}

To start Python and build a sandbox takes 30 ms; to fork one that is there takes 3. A template runs in a
sandbox itself (bubblewrap's, in which nothing is writable), as process 1: when it dies, the kernel ends all
of its workers. It has seen no job, secret or file of any team, and nothing ever comes back into it: what a
worker changes in its memory is its own copy. See docs/decisions/0013-template-workers.md.
"""

from __future__ import annotations

import gc
import json  # pyright: ignore[reportUnusedImport]  # noqa: F401 (as below)
import os
import select
from _socket import AF_UNIX, SOCK_SEQPACKET, socket

# Imported here, once, so that no worker has to; `archive` is not, its imports would make every fork dearer.
from sfp_worker import (
    artifacts,  # pyright: ignore[reportUnusedImport]  # noqa: F401
    gate,  # pyright: ignore[reportUnusedImport]  # noqa: F401
    git,  # pyright: ignore[reportUnusedImport]  # noqa: F401
    kernel,
    protocol,
    signals,
    supervisor,
    wire,
    workspace,  # pyright: ignore[reportUnusedImport]  # noqa: F401
)
from sfp_worker.control import receive_with_descriptors

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from typing import NoReturn

#: descriptors on which a template finds its orders, and the BPF program of its workers
ORDERS, FILTER = 3, 5
#: bytes of one order
MAX_ORDER = 4096
#: the worker's own file systems: kind, where, options (`%d`: bytes of its disk), flags beside nosuid
_FILE_SYSTEMS = (
    (b"tmpfs", b"/workspace", b"mode=0700,size=%d", kernel.MS_NODEV),
    (b"tmpfs", b"/dev/shm", b"mode=1777,size=67108864", kernel.MS_NODEV),
    (b"devpts", b"/dev/pts", b"newinstance,ptmxmode=0666,mode=620", kernel.MS_NOEXEC),
    (b"proc", b"/proc", b"", kernel.MS_NODEV | kernel.MS_NOEXEC),
)
_ROOT = "/workspace"


class Template:
    def __init__(self, orders: socket, program: bytes) -> None:
        self._orders = orders
        self._program = program
        self._ids: dict[int, int] = {}
        self._who = os.geteuid(), os.getegid()
        self._ended, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signals.handle(signals.SIGCHLD, _woken)
        signals.set_wakeup_fd(self._wake, warn_on_full_buffer=False)

    def serve(self) -> NoReturn:
        """Fork as ordered and report ends, until nobody orders any more."""
        self._send({"t": "ready"})
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._ended:
                    self._report()
                else:
                    self._obey()

    def _obey(self) -> None:
        data, descriptors = receive_with_descriptors(self._orders, MAX_ORDER)
        if not data:
            os._exit(0)  # and the kernel ends all that was forked
        order = wire.loads(data.decode())
        try:
            pid = kernel.fork_into(kernel.NEW_NAMESPACES)
        except OSError as error:
            self._send({"t": "refused", "id": order["id"], "errno": error.errno})
        else:
            if pid == 0:
                self._become_worker(order["disk_bytes"], *descriptors)
            self._ids[pid] = order["id"]
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_worker(self, disk_bytes: int, control: int, *doors: int) -> NoReturn:
        """In the child: take the walls of a sandbox, then live the life of a worker."""
        try:
            for door in doors:
                os.write(door, b"0")  # into the cgroup, before anything is allocated
            _build(disk_bytes, *self._who)
            kernel.drop_capabilities()
            kernel.set_no_new_privs()
            kernel.load_filter(self._program)
            os.dup2(control, supervisor.CONTROL)
            supervisor.main(namespaced=True)
        except OSError as error:
            os.write(2, f"{error.strerror}\n".encode())
        finally:
            os._exit(protocol.NEVER_RAN)

    def _report(self) -> None:
        """Some worker may have ended: tell how, by the kernel's word."""
        os.read(self._ended, 4096)
        while self._ids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            ended = os.waitstatus_to_exitcode(status)
            self._send({"t": "ended", "id": self._ids.pop(pid), "status": ended})

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._orders.send(wire.dumps(message).encode())
        except OSError:
            os._exit(0)  # the dispatcher is gone


def _build(disk_bytes: int, user: int, group: int) -> None:
    kernel.set_dumpable(True)  # else the files by which we name ourselves are root's
    kernel.write("/proc/self/setgroups", b"deny")
    kernel.write("/proc/self/uid_map", b"%d %d 1" % (user, user))
    kernel.write("/proc/self/gid_map", b"%d %d 1" % (group, group))
    kernel.set_dumpable(False)
    kernel.unshare_if_possible(kernel.NEW_CGROUP)  # without, the path of the group shows, and nothing else
    kernel.stop_sharing_mounts()
    for kind, target, options, flags in _FILE_SYSTEMS:
        text = options % disk_bytes if b"%d" in options else options
        kernel.mount(kind, target, kernel.MS_NOSUID | flags, text)
    os.chdir(_ROOT)
    os.setsid()


def _woken(_number: int, _frame: object) -> None:
    """A handler must exist for the wake-up descriptor to be written."""


def entry() -> NoReturn:
    """What the sandbox runtime starts."""
    kernel.set_dumpable(False)
    with open(FILTER, "rb") as file:
        program = file.read()
    orders = socket(AF_UNIX, SOCK_SEQPACKET, 0, fileno=ORDERS)
    template = Template(orders, program)
    gc.collect()
    gc.freeze()  # what is here now is not looked at again, and so stays shared
    template.serve()
