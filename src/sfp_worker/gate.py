"""The only way out of a worker: every `connect` of the program is asked about here.

The kernel stops the caller and tells us (seccomp user notification); we read its address once, and
never let the kernel go on with the caller's own memory, which another thread could change meanwhile.

* TCP: the server is asked (`dial`). It checks its policy, connects outside, and hands the connected
  socket back; we put it in place of the caller's. An address that is our own loopback is tried in here,
  where the network namespace is empty but for what the program itself listens on.
* Everything else (unix sockets, UDP) is done by us on a copy of the caller's socket with our copy of
  the address: it can reach what is in the sandbox and nothing more.

Without a network namespace of our own (process runtime) nothing but TCP by way of the server, and unix
sockets below the worker's directory, is let through. See docs/decisions/0004.
"""

import _thread  # `threading` would make each fork of a template copy 140 more pages
import errno
import fcntl
import os
import socket
import stat
import struct

from sfp_worker import kernel
from sfp_worker.control import Control
from sfp_worker.protocol import MAX_DIALS, Message

_NOTIF_RECV = 0xC0502100
_NOTIF_SEND = 0xC0182101
_NOTIF_ID_VALID = 0x40082102
_NOTIF_ADDFD = 0x40182103
_ADDFD_SETFD = 1
_NOTIF_BYTES = 80
#: struct sockaddr_storage
_ADDRESS_BYTES = 128


class Call:
    """One stopped `connect`."""

    def __init__(self, notification: bytes) -> None:
        self.id, self.thread, _, _, _, _, descriptor, self.pointer, length = struct.unpack_from(
            "=QIIiIQQQQ", notification
        )
        self.descriptor = descriptor & 0xFFFFFFFF
        self.length = length & 0xFFFFFFFF
        self.address = b""
        self.copy: socket.socket | None = None
        self.flags = 0


class Gate:
    """`own_network`: whether the worker has a network namespace of its own. `step`: `clone` or `program`."""

    def __init__(self, control: Control, *, step: str, own_network: bool, unix_below: str) -> None:
        self._step = step
        self._control = control
        self._own_network = own_network
        self._unix_below = unix_below
        self._dials: dict[int, Call] = {}
        self.listener = -1

    def attach(self, listener: int) -> None:
        self.listener = listener

    def close(self) -> None:
        """Nobody is left to answer."""
        for call in self._dials.values():
            _forget(call)
        self._dials.clear()
        os.close(self.listener)
        self.listener = -1

    def notified(self) -> None:
        """A notification waits: take it and answer it, now or when the server has dialled."""
        buffer = bytearray(_NOTIF_BYTES)
        try:
            fcntl.ioctl(self.listener, _NOTIF_RECV, buffer)
        except OSError:
            return  # the caller died first
        call = Call(bytes(buffer))
        try:
            self._examine(call)
            self._decide(call)
        except OSError as error:
            self._answer(call, error.errno or errno.EACCES)

    def _examine(self, call: Call) -> None:
        """Copy what the call is about, then make sure that it was still that call we looked at."""
        if call.length > _ADDRESS_BYTES:
            raise OSError(errno.EINVAL, "address too long")
        with open(f"/proc/{call.thread}/mem", "rb", buffering=0) as memory:
            call.address = os.pread(memory.fileno(), call.length, call.pointer)
        pidfd = os.pidfd_open(_thread_group(call.thread))
        try:
            call.copy = socket.socket(fileno=kernel.pidfd_getfd(pidfd, call.descriptor))
        finally:
            os.close(pidfd)
        call.flags = _descriptor_flags(call.thread, call.descriptor)
        fcntl.ioctl(self.listener, _NOTIF_ID_VALID, struct.pack("=Q", call.id))

    def _decide(self, call: Call) -> None:
        if call.copy is None or len(call.address) < 2:
            raise OSError(errno.EINVAL, "no address")
        family = struct.unpack_from("=H", call.address)[0]
        if family in {socket.AF_INET, socket.AF_INET6}:
            self._decide_internet(call, call.copy)
        elif family == socket.AF_UNIX and (self._own_network or self._is_below(call)):
            self._in_here(call)
        else:
            raise OSError(errno.EACCES, "refused")

    def _decide_internet(self, call: Call, copy: socket.socket) -> None:
        if copy.type != socket.SOCK_STREAM:
            if not self._own_network:
                raise OSError(errno.EACCES, "refused")
            self._in_here(call)
            return
        if len(self._dials) >= MAX_DIALS:
            raise OSError(errno.EAGAIN, "too many connects at once")
        host, port = _internet(call.address)
        self._dials[call.id] = call
        self._control.send({"t": "dial", "id": call.id, "host": host, "port": port, "step": self._step})

    def dialled(self, message: Message) -> None:
        """The server's answer: a connected socket, an error number, or `own`: try in here."""
        connected = self._control.take_descriptor() if message.get("fds") else None
        call = self._dials.pop(message["id"], None)
        if call is None:
            if connected is not None:
                os.close(connected)
            return
        if connected is not None:
            self._replace(call, connected)
        elif message.get("own") and self._own_network:
            self._in_here(call)
        else:
            self._answer(call, message.get("errno") or errno.EACCES)

    def _replace(self, call: Call, connected: int) -> None:
        """Put the connected socket where the caller's is."""
        try:
            fcntl.fcntl(connected, fcntl.F_SETFL, call.flags & os.O_NONBLOCK)
            cloexec = call.flags & os.O_CLOEXEC
            request = struct.pack("=QIIII", call.id, _ADDFD_SETFD, connected, call.descriptor, cloexec)
            fcntl.ioctl(self.listener, _NOTIF_ADDFD, request)
            self._answer(call, 0)
        except OSError as error:
            self._answer(call, error.errno or errno.EIO)
        finally:
            os.close(connected)

    def _in_here(self, call: Call) -> None:
        # It may wait for a listener of the program's own: not in the loop that reads its output.
        _thread.start_new_thread(self._connect, (call,))

    def _connect(self, call: Call) -> None:
        if call.copy is None:
            return
        held: list[int] = []
        try:
            result = call.copy.connect_ex(self._address(call, held))
        except OSError as error:
            result = error.errno or errno.EACCES
        finally:
            for descriptor in held:
                os.close(descriptor)
        self._answer(call, result)

    def _address(self, call: Call, held: list[int]) -> bytes | tuple[str, int]:
        if struct.unpack_from("=H", call.address)[0] != socket.AF_UNIX:
            return _internet(call.address)
        path = call.address[2:]
        if path.startswith(b"\0"):
            return path  # abstract: ends where the address ends
        held.append(_open_socket_file(call))
        return f"/proc/self/fd/{held[-1]}".encode()

    def _is_below(self, call: Call) -> bool:
        """Whether a unix socket lies in the worker's own directory."""
        if call.address[2:3] == b"\0":
            return False
        descriptor = _open_socket_file(call)
        try:
            real = os.readlink(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return real.startswith(self._unix_below + "/")

    def _answer(self, call: Call, error: int) -> None:
        _forget(call)
        response = struct.pack("=QqiI", call.id, 0, -error, 0)
        try:
            fcntl.ioctl(self.listener, _NOTIF_SEND, response)
        except OSError:
            return  # the caller died meanwhile


def _forget(call: Call) -> None:
    if call.copy is not None:
        call.copy.close()
        call.copy = None


def _thread_group(thread: int) -> int:
    with open(f"/proc/{thread}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Tgid:"):
                return int(line.split()[1])
    raise OSError(errno.ESRCH, "no such process")


def _descriptor_flags(thread: int, descriptor: int) -> int:
    """O_NONBLOCK and O_CLOEXEC as the caller's descriptor has them."""
    with open(f"/proc/{thread}/fdinfo/{descriptor}", encoding="ascii") as file:
        for line in file:
            if line.startswith("flags:"):
                return int(line.split()[1], 8)
    raise OSError(errno.EBADF, "no such descriptor")


def _internet(address: bytes) -> tuple[str, int]:
    if struct.unpack_from("=H", address)[0] == socket.AF_INET:
        if len(address) < 8:
            raise OSError(errno.EINVAL, "address too short")
        port, host = struct.unpack_from("!H4s", address, 2)
        return socket.inet_ntop(socket.AF_INET, host), port
    if len(address) < 24:
        raise OSError(errno.EINVAL, "address too short")
    port, _, host = struct.unpack_from("!HI16s", address, 2)
    return socket.inet_ntop(socket.AF_INET6, host), port


def _open_socket_file(call: Call) -> int:
    """The socket file itself, so that no path is looked up twice.

    Raises:
        OSError: there is none.
    """
    path = call.address[2:].split(b"\0", 1)[0]
    base = os.open(f"/proc/{call.thread}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=base)
    finally:
        os.close(base)
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ECONNREFUSED, "not a socket")
    return descriptor
