"""The courier's errands: who a machine is, what its tasks need, and what they kept.

A kept file that is under way is `<task>-<attempt>-<artifact>.incoming` in the artifact store; a connection that breaks
leaves it for the next, which goes on where it ended. One attempt has one such file at a time. It gets its final name
when it is complete and has the hash that was announced, and its row after that.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import structlog

from sfp_server.db.database import Database, Row, Violation
from sfp_server.db.queries import load
from sfp_server.errors import Unavailable
from sfp_server.remote import wire
from sfp_server.remote.token import hash_of
from sfp_server.tasks.artifacts import ArtifactStore

log = structlog.get_logger()

SQL = load("sfp_server.remote", "remote.sql")

#: seconds after which nobody comes back for a file that is under way
_ABANDONED_SECONDS = 24 * 3600.0
_MAX_NAME = 4096


class Refused(Exception):
    """The errand is not done; `code` and text go to the machine."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def line(self) -> bytes:
        async with asyncio.timeout(wire.STALLED_SECONDS):
            return await self.reader.readline()

    async def say(self, message: Mapping[str, Any]) -> None:
        self.writer.write(msgspec.json.encode(message) + b"\n")
        await self.drain()

    async def drain(self) -> None:
        async with asyncio.timeout(wire.STALLED_SECONDS):
            await self.writer.drain()


class Errands:
    """`facts`: what every dispatcher is told (name and slots aside); `limit`: bytes that one attempt may keep."""

    def __init__(self, database: Database, store: ArtifactStore, *, ca: str, facts: wire.Facts, limit: int) -> None:
        self._database = database
        self._store = store
        self._ca = ca
        self._facts = facts
        self._limit = limit
        self._coming: dict[tuple[UUID, int], asyncio.Task[Any]] = {}

    def remove_abandoned(self) -> None:
        """Delete what was half carried and will not be asked for again."""
        for path in self._store.path_of("").glob("*.incoming"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    async def run(self, peer: Peer) -> None:
        """Do the one errand of a connection."""
        try:
            errand = msgspec.json.decode(await peer.line(), type=wire.Errand)
            await self._do(errand, peer)
        except Refused as refused:
            log.info("errand refused", why=str(refused))
            await peer.say({"error": {"code": refused.code, "message": str(refused)}})
        except Unavailable:
            await peer.say({"error": {"code": "away", "message": "the database is away; try again shortly"}})
        except msgspec.DecodeError:
            await peer.say({"error": {"code": "malformed", "message": "the request is not understood"}})

    async def _do(self, errand: wire.Errand, peer: Peer) -> None:
        if errand.do == "ca":
            await peer.say({"ca": self._ca})
            return
        machine = await self._enrolled(errand.key)
        match errand:
            case wire.Errand(do="enter"):
                mine = {"name": machine["name"], "slots": machine["slots"]}
                await peer.say({"facts": msgspec.to_builtins(self._facts) | mine})
            case wire.Errand(do="fetch", task=UUID() as task, artifact=UUID() as artifact) if errand.offset >= 0:
                await self._fetch(peer, machine, task, artifact, errand.offset)
            case wire.Errand(do="keep", task=UUID() as task, artifact=UUID()):
                await self._keep_alone(peer, machine, errand, task)
            case _:
                raise Refused("malformed", "there is no such errand")

    async def is_role(self, role: str) -> bool:
        """Whether this is the login role of an enrolled machine. Raises Unavailable."""
        async with self._database.separately() as tx:
            return await tx.one(SQL["is_role"], role) is not None

    async def _enrolled(self, key: str) -> Row:
        async with self._database.separately() as tx:
            machine = await tx.one(SQL["enrolled"], hash_of(key))
        if machine is None:
            raise Refused("unknown", "the token opens nothing: it was never valid, or the dispatcher was removed")
        return machine

    async def _fetch(self, peer: Peer, machine: Row, task: UUID, artifact: UUID, offset: int) -> None:
        async with self._database.separately() as tx:
            row = await tx.one(SQL["carried_input"], artifact, task, machine["id"])
        path = self._store.path(artifact)
        if row is None or not path.is_file():
            raise Refused("gone", "the artifact is not there for this task")
        await peer.say({"name": row["name"], "size": row["size"], "sha256": row["sha256"]})
        with path.open("rb") as file:
            file.seek(offset)
            while chunk := await asyncio.to_thread(file.read, wire.CHUNK):
                peer.writer.write(chunk)
                await peer.drain()

    async def _keep_alone(self, peer: Peer, machine: Row, errand: wire.Errand, task: UUID) -> None:
        """One connection at a time brings files of an attempt: a newer one means that the older is dead."""
        place = (task, errand.attempt)
        current = asyncio.current_task()
        assert current is not None  # we are in a coroutine of a task
        older = self._coming.get(place)
        self._coming[place] = current
        try:
            if older is not None:
                older.cancel()
                await asyncio.wait({older})
            await self._keep(peer, machine, errand, task)
        finally:
            if self._coming.get(place) is current:
                del self._coming[place]

    async def _keep(self, peer: Peer, machine: Row, errand: wire.Errand, task: UUID) -> None:
        artifact = errand.artifact
        assert artifact is not None  # matched
        if await self._is_kept(artifact, task, errand.attempt):
            await peer.say({"have": errand.size})
            await peer.say({"stored": True})
            return
        await self._check_room(machine, errand, task, artifact)
        path = self._incoming(task, errand.attempt, artifact)
        if self._store.path(artifact).exists():  # stored by an earlier try that did not get to its row
            self._store.path(artifact).rename(path)
        have = path.stat().st_size if path.exists() else 0
        if have > errand.size:
            path.unlink()
            have = 0
        await peer.say({"have": have})
        await _receive(peer, path, errand.size - have)
        await self._store_complete(machine, errand, task, artifact, path)
        await peer.say({"stored": True})

    async def _is_kept(self, artifact: UUID, task: UUID, attempt: int) -> bool:
        """Whether an earlier try was done whose answer was lost. Raises Refused when the id is somebody else's."""
        async with self._database.separately() as tx:
            row = await tx.one(SQL["kept_already"], artifact)
        if row is None:
            return False
        if (row["task_id"], row["attempt"]) != (task, attempt):
            raise Refused("malformed", "the artifact's id is taken")
        return True

    async def _check_room(self, machine: Row, errand: wire.Errand, task: UUID, artifact: UUID) -> None:
        name = errand.name
        if not 0 < len(name) <= _MAX_NAME or name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise Refused("malformed", "the file's name is none")
        async with self._database.separately() as tx:
            held = await tx.one(SQL["held"], task, errand.attempt, machine["id"], artifact)
        if held is None:
            raise Refused("stale", "the attempt is not this machine's, or no longer running")
        if errand.size < 0 or held["kept"] + errand.size > self._limit:
            raise Refused("large", "the kept files are larger than their limit together")

    def _incoming(self, task: UUID, attempt: int, artifact: UUID) -> Path:
        """Where a file is written; another one of the same attempt was given up."""
        path = self._store.path_of(f"{task}-{attempt}-{artifact}.incoming")
        for other in path.parent.glob(f"{task}-{attempt}-*.incoming"):
            if other != path:
                other.unlink(missing_ok=True)
        return path

    async def _store_complete(self, machine: Row, errand: wire.Errand, task: UUID, artifact: UUID, path: Path) -> None:
        if await asyncio.to_thread(_sha256, path) != errand.sha256:
            path.unlink(missing_ok=True)
            raise Refused("damaged", "the file's bytes are not those that were announced")
        final = self._store.path(artifact)
        path.rename(final)
        values = (artifact, task, errand.attempt, errand.name, errand.size, errand.sha256, machine["id"])
        try:
            async with self._database.separately() as tx:
                stored = await tx.one(SQL["add_carried"], *values)
        except Violation as error:
            final.unlink(missing_ok=True)
            raise Refused("malformed", "the attempt has kept a file of that name already") from error
        if stored is None:
            final.unlink(missing_ok=True)
            raise Refused("stale", "the attempt is not this machine's, or no longer running")


async def _receive(peer: Peer, path: Path, size: int) -> None:
    """Append exactly so many bytes. Raises EOFError, OSError, TimeoutError; what came stays for the next try."""
    left = size
    with path.open("ab") as file:
        while left:
            async with asyncio.timeout(wire.STALLED_SECONDS):
                chunk = await peer.reader.read(min(left, wire.CHUNK))
            if not chunk:
                raise EOFError
            await asyncio.to_thread(file.write, chunk)
            left -= len(chunk)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
