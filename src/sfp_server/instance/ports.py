"""Which TCP ports are free, and who holds those that are not."""

import errno
import os
import socket
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager

from sfp_server.instance.problem import InstanceError

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 (the edge in prod mode listens to the outside, on purpose)


def is_free(port: int, address: str = LOOPBACK) -> bool:
    """True when nothing listens there. Without SO_REUSEPORT: sharing a port would mix two instances.

    A port below 1024 that we may not even try counts as free; the edge itself says so if it cannot have it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections in TIME_WAIT do not matter
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno == errno.EACCES
    return True


def pick(first: int, *, avoid: Collection[int], address: str = LOOPBACK) -> int:
    """The first free port from `first` on that is not in `avoid`. Raises InstanceError when there is none."""
    for port in range(first, min(first + 500, 65536)):
        if port not in avoid and is_free(port, address):
            return port
    raise InstanceError(f"no free port from {first} to {first + 499}: name one with --port and --api-port")


def holder(port: int) -> str | None:
    """`name (pid N)` of the process that listens on `port`; None when we may not know."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and tuple(connection.laddr)[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None


@contextmanager
def choosing(timeout: float = 60.0) -> Generator[None]:
    """Only one `start` of this machine (network namespace) looks for free ports and takes them at a time.

    Between looking and listening another instance could take the same port, and SO_REUSEPORT would let
    both have it. An abstract socket is the lock: it ends with its holder, and its name lives where ports live.
    """
    deadline = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        while True:
            try:
                lock.bind(f"\0sfp-server-ports-{os.geteuid()}")
                break
            except OSError:
                if time.monotonic() > deadline:  # whoever squats on the name must not keep us from starting
                    break
                time.sleep(0.05)
        yield
