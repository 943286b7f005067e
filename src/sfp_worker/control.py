"""The worker's end of the control socket: buffered, never blocking unless asked to."""

import os
import select
import socket
from collections import deque

from sfp_worker import protocol
from sfp_worker.protocol import Message

#: bytes not yet taken by the server above which the program's output is no longer read
HIGH_WATER = 256 * 1024


class Control:
    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=descriptor)
        self._socket.setblocking(False)
        self._reader = protocol.FrameReader()
        self._out: deque[bytes] = deque()
        self._messages: deque[Message] = deque()
        self._descriptors: deque[int] = deque()
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
                os._exit(protocol.NEVER_RAN)
            self.backlog -= written
            if written == len(head):
                self._out.popleft()
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
        return self._messages.popleft()

    def take_descriptor(self) -> int:
        """The next descriptor that came; messages that announce one are read after it is here."""
        return self._descriptors.popleft()

    def _read(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 256 * 1024, 8)
        except BlockingIOError:
            return
        except OSError:
            os._exit(protocol.NEVER_RAN)
        if not data:
            os._exit(protocol.NEVER_RAN)  # the dispatcher is gone; the kernel ends the rest with us
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # Linux hands them over without close-on-exec
            self._descriptors.append(descriptor)
        for frame in self._reader.feed(data):
            if isinstance(frame, dict):
                self._messages.append(frame)
