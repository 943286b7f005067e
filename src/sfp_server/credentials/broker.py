"""The broker: redeems a worker's ticket, once, for the credentials that its task declared.

The only process that has the vault's private key. It listens on a unix socket inside the instance's private
directory; one connection is one redemption: a line of JSON `{"ticket": "…"}`, answered by one line,
`{"credentials": [{"type", "name", "env", "value"}]}` or `{"error": {"code", "message"}}`. Draw, leases and audit
entries are one transaction: without its audit entry nothing is handed out.

Workers on other machines come over a second socket, by the courier, with TLS that ends here. Their request has a
`proof` too: a ticket is redeemed only where its attempt runs, so a stolen one opens nothing on another machine.
"""

import asyncio
import hashlib
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import structlog

from sfp_server.audit import service as audit
from sfp_server.credentials.proof import holds
from sfp_server.credentials.service import SQL
from sfp_server.credentials.vault import CannotOpen, Opener, Place, Sealed
from sfp_server.db.database import Database, Row, Tx
from sfp_server.errors import SfpError, Unavailable

log = structlog.get_logger()

_REQUEST_BYTES = 4096
_REQUEST_SECONDS = 20.0
_HANDSHAKE_SECONDS = 10.0
#: seconds between tries while the database is away
_RETRY_SECONDS = 0.3
#: redemptions under way at once; more wait in the socket's backlog
_AT_ONCE = 16


class Refused(Exception):
    """The ticket opens nothing, or what it names cannot be had. The text goes to the worker: no values in it."""


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    ticket: str
    proof: str | None = None


async def redeem(
    database: Database, opener: Opener, ticket: str, *, connection: UUID, proof: str | None = None
) -> list[dict[str, str]]:
    """The credentials of the ticket's attempt, each leased and audited.

    Args:
        connection: names the worker's connection; only it may try again after Unavailable.
        proof: of a worker that came from another machine; None: it came from this one.

    Raises Refused, Unavailable.
    """
    token_hash = hashlib.sha256(ticket.encode()).digest()
    async with database.identifying(presented_hash=token_hash) as tx:
        drawn = await tx.one(SQL["draw"], token_hash, connection)
        if drawn is None:
            raise Refused("the ticket is unknown, expired or used")
        await tx.serve(drawn["team_id"])
        task = await tx.one(SQL["leased_task"], drawn["task_id"], drawn["attempt"])
        if task is None:
            raise Refused("the attempt is no longer running")
        if not _is_there(task, ticket, proof):
            raise Refused("the ticket is unknown, expired or used")  # and it is not drawn: nothing is committed
        return await _lease_all(tx, opener, drawn, task)


def _is_there(task: Row, ticket: str, proof: str | None) -> bool:
    """Whether the worker came from the machine on which its attempt runs."""
    if not task["remote"]:
        return proof is None
    key: bytes | None = task["public_key"]
    return proof is not None and key is not None and holds(key, ticket, proof)


async def _lease_all(tx: Tx, opener: Opener, drawn: Row, task: Row) -> list[dict[str, str]]:
    declared: Sequence[Mapping[str, str]] = task["credentials"]
    rows = await tx.all(SQL["sealed_secrets"], [item["name"] for item in declared])
    sealed = {row["name"]: row for row in rows}
    leased: list[dict[str, str]] = []
    for item in declared:
        row = sealed.get(item["name"])
        if row is None:
            raise Refused(f"the secret {item['name']} no longer exists")
        value = _open(opener, drawn, row)
        await tx.execute(SQL["add_lease"], drawn["task_id"], drawn["attempt"], "secret", row["name"], row["version"])
        await audit.record(
            tx,
            task["created_by"],
            "credential.lease",
            f"secret:{row['name']}",
            {"task": str(drawn["task_id"]), "attempt": drawn["attempt"], "version": row["version"]},
        )
        leased.append({"type": "secret", "name": item["name"], "env": item["env"], "value": value})
    return leased


def _open(opener: Opener, drawn: Row, row: Row) -> str:
    place = Place(
        table="secrets",
        row_id=row["id"],
        team_id=drawn["team_id"],
        field=row["name"],
        version=row["version"],
        key_version=row["key_version"],
    )
    try:
        return opener.open(Sealed(sealed_key=row["sealed_key"], ciphertext=row["ciphertext"]), place).decode()
    except CannotOpen as error:
        log.warning("a stored secret cannot be opened: it was moved or changed in the database", secret=row["name"])
        raise Refused(f"the secret {row['name']} cannot be opened; set it again") from error


class Broker:
    """Serves redemptions on unix sockets until closed."""

    def __init__(self, database: Database, opener: Opener) -> None:
        self._database = database
        self._opener = opener
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
            async with self._slots, asyncio.timeout(_REQUEST_SECONDS):
                writer.write(msgspec.json.encode(await self._answer(reader, remote=remote)) + b"\n")
                await writer.drain()
        except (OSError, TimeoutError):
            log.info("a worker left or stalled at the broker")
        finally:
            writer.close()

    async def _redeem(self, ticket: str, proof: str | None) -> list[dict[str, str]]:
        """Redeem; while the database is away, try again as long as the connection may last."""
        connection = uuid4()
        while True:
            try:
                return await redeem(self._database, self._opener, ticket, connection=connection, proof=proof)
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)

    async def _answer(self, reader: asyncio.StreamReader, *, remote: bool) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(await reader.readline(), type=_Request)
            proof = request.proof or "" if remote else None  # what a worker says on the wrong socket does not count
            return {"credentials": await self._redeem(request.ticket, proof)}
        except (Refused, SfpError) as error:
            log.info("redemption refused", why=str(error))
            return {"error": {"code": "credential", "message": str(error)}}
        except (msgspec.DecodeError, ValueError):
            return {"error": {"code": "credential", "message": "the request is not understood"}}
        except Exception:
            log.exception("redemption failed")
            return {"error": {"code": "credential", "message": "the broker failed; see its log"}}
