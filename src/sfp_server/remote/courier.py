"""The courier: the one port that an instance opens for dispatchers on other machines.

By its first eight bytes a connection is one of three: an errand (`wire.py`: who are you, an input, a kept file); a
worker's way to the broker, handed through as it is (the broker ends its TLS); or a session with the embedded database,
for which the courier ends TLS, and whose first packet must name a dispatcher's own role. Neither a task's secret nor a
password passes it in the clear.
"""

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from sfp_server.errors import SfpError
from sfp_server.remote import wire
from sfp_server.remote.enrolments import ROLE_PREFIX, SESSIONS_PER_ROLE
from sfp_server.remote.errands import Errands, Peer
from sfp_server.runtimes.broker import PREFACE as BROKER

log = structlog.get_logger()

#: what a PostgreSQL client sends before it says anything else: it wants TLS
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_PROTOCOL_3 = 3
#: the packet that asks for a query to be given up; it carries its own secret
_CANCEL_REQUEST = 80877102
#: connections that nobody has vouched for yet, errands, and ways to the broker, at once; more wait
_GREETED, _ERRANDS, _BROKERED = 128, 64, 64
#: seconds for the first bytes and the handshake
_GREETING_SECONDS = 10.0
#: seconds of a worker's draw
_BROKER_SECONDS = 60.0
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
        self._greeting = asyncio.Semaphore(_GREETED)
        self._errand = asyncio.Semaphore(_ERRANDS)
        self._brokered = asyncio.Semaphore(_BROKERED)
        self._sessions: Counter[str] = Counter()

    async def serve(self, host: str, port: int, *, listening: Callable[[int], None] = lambda _: None) -> None:
        """Listen until cancelled; `listening` is told the port (0 chooses one). Raises OSError."""
        server = await asyncio.start_server(self._connected, host or None, port, limit=wire.MAX_LINE)
        bound = server.sockets[0].getsockname()[1]
        log.info("courier ready", port=bound)
        listening(bound)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _keep_alive(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.info("a connection ended early", why=type(error).__name__)
        except SfpError as error:
            log.warning("a connection cannot be served now", why=str(error))
        except Exception:
            log.exception("a connection failed")
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._greeting:
            first = await self._greet(reader, writer)
            startup = await self._startup(reader) if first == _SSL_REQUEST else b""
        if first == wire.PREFACE:
            async with self._errand:
                await self._errands.run(Peer(reader, writer))
        elif first == BROKER:
            async with self._brokered, asyncio.timeout(_BROKER_SECONDS):
                await _carry(reader, writer, self._broker, b"")
        elif self._database is not None:
            await self._session(reader, writer, self._database, startup)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """What the connection is for, with its TLS begun where it ends here. Raises ValueError: nothing of ours."""
        async with asyncio.timeout(_GREETING_SECONDS):
            first = await reader.readexactly(8)
        if first == wire.PREFACE:
            await self._secure(writer, wire.READY)
        elif first == _SSL_REQUEST and self._database is not None:
            await self._secure(writer, b"S")
        elif first != BROKER:
            raise ValueError("nothing of ours")
        return first

    async def _session(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, database: Path, startup: bytes
    ) -> None:
        """A session with the database, for a role that is enrolled; whether it knows its password PostgreSQL finds out.

        Connections that have not said their password yet count for PostgreSQL's limit: few of a role, none of others.
        """
        role = _role(startup)
        if role is None:
            async with self._brokered, asyncio.timeout(_GREETING_SECONDS):
                await _carry(reader, writer, database, startup)
            return
        if self._sessions[role] >= SESSIONS_PER_ROLE or not await self._errands.is_role(role):
            raise ValueError("not a dispatcher's role, or too many of its sessions")
        self._sessions[role] += 1
        try:
            await _carry(reader, writer, database, startup)
        finally:
            self._sessions[role] -= 1
            self._sessions += Counter()  # forgets those that are at nothing

    async def _secure(self, writer: asyncio.StreamWriter, ready: bytes) -> None:
        """Begin TLS; the other side waits for `ready`, so that nothing of its handshake is read too early."""
        async with asyncio.timeout(_GREETING_SECONDS):
            writer.write(ready)
            await writer.drain()
            await writer.start_tls(self._tls, ssl_handshake_timeout=_GREETING_SECONDS)

    @staticmethod
    async def _startup(reader: asyncio.StreamReader) -> bytes:
        """A PostgreSQL client's first packet, whole. Raises ValueError, EOFError, TimeoutError."""
        async with asyncio.timeout(_GREETING_SECONDS):
            head = await reader.readexactly(8)
            length, code = struct.unpack("!ii", head)
            if (code >> 16 != _PROTOCOL_3 and code != _CANCEL_REQUEST) or not 8 < length <= _STARTUP_BYTES:
                raise ValueError("not a session")
            return head + await reader.readexactly(length - 8)


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    """A machine that is cut off does not say goodbye: its sessions end after half a minute."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 10),
        (socket.TCP_KEEPINTVL, 5),
        (socket.TCP_KEEPCNT, 3),
        (socket.TCP_USER_TIMEOUT, 25_000),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _role(startup: bytes) -> str | None:
    """Whom a first packet names; None: it asks for a query to be given up. Raises ValueError: no dispatcher's role."""
    if struct.unpack_from("!i", startup, 4)[0] == _CANCEL_REQUEST:
        return None
    words = startup[8:].split(b"\0")
    pairs = list(zip(words[::2], words[1::2], strict=False))
    users = [value for key, value in pairs if key == b"user"]
    # said twice, PostgreSQL and we could mean different ones; replication is for others
    if len(users) != 1 or not users[0].startswith(ROLE_PREFIX.encode()) or b"replication" in dict(pairs):
        raise ValueError("not a dispatcher's role")
    return users[0].decode("ascii")


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
