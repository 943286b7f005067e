"""The server's end of a worker's control socket: frames on asyncio, descriptors outwards only."""

import asyncio
import contextlib
import socket
import struct
from collections import deque
from collections.abc import Sequence

from sfp_worker.protocol import FrameReader, Message, encode

READ_BYTES = 256 * 1024
#: struct ucred: process, user, group
_CREDENTIALS = struct.Struct("3i")


class Channel:
    """`names_sender`: whether `receive_ready` is to learn who sent; it must be said before anybody can send."""

    def __init__(self, control: socket.socket, *, names_sender: bool = False) -> None:
        control.setblocking(False)
        self._socket = control
        self._reader = FrameReader()
        self._frames: deque[Message | bytes] = deque()
        self._sending = asyncio.Lock()
        self._closed = False
        if names_sender:
            control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    async def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send one message; the descriptors stay ours to close.

        Raises:
            OSError: the worker is gone.
        """
        data = encode({**message, "fds": len(descriptors)} if descriptors else message)
        async with self._sending:
            sent = await self._send_first(data, descriptors)
            if sent < len(data):
                await asyncio.get_running_loop().sock_sendall(self._socket, data[sent:])

    async def _send_first(self, data: bytes, descriptors: Sequence[int]) -> int:
        while True:
            try:
                return socket.send_fds(self._socket, [data], descriptors)
            except BlockingIOError:
                await self._until_writable()

    async def _until_readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket.fileno(), lambda: ready.done() or ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_reader(self._socket.fileno())

    async def _until_writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._socket.fileno(), lambda: ready.done() or ready.set_result(None))
        try:
            await ready
        finally:
            loop.remove_writer(self._socket.fileno())

    async def receive_ready(self) -> tuple[Message | bytes | None, int]:
        """The first message, and the process that sent it as the kernel names it for us (0: nobody did)."""
        await self._until_readable()
        data, ancillary, _, _ = self._socket.recvmsg(READ_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        pid = next((_CREDENTIALS.unpack(body)[0] for _, kind, body in ancillary if kind == socket.SCM_CREDENTIALS), 0)
        self._frames.extend(self._reader.feed(data))
        return await self.receive(), pid

    async def receive(self) -> Message | bytes | None:
        """The next message, or the next bytes of an artifact; None when the worker has hung up.

        Raises:
            ProtocolError: what came is not a frame.
        """
        loop = asyncio.get_running_loop()
        while not self._frames:
            try:
                # A plain read: descriptors that a worker attaches are dropped by the kernel.
                data = await loop.sock_recv(self._socket, READ_BYTES)
            except OSError:
                return None
            if not data:
                return None
            self._frames.extend(self._reader.feed(data))
        return self._frames.popleft()

    def hang_up(self) -> None:
        """Nothing more will come than what is already in the socket."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._socket.close()
