"""The courier: the one port that an instance opens for dispatchers on other machines.

By its first eight bytes a connection is one of three: an errand (`wire.py`: who are you, an input, a kept file); a
worker's way to the broker, handed through as it is (the broker ends its TLS); or a session with the embedded database,
for which the courier ends TLS, and whose first packet must name a dispatcher's own role. Neither a task's secret nor a
password passes it in the clear.
"""

import asyncio
import ssl
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from sfp_server.remote import wire
from sfp_server.remote.enrolments import ROLE_PREFIX
from sfp_server.remote.errands import Errands, Peer
from sfp_server.runtimes.broker import PREFACE as BROKER

log = structlog.get_logger()

#: what a PostgreSQL client sends before it says anything else: it wants TLS
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_PROTOCOL_3 = 3 << 16
#: connections at once; more wait in the kernel
_AT_ONCE = 512
#: seconds for the first bytes and the handshake
_GREETING_SECONDS = 10.0
#: bytes of a PostgreSQL client's first packet
_STARTUP_BYTES = 4096


class Courier:
    """Serves until cancelled."""

    def __init__(self, errands: Errands, *, tls: ssl.SSLContext, broker: Path, database: Path | None) -> None:
        self._errands = errands
        self._tls = tls
        self._broker = broker
        #: the embedded server's socket; None: the database is not ours
        self._database = database
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def serve(self, host: str, port: int, *, listening: Callable[[int], None] = lambda _: None) -> None:
        """Listen until cancelled; `listening` is told the port (0 chooses one). Raises OSError."""
        server = await asyncio.start_server(self._connected, host or None, port, limit=wire.MAX_LINE)
        bound = server.sockets[0].getsockname()[1]
        log.info("courier ready", port=bound)
        listening(bound)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._slots:
            try:
                await self._serve(reader, writer)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                log.info("a connection ended early", why=type(error).__name__)
            except Exception:
                log.exception("a connection failed")
            finally:
                writer.transport.abort() if writer.is_closing() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_GREETING_SECONDS):
            first = await reader.readexactly(8)
        if first == wire.PREFACE:
            await self._secure(writer, wire.READY)
            await self._errands.run(Peer(reader, writer))
        elif first == BROKER:
            await _carry(reader, writer, self._broker, b"")
        elif first == _SSL_REQUEST and self._database is not None:
            await self._secure(writer, b"S")
            await _carry(reader, writer, self._database, await self._startup(reader))

    async def _secure(self, writer: asyncio.StreamWriter, ready: bytes) -> None:
        """Begin TLS; the other side waits for `ready`, so that nothing of its handshake is read too early."""
        async with asyncio.timeout(_GREETING_SECONDS):
            writer.write(ready)
            await writer.drain()
            await writer.start_tls(self._tls, ssl_handshake_timeout=_GREETING_SECONDS)

    @staticmethod
    async def _startup(reader: asyncio.StreamReader) -> bytes:
        """A PostgreSQL client's first packet. Raises ValueError unless it is for a dispatcher's role."""
        async with asyncio.timeout(_GREETING_SECONDS):
            head = await reader.readexactly(8)
            length, protocol = struct.unpack("!ii", head)
            if protocol >> 16 != _PROTOCOL_3 >> 16 or not 8 < length <= _STARTUP_BYTES:
                raise ValueError("not a session")
            body = await reader.readexactly(length - 8)
        words = body.split(b"\0")
        named = dict(zip(words[::2], words[1::2], strict=False))
        users = [value for key, value in zip(words[::2], words[1::2], strict=False) if key == b"user"]
        # said twice, PostgreSQL and we could mean different ones; replication and options are for others
        if len(users) != 1 or not users[0].startswith(ROLE_PREFIX.encode()) or b"replication" in named:
            raise ValueError("not a dispatcher's role")
        return head + body


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: Path, first: bytes) -> None:
    """Hand bytes through to a unix socket of ours until either side has ended."""
    inner_reader, inner_writer = await asyncio.open_unix_connection(str(path))
    try:
        inner_writer.write(first)
        steps: list[Coroutine[Any, Any, None]] = [_pour(reader, inner_writer), _pour(inner_reader, writer)]
        pouring = [asyncio.create_task(step) for step in steps]
        await asyncio.wait(pouring, return_when=asyncio.FIRST_COMPLETED)
        for task in pouring:
            task.cancel()
        await asyncio.gather(*pouring, return_exceptions=True)
    finally:
        inner_writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(wire.CHUNK):
            writer.write(data)
            await writer.drain()
