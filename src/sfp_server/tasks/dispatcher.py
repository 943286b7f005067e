"""The dispatcher: claims tasks, runs their attempts, renews their leases, and rescues what others lost.

Several may run at once, on one or more machines: the database decides who gets a task (`claim`), whether an
attempt is still the current one (`finish`), and when a lease has run out (its own clock). A dispatcher is woken by
NOTIFY and looks by itself every second anyway. Ended attempts and waiting tasks change hands in `tasks/exchange.py`.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from sfp_server.db.database import Database, Row
from sfp_server.errors import SfpError
from sfp_server.tasks.attempt import Attempt, Ending, Engine
from sfp_server.tasks.exchange import MOST, Exchange, Outcome, finish_lost
from sfp_server.tasks.model import Claimed, Queue, Retry, Status, TaskError
from sfp_server.tasks.reports import SQL, persistently
from sfp_server.tasks.schedules import fire

log = structlog.get_logger()

#: seconds; NOTIFY makes it faster, this makes it certain
_LOOK_SECONDS = 1.0
#: seconds between two looks for months to make and to drop
_CLEAN_SECONDS = 3600.0
#: leases are renewed this many times before they would run out
_RENEWALS_PER_LEASE = 4
#: what a notification with a task's id asks for
_ENDINGS = {"cancel": Ending.CANCELLED, "preempt": Ending.PREEMPTED}
_NO_WORKER = TaskError(code="worker_lost", message="the worker or its dispatcher died", retryable=True)


class Dispatcher:
    """One dispatcher process. `run` returns after `stop`, when its workers have ended."""

    def __init__(
        self,
        engine: Engine,
        *,
        lease_seconds: float,
        state_file: Path,
        place: str,
        team_limit: int = 0,
        preemptions_at_most: int = 3,
        retention_days: tuple[int, int] = (90, 30),
    ) -> None:
        self.id = uuid4()
        self._engine = engine
        self._database: Database = engine.database
        self._lease_seconds = lease_seconds
        #: tasks that one team may have active (0: any number), and how often one task makes room for others
        self._rules = (team_limit, preemptions_at_most)
        #: days after which finished tasks, and events (log lines among them), are dropped
        self._retention = retention_days
        self._state_file = state_file
        #: names this machine and instance: what an earlier dispatcher of the same place ran has died with it
        self._host = f"{socket.gethostname()}:{place}"
        self._running: dict[UUID, Attempt] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._exchange = Exchange(engine.database, self.id, wake=self._wake.set)

    def stop(self) -> None:
        """Take nothing new. `run` returns when running attempts have ended. Stopping twice is fine."""
        self._stopping.set()
        self._wake.set()

    async def run(self, *, stop_seconds: float) -> None:
        """Serve until `stop`; attempts then get `stop_seconds` to end by themselves."""
        await self._until_done(self._announce)
        await self._until_done(self._bury_predecessors)
        loops = [
            asyncio.create_task(self._listen()),
            asyncio.create_task(self._trade()),
            asyncio.create_task(self._every(self._lease_seconds / _RENEWALS_PER_LEASE, self._renew)),
            asyncio.create_task(self._every(_LOOK_SECONDS, self._keep_house)),
            asyncio.create_task(self._every(_LOOK_SECONDS * 2, self._report_state)),
            asyncio.create_task(self._every(_CLEAN_SECONDS, self._clean)),
        ]
        log.info("dispatcher ready", dispatcher=str(self.id), runtimes=list(self._engine.runtimes))
        try:
            await self._stopping.wait()
            await self._drain(stop_seconds)
            await self._leave()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    # ------------------------------------------------------------------------------------------- claiming

    async def _trade(self) -> None:
        """Hand in what has ended and take what waits, for ever; nothing new once we are stopping."""
        in_doubt = False  # whether tasks may have been given to us without our hearing of it
        while True:
            self._wake.clear()
            pause = _LOOK_SECONDS
            try:
                if in_doubt:
                    await self._begin_unheard()
                in_doubt = True
                await self._trade_all()
                in_doubt = False
            except SfpError as error:
                log.warning("cannot claim now", why=str(error))
                pause = _LOOK_SECONDS / 4
            except Exception:
                log.exception("claiming failed")
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _trade_all(self) -> None:
        while True:
            up_to = 0 if self._stopping.is_set() else MOST
            rows = await self._exchange.step(self._offered(), self._rules, up_to=up_to)
            for row in rows:
                self._begin(_claimed(row))
            if len(rows) < MOST and not self._exchange.is_waited_for:
                return

    async def _begin_unheard(self) -> None:
        """Begin what a claim gave us before its connection broke; otherwise it would wait for its lease to run out."""
        async with self._database.separately() as tx:
            rows = await tx.all(SQL["unheard"], self.id, list(self._running))
        for row in rows:
            log.warning("a claim had been made unheard", task=str(row["id"]), attempt=row["attempt"])
            self._begin(_claimed(row))

    def _offered(self) -> list[str]:
        """Runtimes this dispatcher has, the default one first."""
        default = self._engine.default_runtime
        return [default, *(name for name in self._engine.runtimes if name != default)]

    def _begin(self, task: Claimed) -> None:
        attempt = Attempt(self._engine, task, self._exchange)
        self._running[task.id] = attempt
        running = asyncio.create_task(attempt.run())
        self._attempts.add(running)

        def ended(done: asyncio.Task[None]) -> None:
            self._attempts.discard(done)
            if self._running.get(task.id) is attempt:
                del self._running[task.id]
            self._wake.set()

        running.add_done_callback(ended)

    async def _drain(self, seconds: float) -> None:
        if self._attempts:
            log.info("waiting for running attempts", count=len(self._attempts), seconds=seconds)
            await asyncio.wait(self._attempts, timeout=seconds)
        for attempt in list(self._running.values()):
            attempt.end(Ending.SHUTDOWN)
        if self._attempts:
            await asyncio.wait(self._attempts)

    # --------------------------------------------------------------------------------------------- waking

    async def _listen(self) -> None:
        while True:
            try:
                await self._database.listen("sfp_tasks", self._heard, connected=self._wake.set)
            except SfpError:
                await asyncio.sleep(_LOOK_SECONDS)

    def _heard(self, payload: str) -> None:
        word, _, task_id = payload.partition(" ")
        if word in _ENDINGS:
            attempt = self._running.get(UUID(task_id))
            if attempt is not None:
                attempt.end(_ENDINGS[word])
        else:
            self._wake.set()

    # --------------------------------------------------------------------------------------------- leases

    async def _renew(self) -> None:
        """Renew in bulk; what does not come back was given to somebody else: its worker ends, unheard."""
        held = dict(self._running)
        async with self._database.serving() as tx:
            rows = await tx.all(SQL["renew"], self.id, list(held))
        current = {(row["task_id"], row["attempt"]): row for row in rows}
        for task_id, attempt in held.items():
            row = current.get((task_id, attempt.task.attempt))
            if row is None:
                if self._running.get(task_id) is attempt:
                    attempt.end(Ending.STALE)
            elif row["cancel_requested_at"] is not None:
                attempt.end(Ending.CANCELLED)
            elif row["preempt_asked_at"] is not None:
                attempt.end(Ending.PREEMPTED)
        await self._announce()

    async def _announce(self) -> None:
        isolation = {name: runtime.isolation() for name, runtime in self._engine.runtimes.items()}
        async with self._database.serving() as tx:
            await tx.execute(SQL["announce"], self.id, self._host, os.getpid(), self._offered(), isolation)

    async def _leave(self) -> None:
        try:
            async with self._database.serving() as tx:
                await tx.execute(SQL["leave"], self.id)
        except SfpError as error:
            log.warning("could not say goodbye", why=str(error))

    async def _bury_predecessors(self) -> None:
        """An earlier dispatcher of this place is dead (we hold its lock): end what it left, at once."""
        async with self._database.serving() as tx:
            rows = await tx.all(SQL["abandoned"], self._host, [self.id])
        for row in rows:
            if row["handle"]:
                await self._stop_leftover(row)
            await self._lose(row)

    async def _stop_leftover(self, row: Row) -> None:
        runtime = self._engine.runtimes.get(row["runtime"])
        if runtime is not None:
            await runtime.stop(row["handle"])

    async def _rescue(self) -> None:
        """Attempts whose lease ran out, whoever had them; our own are alive, and renewed next."""
        async with self._database.serving() as tx:
            rows = await tx.all(SQL["expired"])
        for row in rows:
            if row["task_id"] not in self._running:
                await self._lose(row)

    async def _lose(self, row: Row) -> None:
        task = _claimed(row)
        ended = await finish_lost(self._database, task, Outcome(status=Status.FAILED, error=_NO_WORKER))
        if ended:
            log.warning("attempt lost", task=str(task.id), attempt=task.attempt, team=str(task.team_id))

    # --------------------------------------------------------------------------------------- housekeeping

    async def _keep_house(self) -> None:
        await self._rescue()
        while await fire(self._database):
            self._wake.set()
        while await self._fail_overdue():
            pass
        async with self._database.serving() as tx:
            if await tx.all(SQL["due"]):
                self._wake.set()
            await tx.execute(SQL["explain"], self._rules[0])

    async def _fail_overdue(self) -> bool:
        error = {"code": "queue_timeout", "message": "no worker was free in time", "retryable": False}
        async with self._database.serving() as tx:
            row = await tx.one(SQL["overdue"], error)
            if row is None:
                return False
            await tx.serve(row["team_id"])
            await tx.all(SQL["tell_overdue"], row["id"])
        return True

    async def _clean(self) -> None:
        """Make the partitions of the months to come; drop old ones whole, with the files of what they kept."""
        tasks_days, events_days = self._retention
        await persistently(lambda: self._call("make_partitions"))
        await persistently(lambda: self._call("drop_old_events", min(events_days, tasks_days)))
        for row in await persistently(lambda: self._call("drop_old_tasks", tasks_days)):
            self._engine.store.remove(row["drop_old_tasks"])

    async def _call(self, name: str, *values: Any) -> Sequence[Row]:
        async with self._database.serving() as tx:
            return await tx.all(SQL[name], *values)

    async def _report_state(self) -> None:
        """What `sfp-server status` shows, where it can read it without a token."""
        async with self._database.serving() as tx:
            rows = await tx.all(SQL["depth"])
            await tx.execute(SQL["forget_dead"])
        default = self._engine.runtimes[self._engine.default_runtime]
        state: dict[str, Any] = {
            "runtime": default.name,
            "isolation": default.isolation(),
            "slots": {row["name"]: row["slots"] for row in rows},
            "pending": {row["name"]: row["pending"] for row in rows},
            "active": {row["name"]: row["active"] for row in rows},
            "at": datetime.now(UTC).isoformat(),
        }
        draft = self._state_file.with_suffix(".part")
        draft.write_text(json.dumps(state))
        draft.replace(self._state_file)

    async def _every(self, seconds: float, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step for ever; one that fails is logged and comes again."""
        while True:
            try:
                await step()
            except SfpError as error:
                log.warning("step skipped", step=step.__name__, why=str(error))
            except Exception:
                log.exception("step failed", step=step.__name__)
            await asyncio.sleep(seconds)

    async def _until_done(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat a step until it succeeds: the database may still be starting."""
        while True:
            try:
                return await step()
            except (SfpError, OSError) as error:
                log.warning("waiting", step=step.__name__, why=str(error))
                await asyncio.sleep(_LOOK_SECONDS / 4)


def _claimed(row: Row) -> Claimed:
    """A row of `claim`, `expired` or `abandoned` as what the engine works with."""
    return Claimed(
        id=row.get("id") or row["task_id"],
        team_id=row["team_id"],
        type=row.get("type", ""),
        data=row.get("data", {}),
        priority=Queue(row.get("priority", Queue.NORMAL)),
        attempt=row["attempt"],
        preemptions=row["preemptions"],
        retry=_retry(row),
        timeout_seconds=row.get("timeout_seconds", 0.0),
        lease_seconds=row.get("lease_seconds", 0.0),
        runtime=row.get("runtime"),
        network=row.get("network", "none"),
        limits=row.get("limits", {}),
        credentials=tuple(row.get("credentials", ())),
    )


def _retry(row: Row) -> Retry:
    config: Mapping[str, Any] | None = row["retry_config"]
    if config is None:
        return Retry(max_attempts=row["max_attempts"])
    return Retry(
        max_attempts=row["max_attempts"],
        exponential=config["backoff"] == "exponential",
        delay_seconds=config["delaySeconds"],
        max_delay_seconds=config["maxDelaySeconds"],
        jitter=config["jitter"],
    )
