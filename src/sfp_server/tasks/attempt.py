"""One attempt, from claim to finish: describe → ticket → start → report → finish → clean.

Whatever happens is handed to the exchange exactly once; its statement names the attempt: an attempt that is
no longer the current one changes nothing. Reports go to the database as they come; while it is away they
wait, and so does the worker (back-pressure).
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import structlog

from sfp_server.db.database import Database
from sfp_server.runtimes.base import (
    Exit,
    Handle,
    Limits,
    Network,
    Runtime,
    RuntimeUnavailable,
    Workload,
)
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.tasks.delivery import Delivery, LocalDelivery, Undeliverable
from sfp_server.tasks.exchange import Exchange, Outcome
from sfp_server.tasks.kind import Circumstances, Kind, Kinds
from sfp_server.tasks.model import RETRYABLE, Claimed, Status, TaskError
from sfp_server.tasks.reports import SQL, Reports, persistently

log = structlog.get_logger()

#: seconds beyond the grace period after which a worker that does not end is abandoned as lost
_STOP_SECONDS = 10.0
#: A worker that has ended by then needs no handle in the database. (Should the dispatcher die earlier, the worker
#: goes with it as always: its control socket closes. The handle is the second rope.)
_SHORT_SECONDS = 0.05


class Ending(StrEnum):
    """Why the dispatcher itself ends an attempt."""

    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    #: the attempt is no longer ours: end the worker, write nothing
    STALE = "stale"
    #: more urgent work needs the slot: back in line
    PREEMPTED = "preempted"
    #: the dispatcher is being stopped
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What every attempt needs of its dispatcher."""

    database: Database
    runtimes: Mapping[str, Runtime]
    default_runtime: str
    kinds: Kinds
    store: ArtifactStore
    limits: Limits
    grace_seconds: float
    #: None: the files are on this machine
    delivery: Delivery | None = None


class Attempt:
    """Runs one claimed task. `end` may be called at any time; `run` returns when everything is cleaned up."""

    def __init__(self, engine: Engine, task: Claimed, exchange: Exchange) -> None:
        self.task = task
        self._engine = engine
        self._exchange = exchange
        self._ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._delivery = engine.delivery or LocalDelivery(engine.database, engine.store)
        self._reports = Reports(engine.database, self._delivery, task, lambda: self.end(Ending.STALE))
        #: fetched files that the worker does not have yet
        self._fetched: list[Path] = []
        self._began = time.monotonic()
        #: the task of `run` as long as there is no worker that could be asked to end
        self._preparing: asyncio.Task[Any] | None = None
        #: what frees an ended worker's remains; the task's end need not wait for it
        self._clean: Callable[[], Awaitable[None]] | None = None
        self._log = log.bind(
            team=str(task.team_id), task=str(task.id), attempt=task.attempt, type=task.type, queue=str(task.priority)
        )

    def end(self, why: Ending) -> None:
        """Ask the worker to end. The first reason counts."""
        if self._ending.done():
            return
        self._ending.set_result(why)
        if self._preparing is not None:
            self._preparing.cancel()  # what it waits for may never come

    async def run(self) -> None:
        self._log.debug("attempt started")
        try:
            outcome = await self._outcome()
        except Exception:
            self._log.exception("attempt broke")
            outcome = _failed("internal", "the server failed to run this task; its log says more")
        finally:
            self._reports.close()
        try:
            if outcome is None:
                self._log.warning("attempt is no longer ours; its worker was ended")
            else:
                await self._finish(outcome)
        finally:
            if self._clean is not None:
                await asyncio.shield(self._clean())

    async def _outcome(self) -> Outcome | None:
        kind = self._engine.kinds.get(self.task.type)
        if kind is None:
            return _failed("unknown_type", f"this release has no task type {self.task.type}")
        runtime = self._engine.runtimes[self.task.runtime or self._engine.default_runtime]
        if self._ending.done():
            return self._ended(self._ending.result(), Exit())
        too_late = asyncio.get_running_loop().call_later(self.task.timeout_seconds, self.end, Ending.TIMEOUT)
        preparing = self._preparing = asyncio.current_task()
        try:
            data = msgspec.convert(self.task.data, kind.data)
            described = kind.describe(data, await persistently(lambda: self._circumstances(kind, data)))
            workload = replace(described, kind=kind.name, toolchain=self.task.toolchain)
            self._reports.ticket = await self._ticket()
            handle = await runtime.start(workload, self._reports)
        except asyncio.CancelledError:
            if preparing is None or not self._ending.done() or preparing.uncancel() > 0:
                raise  # it is not `end` that cancelled us
            return self._ended(self._ending.result(), Exit())
        except msgspec.ValidationError as error:
            return _failed("bad_data", f"the stored data no longer fits the type: {error}")
        except FileNotFoundError:
            return _failed("workspace", "an input artifact was deleted before the task ran")
        except Undeliverable as error:
            return _failed("cannot_start", f"an input could not be fetched: {error}")
        except RuntimeUnavailable as error:
            return _failed("cannot_start", f"no worker could be started: {error}")
        finally:
            self._preparing = None
            too_late.cancel()
            for path in self._fetched:
                self._delivery.release(path)
        return await self._supervise(runtime, handle, kind, data, workload)

    async def _circumstances(self, kind: Kind[Any], data: Any) -> Circumstances:
        inputs: dict[UUID, tuple[Path, str]] = {}
        for artifact_id in kind.inputs(data):
            inputs[artifact_id] = await self._delivery.fetch(self.task, artifact_id)
            self._fetched.append(inputs[artifact_id][0])
        return Circumstances(
            operation_id=str(self.task.id),
            attempt=self.task.attempt,
            network=Network(self.task.network),
            limits=_narrowed(self._engine.limits, self.task.limits),
            grace_seconds=self._engine.grace_seconds,
            inputs=inputs,
        )

    async def _ticket(self) -> str | None:
        """A fresh ticket for this attempt; only its hash is stored. None when the task declares no credential."""
        if not self.task.credentials:
            return None
        ticket = secrets.token_urlsafe(32)
        token_hash = hashlib.sha256(ticket.encode()).digest()

        async def once() -> int:
            async with self._engine.database.serving(self.task.team_id) as tx:
                return await tx.execute(SQL["add_ticket"], token_hash, self.task.id, self.task.attempt)

        await persistently(once)
        return ticket

    async def _supervise(
        self, runtime: Runtime, handle: Handle, kind: Kind[Any], data: Any, workload: Workload
    ) -> Outcome | None:
        saving = asyncio.create_task(self._save_handle(runtime.name, handle))
        waiting = asyncio.ensure_future(runtime.wait(handle))
        try:
            await asyncio.wait(
                {waiting, self._ending},
                timeout=max(0.0, self._began + self.task.timeout_seconds - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if waiting.done():
                return self._judge(kind, data, await waiting)
            self.end(Ending.TIMEOUT)
            return await self._end_worker(runtime, handle, waiting, self._ending.result(), workload.grace_seconds)
        finally:
            if waiting.done():
                self._clean = lambda: runtime.stop(handle)
            else:
                self._reports.close()  # a report that waits for the database would wait with the worker
                await asyncio.shield(runtime.stop(handle))
            saving.cancel()
            waiting.cancel()
            await asyncio.gather(saving, waiting, return_exceptions=True)

    async def _end_worker(
        self, runtime: Runtime, handle: Handle, waiting: asyncio.Future[Exit], why: Ending, grace: float
    ) -> Outcome | None:
        if why is Ending.STALE:
            return None
        await runtime.terminate(handle)
        await asyncio.wait({waiting}, timeout=grace + _STOP_SECONDS)
        return self._ended(why, await waiting if waiting.done() else Exit())

    def _ended(self, why: Ending, exit_: Exit) -> Outcome | None:
        """The outcome of an attempt that did not end by itself."""
        match why:
            case Ending.STALE:
                return None
            case Ending.CANCELLED:
                error = TaskError(code="cancelled", message="cancelled while it was running")
                return Outcome(status=Status.CANCELLED, error=error, result=self._result(exit_), exit=exit_)
            case Ending.TIMEOUT:
                text = f"it ran longer than {self.task.timeout_seconds:g} seconds"
                return Outcome(
                    status=Status.FAILED,
                    error=TaskError(code="timeout", message=text, retryable=True),
                    result=self._result(exit_),
                    exit=exit_,
                )
            case Ending.PREEMPTED:
                error = TaskError(code="preempted", message="made room for more urgent work", retryable=True)
                return Outcome(status=Status.PENDING, error=error, exit=exit_)
            case Ending.SHUTDOWN:
                return _failed("worker_lost", "the dispatcher was stopped while the task ran")

    def _judge(self, kind: Kind[Any], data: Any, exit_: Exit) -> Outcome:
        failure = exit_.failure or self._reports.failure
        if failure is not None:
            # A worker that was there and could not start the program cannot start it the next time either.
            retryable = failure.code in RETRYABLE and failure.code != "cannot_start"
            error = TaskError(code=failure.code, message=failure.message, retryable=retryable)
            return Outcome(status=Status.FAILED, error=error, result=self._result(exit_), exit=exit_)
        if kind.succeeded(data, exit_):
            return Outcome(status=Status.COMPLETED, result=self._result(exit_), exit=exit_)
        how = f"killed by signal {exit_.signal}" if exit_.signal else f"exited with status {exit_.code}"
        error = TaskError(code="exit_code", message=f"the program {how}", retryable=True)
        return Outcome(status=Status.FAILED, error=error, result=self._result(exit_), exit=exit_)

    def _result(self, exit_: Exit) -> dict[str, Any]:
        return {
            "exitCode": exit_.code,
            "signal": exit_.signal,
            "durationMs": round((time.monotonic() - self._began) * 1000),
            "output": exit_.output,
            "artifacts": self._reports.kept,
            "usage": {
                "cpuSeconds": exit_.usage.cpu_seconds,
                "peakMemoryBytes": exit_.usage.peak_memory_bytes,
                "outputBytes": exit_.usage.output_bytes,
            },
        }

    async def _save_handle(self, runtime: str, handle: Handle) -> None:
        """For a dispatcher that comes after us. A worker that is about to end is not worth a write to the disk."""
        await asyncio.sleep(_SHORT_SECONDS)

        async def once() -> int:
            async with self._engine.database.separately() as tx:
                return await tx.execute(SQL["save_handle"], self.task.id, self.task.attempt, handle, runtime)

        await persistently(once)

    async def _finish(self, outcome: Outcome) -> None:
        ended = await self._exchange.finish(self.task, outcome)
        self._log.info(
            "attempt finished" if ended else "attempt was stale; its result is refused",
            status=str(outcome.status),
            code=outcome.error.code if outcome.error else None,
            exit_code=outcome.exit.code,
            seconds=round(time.monotonic() - self._began, 3),
        )


def _failed(code: str, message: str) -> Outcome:
    return Outcome(status=Status.FAILED, error=TaskError(code=code, message=message, retryable=code in RETRYABLE))


def _narrowed(limits: Limits, wanted: Mapping[str, int]) -> Limits:
    """The task's own limits, where it named any; never above the instance's (checked at submission, again here)."""
    names = {"memoryMb": "memory_mb", "diskMb": "disk_mb", "processes": "processes", "cpuSeconds": "cpu_seconds"}
    values = {name: getattr(limits, name) for name in Limits.__dataclass_fields__}
    for wire, name in names.items():
        if wire in wanted:
            ceiling = values[name]
            values[name] = wanted[wire] if ceiling is None else min(wanted[wire], ceiling)
    return Limits(**values)
