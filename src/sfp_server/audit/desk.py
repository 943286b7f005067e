"""The auditor's desk: a unix socket where the API asks for a receipt or a verification.

One line of JSON each way: `{"receipt": {"team", "task"}}`, `{"verify": {"team", "run", "wait"}}` or `{"state": {}}`;
the answer is `{"answer": …}` or `{"error": {"code", "message"}}`. The auditor reads by itself what it signs, so that a
taken-over API gets no signature for something that is not in the database.

A verification goes on when nobody waits for it any more: `run` names it, and asking again with that name waits on.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import structlog

from sfp_proof.check import Report
from sfp_proof.checkpoint import Checkpoints, files_at, read
from sfp_proof.keys import KeyRing
from sfp_server.audit.receipt import compose
from sfp_server.audit.sealer import Sealer
from sfp_server.audit.service import SQL
from sfp_server.audit.signer import Signer
from sfp_server.audit.verifying import PATIENCE, verify
from sfp_server.db.database import Database
from sfp_server.errors import SfpError

log = structlog.get_logger()

_REQUEST_BYTES = 4096
_REQUEST_SECONDS = 60.0
#: verifications whose results are kept, and those under way at once; more wait
_KEPT, _AT_ONCE = 100, 2


class _AskReceipt(msgspec.Struct, forbid_unknown_fields=True):
    team: UUID
    task: UUID


class _AskVerify(msgspec.Struct, forbid_unknown_fields=True):
    team: UUID
    run: str | None
    #: seconds
    wait: float


class _AskState(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    receipt: _AskReceipt | None = None
    verify: _AskVerify | None = None
    state: _AskState | None = None


@dataclass(slots=True, kw_only=True)
class _Run:
    """One verification, under way or done."""

    name: str
    team: UUID
    task: "asyncio.Task[Report]" = field(init=False)
    entries: int = 0

    def count(self, entries: int) -> None:
        self.entries = entries


class Desk:
    """Answers until cancelled."""

    def __init__(
        self, database: Database, signer: Signer, keys: KeyRing, sealer: Sealer, directory: Path, *, instance: str
    ) -> None:
        """`directory`: of the checkpoints; `instance`: how receipts name us."""
        self._database = database
        self._signer = signer
        self._keys = keys
        self._sealer = sealer
        self._directory = directory
        self._instance = instance
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def serve(self, socket: Path, *, ready: Callable[[], None] = lambda: None) -> None:
        """Listen until cancelled. A socket file left over is replaced."""
        with suppress(FileNotFoundError):
            socket.unlink()
        server = await asyncio.start_unix_server(self._connected, path=socket, limit=_REQUEST_BYTES)
        socket.chmod(0o600)
        log.info("auditor ready", key=self._signer.key_id)
        ready()
        try:
            async with server:
                await server.serve_forever()
        finally:
            for run in self._runs.values():
                run.task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                writer.write(msgspec.json.encode(await self._answer(await reader.readline())) + b"\n")
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            log.info("whoever asked the auditor has left or stalled")
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = msgspec.json.decode(line, type=_Request)
            if request.receipt is not None:
                return {"answer": await self._receipt(request.receipt)}
            if request.verify is not None:
                return {"answer": await self._verified(request.verify)}
            if request.state is not None:
                return {"answer": await self._state()}
        except SfpError as error:
            return {"error": {"code": error.code, "message": str(error)}}
        except msgspec.DecodeError:
            pass
        except Exception:
            log.exception("the auditor could not answer")
            return {"error": {"code": "unavailable", "message": "the auditor failed; see its log"}}
        return {"error": {"code": "bad_request", "message": "the request is not understood"}}

    async def _receipt(self, asked: _AskReceipt) -> dict[str, Any]:
        document = await compose(
            self._database,
            team=asked.team,
            task=asked.task,
            instance=self._instance,
            head=self._sealer.head,
            signed_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return self._signer.receipt(document)

    async def _state(self) -> dict[str, Any]:
        """How far the trail has come, what waits, and whether something waits for too long."""
        async with self._database.serving() as tx:
            row = await tx.one(SQL["waiting"], None, PATIENCE)
        assert row is not None  # an aggregate
        return {"entries": self._sealer.head.seq, "waiting": row["entries"], "late": row["too_long"]}

    async def _verified(self, asked: _AskVerify) -> dict[str, Any]:
        """The report, or how far it has come after `wait` seconds."""
        run = self._runs.get(asked.run or "")
        if run is None or run.team != asked.team:
            run = self._begin(asked.team)
        await asyncio.wait({run.task}, timeout=asked.wait)
        if not run.task.done():
            return {"run": run.name, "complete": False, "entries": run.entries}
        return {"run": run.name, "complete": True, **run.task.result().as_json()}

    def _begin(self, team: UUID) -> _Run:
        """A new verification, or the one of this team that is under way."""
        for run in self._runs.values():
            if run.team == team and not run.task.done():
                return run
        run = _Run(name=secrets.token_urlsafe(12), team=team)
        run.task = asyncio.create_task(self._check(run))
        # When nobody asks again, nobody hears how it failed.
        run.task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._runs[run.name] = run
        while len(self._runs) > _KEPT:
            self._runs.popitem(last=False)[1].task.cancel()
        return run

    async def _check(self, run: _Run) -> Report:
        async with self._turns:
            return await verify(self._database, self._keys, await self._known(), team=run.team, told=run.count)

    async def _known(self) -> Checkpoints:
        """The checkpoints, and what we remember beyond them."""
        heads, head = dict(self._sealer.teams), self._sealer.head
        known = await asyncio.to_thread(read, files_at(self._directory), self._keys)
        if head.seq:
            known.marks.setdefault(head.seq, head.mark)
        for team, of_team in heads.items():
            known.teams.setdefault(team, {}).setdefault(of_team.seq, of_team.mark)
        return known
