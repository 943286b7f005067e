"""The other end of the courier: a dispatcher on another machine asks, fetches and brings."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import msgspec

from sfp_server.remote import tls, wire
from sfp_server.remote.token import Token

#: seconds
_CONNECT_SECONDS = 10.0


class Unreachable(Exception):
    """The courier does not answer now; try again."""


class Refused(Exception):
    """The courier has answered no; `code` as in `wire.py`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class NotOurs(Exception):
    """What answers there is not the instance that made the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a courier listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """From `tls://host:port` (`https://` is the same). Raises ValueError."""
        parts = urlsplit(text)
        if parts.scheme not in {"tls", "https"} or not parts.hostname or parts.port is None or parts.username:
            raise ValueError("the broker's address must look like tls://host:port")
        return cls(host=parts.hostname, port=parts.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """A complete file to be kept."""

    task: UUID
    attempt: int
    artifact: UUID
    name: str
    path: Path
    size: int
    sha256: str


class CourierClient:
    """Of one dispatcher. `meet` comes first; each errand is a connection of its own."""

    def __init__(self, address: Address, token: Token) -> None:
        self._address = address
        self._token = token
        self._context: ssl.SSLContext | None = None
        #: PEM of the instance's authority, once met
        self.ca = ""

    async def meet(self) -> None:
        """Learn the instance's certificate, and make sure by the token that it is the right one.

        Raises Unreachable, NotOurs.
        """
        async with self._connected(tls.unverified()) as (reader, writer):
            answer = await _ask(reader, writer, {"do": "ca"})
        ca = answer.get("ca")
        try:
            same = isinstance(ca, str) and tls.fingerprint(ca) == self._token.fingerprint
        except ValueError:
            same = False
        if not same or not isinstance(ca, str):
            raise NotOurs("what answers there is not the instance that made the token")
        self.ca = ca
        self._context = tls.trusting(ca)

    async def enter(self) -> wire.Facts:
        """What the instance asks of this dispatcher. Raises Unreachable, Refused."""
        async with self._errand({"do": "enter"}) as (answer, _, _):
            return msgspec.convert(answer["facts"], wire.Facts)

    async def fetch(self, task: UUID, artifact: UUID, path: Path) -> str:
        """Bring an input to `path`, going on with what is there; answers its original name.

        Raises Unreachable (try again), Refused, OSError.
        """
        offset = path.stat().st_size if path.exists() else 0
        asked = {"do": "fetch", "task": str(task), "artifact": str(artifact), "offset": offset}
        async with self._errand(asked) as (facts, reader, _):
            with path.open("ab") as file:
                while chunk := await _read(reader):
                    await asyncio.to_thread(file.write, chunk)
                    if file.tell() > facts["size"]:
                        break
        if path.stat().st_size < facts["size"]:
            raise Unreachable("the connection broke on the way")
        if await asyncio.to_thread(_sha256, path) != facts["sha256"]:
            path.unlink()
            raise Unreachable("the file came damaged")
        return str(facts["name"])

    async def keep(self, brought: Brought) -> None:
        """Store a kept file, with its row. Twice is fine. Raises Unreachable (try again), Refused, OSError."""
        asked = {
            "do": "keep",
            "task": str(brought.task),
            "attempt": brought.attempt,
            "artifact": str(brought.artifact),
            "name": brought.name,
            "size": brought.size,
            "sha256": brought.sha256,
        }
        async with self._errand(asked) as (answer, reader, writer):
            with brought.path.open("rb") as file:
                file.seek(answer["have"])
                while chunk := await asyncio.to_thread(file.read, wire.CHUNK):
                    writer.write(chunk)
                    async with asyncio.timeout(wire.STALLED_SECONDS):
                        await writer.drain()
            await _answer(reader)

    @asynccontextmanager
    async def _errand(
        self, asked: dict[str, Any]
    ) -> AsyncGenerator[tuple[dict[str, Any], asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._context is None:
            raise Unreachable("not met yet")
        async with self._connected(self._context) as (reader, writer):
            answer = await _ask(reader, writer, {**asked, "key": self._token.courier_key()})
            yield answer, reader, writer

    @asynccontextmanager
    async def _connected(
        self, context: ssl.SSLContext
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection on which TLS has begun. Raises Unreachable, also for what breaks inside the block."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    self._address.host, self._address.port, limit=wire.MAX_LINE
                )
                writer.write(wire.PREFACE)
                if await reader.readexactly(len(wire.READY)) != wire.READY:
                    raise Unreachable("what listens there is no courier")
                await writer.start_tls(context, server_hostname=tls.COURIER)
            yield reader, writer
        except (EOFError, TimeoutError, ConnectionError, ssl.SSLError) as error:
            raise Unreachable(f"the courier cannot be reached: {type(error).__name__}") from error
        except OSError as error:
            if error.filename is not None:
                raise  # a file of ours
            raise Unreachable(f"the courier cannot be reached: {error.strerror}") from error
        finally:
            if writer is not None:
                writer.transport.abort()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[str, Any]) -> dict[str, Any]:
    writer.write(msgspec.json.encode(asked) + b"\n")
    await writer.drain()
    return await _answer(reader)


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    async with asyncio.timeout(wire.STALLED_SECONDS):
        line = await reader.readline()
    try:
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unreachable("the courier left without an answer") from error
    match answer.get("error"):
        case {"code": "away", "message": message}:
            raise Unreachable(str(message))
        case {"code": code, "message": message}:
            raise Refused(str(code), str(message))
        case _:
            return answer


async def _read(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(wire.STALLED_SECONDS):
        return await reader.read(wire.CHUNK)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
