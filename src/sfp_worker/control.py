"""The worker's end of the control socket: buffered, never blocking unless asked to.

`_socket` is what `socket` wraps; the wrapping costs 6 ms of a worker's start and adds nothing we use.
"""

from __future__ import annotations

import os
import select
import struct
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket

from sfp_worker import protocol
from sfp_worker.protocol import Message

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

#: bytes not yet taken by the server above which the program's output is no longer read
HIGH_WATER = 256 * 1024


def receive_with_descriptors(source: socket, size: int) -> tuple[bytes, list[int]]:
    """Bytes and the descriptors that came with them, closed on exec."""
    data, ancillary, _, _ = source.recvmsg(size, CMSG_SPACE(8 * 4))
    found: list[int] = []
    for level, kind, body in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            found.extend(struct.unpack(f"{len(body) // 4}i", body[: len(body) // 4 * 4]))
    for descriptor in found:
        os.set_inheritable(descriptor, False)  # Linux hands them over without close-on-exec
    return data, found


def send_descriptor(target: socket, descriptor: int) -> None:
    target.sendmsg([b"d"], [(SOL_SOCKET, SCM_RIGHTS, struct.pack("i", descriptor))])


class Control:
    """`when_gone` is called when the server has hung up, before this process ends."""

    def __init__(self, descriptor: int, when_gone: Callable[[], None]) -> None:
        self._when_gone = when_gone
        self._socket = socket(AF_UNIX, SOCK_STREAM, 0, fileno=descriptor)
        self._socket.setblocking(False)
        self._reader = protocol.FrameReader()
        self._out: list[bytes] = []
        self._messages: list[Message] = []
        self._descriptors: list[int] = []
        self.backlog = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        self._push(protocol.encode(message))

    def send_chunk(self, data: bytes) -> None:
        self._push(protocol.encode_chunk(data))

    def _push(self, frame: bytes) -> None:
        self._out.append(frame)
        self.backlog += len(frame)
        self.flush()

    def flush(self) -> None:
        """Write what the socket takes now. A closed socket means that nobody wants us: end."""
        while self._out:
            head = self._out[0]
            try:
                written = self._socket.send(head)
            except BlockingIOError:
                return
            except OSError:
                self._end()
            self.backlog -= written
            if written == len(head):
                del self._out[0]
            else:
                self._out[0] = head[written:]

    def drain(self, below: int = 1) -> None:
        """Wait until fewer than `below` bytes are unsent."""
        while self.backlog >= below:
            select.select([], [self._socket], [])
            self.flush()

    def receive(self) -> list[Message]:
        """The messages that are there now."""
        self._read()
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def wait(self) -> Message:
        """The next message."""
        while not self._messages:
            select.select([self._socket], [], [])
            self._read()
        return self._messages.pop(0)

    def take_descriptor(self) -> int:
        """The next descriptor that came; messages that announce one are read after it is here."""
        return self._descriptors.pop(0)

    def _end(self) -> NoReturn:
        """The dispatcher is gone, and nobody wants what we do: end it all."""
        self._when_gone()
        os._exit(protocol.NEVER_RAN)

    def _read(self) -> None:
        try:
            data, descriptors = receive_with_descriptors(self._socket, 256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            self._end()
        if not data:
            self._end()
        self._descriptors.extend(descriptors)
        for frame in self._reader.feed(data):
            if isinstance(frame, dict):
                self._messages.append(frame)
