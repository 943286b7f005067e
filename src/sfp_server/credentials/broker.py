"""The broker: redeems a worker's ticket, once, for the credentials that its task declared.

The only process that has the vault's private keys. It listens on unix sockets inside the instance's private
directory; one connection is one question: a line of JSON, answered by one line.

* Workers say `{"ticket": "…"}` and get `{"credentials": [{"type", "name", "env", "value"}], "git": […]}`, or
  `{"error": {"code", "message"}}` (`leasing.py`). Workers on other machines come over a second socket, by the courier,
  with TLS that ends here; their request has a `proof` too: a ticket is redeemed only where its attempt runs, so a
  stolen one opens nothing on another machine.
* The API and the instance's own commands ask at a third socket, the desk, with a key (`desk.py`).
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import structlog

from sfp_server.credentials.keyring import KeyRing
from sfp_server.credentials.leasing import KeysChanged, Leasing, Presented, Refused
from sfp_server.credentials.vault import Opener
from sfp_server.errors import SfpError, Unavailable

log = structlog.get_logger()

_REQUEST_BYTES = 4096
_REQUEST_SECONDS = 20.0
_HANDSHAKE_SECONDS = 10.0
#: seconds between tries while the database is away
_RETRY_SECONDS = 0.3
#: seconds for a question to arrive: it takes no turn before it is there
_ASK_SECONDS = 5.0
#: questions under way at once; more wait in the socket's backlog
_AT_ONCE = 16

#: one question (a line, whether it came from another machine) → its answer
Answering = Callable[[bytes, bool], Awaitable[dict[str, Any]]]


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    ticket: str
    proof: str | None = None


class Broker:
    """Answers workers."""

    def __init__(self, keys: KeyRing, leasing: Leasing) -> None:
        self._keys = keys
        self._leasing = leasing

    async def answer(self, line: bytes, remote: bool) -> dict[str, Any]:  # a call by position, as `Answering` says
        """What a worker's question is answered with; never raises."""
        try:
            request = msgspec.json.decode(line, type=_Request)
            proof = request.proof or "" if remote else None  # what a worker says on the wrong socket does not count
            presented = Presented(ticket=request.ticket, connection=uuid4(), proof=proof)
            drawn = await self._redeem(presented)
        except (Refused, SfpError) as error:
            log.info("redemption refused", why=str(error))
            return {"error": {"code": "credential", "message": str(error)}}
        except (msgspec.DecodeError, ValueError):
            return {"error": {"code": "credential", "message": "the request is not understood"}}
        except Exception:
            log.exception("redemption failed")
            return {"error": {"code": "credential", "message": "the broker failed; see its log"}}
        return {"credentials": drawn.credentials, "git": drawn.git}

    async def _redeem(self, presented: Presented) -> Any:
        """Redeem; while the database or the source of keys is away, try again as long as the connection may last."""
        deadline = asyncio.get_running_loop().time() + _REQUEST_SECONDS - 2
        opener: Opener | None = None
        while True:
            try:
                opener = self._keys.opener
                return await self._leasing.redeem(opener, presented)
            except KeysChanged:  # while it waited, or fetched something
                if self._keys.opener is opener:
                    raise
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)


class Listener:
    """A unix socket on which each connection asks one question."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def serve(self, socket: Path, *, tls: ssl.SSLContext | None = None) -> None:
        """Listen until cancelled; with `tls`, for workers on other machines. A socket file left over is replaced."""
        with suppress(FileNotFoundError):
            socket.unlink()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(reader, writer, remote=tls is not None)

        patience = None if tls is None else _HANDSHAKE_SECONDS
        server = await asyncio.start_unix_server(
            connected, path=socket, limit=_REQUEST_BYTES, ssl=tls, ssl_handshake_timeout=patience
        )
        socket.chmod(0o600)
        log.info("broker ready", remote=tls is not None)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, remote: bool) -> None:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                question = await reader.readline()
            async with self._slots, asyncio.timeout(_REQUEST_SECONDS):
                answer = await self._answering(question, remote)
                writer.write(msgspec.json.encode(answer) + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):  # ValueError: a line without an end
            log.info("somebody left or stalled at the broker")
        finally:
            writer.close()
