"""The dispatcher: claims tasks, runs their attempts, renews their leases, and rescues what others lost.

Several may run at once, on one or more machines: the database decides who gets a task (`claim`), whether an
attempt is still the current one (`finish`), and when a lease has run out (its own clock). A dispatcher is woken by
NOTIFY and looks by itself every second anyway. Ended attempts and waiting tasks change hands in `tasks/exchange.py`.
"""

import asyncio
import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from sfp_server.db.database import Database, Row
from sfp_server.errors import SfpError
from sfp_server.identity import application_tokens
from sfp_server.pace import Pace
from sfp_server.tasks.attempt import Attempt, Ending, Engine
from sfp_server.tasks.claims import claimed
from sfp_server.tasks.clock import DatabaseClock
from sfp_server.tasks.exchange import MOST, Exchange, Outcome, finish_lost
from sfp_server.tasks.model import Claimed, Machine, Status, TaskError
from sfp_server.tasks.reports import SQL, persistently
from sfp_server.tasks.schedules import fire
from sfp_server.version import VERSION

log = structlog.get_logger()

#: seconds; NOTIFY makes it faster, this makes it certain
_LOOK_SECONDS = 1.0
#: looks because of news that may follow each other at once, and how many a second beyond them
_LOOKS_AT_ONCE, _LOOKS_PER_SECOND = 10, 50
#: seconds between two looks for months to make and to drop
_CLEAN_SECONDS = 3600.0
_TELL_SECONDS = 60.0
#: of its time at most this share goes into the reasons of waiting tasks, unless they are older than so many seconds
_EXPLAIN_SHARE, _EXPLAIN_SECONDS = 0.02, 15.0
#: leases are renewed this many times before they would run out
_RENEWALS_PER_LEASE = 4
#: part of a lease for which one that has run out must stay as it is before its attempt is lost
_UNRENEWED = 1.25 / _RENEWALS_PER_LEASE
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
        state_file: Path | None,
        place: str,
        team_limit: int = 0,
        preemptions_at_most: int = 3,
        retention_days: tuple[int, int] = (90, 30),
        machine: Machine | None = None,
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
        self._machine = machine or Machine()
        self._running: dict[UUID, Attempt] = {}
        #: since when, by our own clock, the lease of a running attempt is certain to last
        self._leased_at: dict[UUID, float] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._looks = Pace(at_once=_LOOKS_AT_ONCE, per_second=_LOOKS_PER_SECOND)
        #: of the loop's clock
        self._next_look = 0.0
        self._stopping = asyncio.Event()
        #: when the reasons are looked at next, by our own clock
        self._explain_at = 0.0
        self._clock = DatabaseClock(engine.database)
        #: leases that had run out when we looked last, and when we saw them first, on our own clock
        self._expired: dict[tuple[UUID, int, datetime], float] = {}
        self._exchange = Exchange(engine.database, self.id, wake=self._wake.set)

    def stop(self) -> None:
        """Take nothing new. `run` returns when running attempts have ended. Stopping twice is fine."""
        self._stopping.set()
        self._wake.set()

    async def run(self, *, stop_seconds: float) -> None:
        """Serve until `stop`; attempts then get `stop_seconds` to end by themselves."""
        await self._until_done(self._announce)
        await self._until_done(self._bury_predecessors)
        loops = [asyncio.create_task(loop) for loop in self._loops()]
        log.info("dispatcher ready", dispatcher=str(self.id), runtimes=list(self._engine.runtimes))
        try:
            await self._stopping.wait()
            await self._drain(stop_seconds)
            await self._leave()
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def _loops(self) -> list[Coroutine[Any, Any, None]]:
        renewing = self._every(self._lease_seconds / _RENEWALS_PER_LEASE, self._renew)
        loops = [self._listen(), self._trade(), renewing]
        if self._machine.remote:
            return [*loops, self._every(_LOOK_SECONDS, self._fence)]
        return [
            *loops,
            self._every(_LOOK_SECONDS, self._keep_house),
            self._every(_LOOK_SECONDS * 2, self._report_state),
            self._every(_CLEAN_SECONDS, self._clean),
            self._every(_TELL_SECONDS, self._tell_of_tokens),
        ]

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
            before, up_to = _now(), self._room()
            rows = await self._exchange.step(self._offers(), self._rules, up_to=up_to)
            for row in rows:
                self._begin(claimed(row), leased_at=before)
            if len(rows) < MOST and not self._exchange.is_waited_for:
                return

    def _room(self) -> int:
        """Tasks that we take at once."""
        if self._stopping.is_set():
            return 0
        slots = self._machine.slots
        return MOST if slots is None else max(0, min(MOST, slots - len(self._running)))

    async def _begin_unheard(self) -> None:
        """Begin what a claim gave us before its connection broke; otherwise it would wait for its lease to run out."""
        before = _now()
        async with self._database.separately() as tx:
            rows = await tx.all(SQL["unheard"], self.id, list(self._running))
        for row in rows:
            log.warning("a claim had been made unheard", task=str(row["id"]), attempt=row["attempt"])
            # when it was made we do not know: the next renewal says whether it still counts
            self._begin(claimed(row), leased_at=before)

    def _offers(self) -> list[str]:
        """What decides which tasks may come here, as the database's functions know it."""
        return [*self._offered(), *(f"+{name}" for name in self._machine.toolchains)]

    def _offered(self) -> list[str]:
        """Runtimes this dispatcher has, the default one first."""
        default = self._engine.default_runtime
        return [default, *(name for name in self._engine.runtimes if name != default)]

    def _begin(self, task: Claimed, *, leased_at: float) -> None:
        attempt = Attempt(self._engine, task, self._exchange)
        self._running[task.id] = attempt
        self._leased_at[task.id] = leased_at
        running = asyncio.create_task(attempt.run())
        self._attempts.add(running)

        def ended(done: asyncio.Task[None]) -> None:
            self._attempts.discard(done)
            if self._running.get(task.id) is attempt:
                del self._running[task.id]
                del self._leased_at[task.id]
            if self._machine.slots is not None:  # else what took its place came with the step that ended it
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
            self._look_soon()

    def _look_soon(self) -> None:
        """There may be something to take. Ends are dealt with at once; news alone, when it keeps coming, is not."""
        loop = asyncio.get_running_loop()
        if self._next_look > loop.time():
            return
        seconds = self._looks.wait()
        if seconds > 0:
            self._next_look = loop.time() + seconds
            loop.call_at(self._next_look, self._wake.set)
        else:
            self._wake.set()

    # --------------------------------------------------------------------------------------------- leases

    async def _renew(self) -> None:
        """Renew in bulk; what does not come back was given to somebody else: its worker ends, unheard."""
        held = dict(self._running)
        before = _now()
        async with self._database.serving() as tx:
            rows = await tx.all(SQL["renew"], self.id, list(held))
        current = {(row["task_id"], row["attempt"]): row for row in rows}
        for task_id, attempt in held.items():
            row = current.get((task_id, attempt.task.attempt))
            if self._running.get(task_id) is not attempt:
                continue  # it ended meanwhile
            if row is None:
                attempt.end(Ending.STALE)
                continue
            self._leased_at[task_id] = before
            if row["cancel_requested_at"] is not None:
                attempt.end(Ending.CANCELLED)
            elif row["preempt_asked_at"] is not None:
                attempt.end(Ending.PREEMPTED)
        await self._announce()

    async def _fence(self) -> None:
        """End workers whose leases have run out by our own clock, without asking: we may be cut off."""
        now = _now()
        for task_id, attempt in list(self._running.items()):
            if now - self._leased_at[task_id] > attempt.task.lease_seconds:
                attempt.end(Ending.STALE)

    def end_all(self) -> None:
        """Nothing that runs here counts any more: end every worker, write nothing."""
        for attempt in list(self._running.values()):
            attempt.end(Ending.STALE)

    async def _announce(self) -> None:
        isolation = {name: runtime.isolation() for name, runtime in self._engine.runtimes.items()}
        async with self._database.serving() as tx:
            facts = (self._host, os.getpid(), self._offered(), isolation, dict(self._machine.toolchains))
            await tx.execute(SQL["announce"], self.id, *facts, self._machine.slots, VERSION)

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
        """Attempts whose lease ran out and that nobody renews, whoever had them; our own are alive, and renewed next.

        One look is not enough: when the database comes back, or its clock jumps, all leases have run out at once. Who
        is alive renews within a quarter of a lease, so one that has not changed for longer belongs to nobody.
        """
        async with self._database.serving() as tx:
            rows = await tx.all(SQL["expired"])
        now = time.monotonic()
        before, self._expired = self._expired, {}
        for row in rows:
            lease = (row["task_id"], row["attempt"], row["lease_expires_at"])
            since = self._expired[lease] = before.get(lease, now)
            if row["task_id"] not in self._running and now - since >= self._lease_seconds * _UNRENEWED:
                await self._lose(row)

    async def _lose(self, row: Row) -> None:
        task = claimed(row)
        ended = await finish_lost(self._database, task, Outcome(status=Status.FAILED, error=_NO_WORKER))
        if ended:
            log.warning("attempt lost", task=str(task.id), attempt=task.attempt, team=str(task.team_id))

    # --------------------------------------------------------------------------------------- housekeeping

    async def _keep_house(self) -> None:
        await self._clock.look()
        await self._rescue()
        while await fire(self._database):
            self._wake.set()
        while await self._fail_overdue():
            pass
        async with self._database.serving() as tx:
            if await tx.all(SQL["due"]):
                self._wake.set()
        await self._explain()

    async def _explain(self) -> None:
        """Keep the reasons of what waits true. It reads all that waits: with very much, less often."""
        began = _now()
        if began < self._explain_at:
            return
        async with self._database.serving() as tx:
            await tx.execute(SQL["explain"], self._rules[0])
        self._explain_at = began + min(_EXPLAIN_SECONDS, (_now() - began) / _EXPLAIN_SHARE)

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
            alive = await tx.all(SQL["alive"])
            await tx.execute(SQL["forget_dead"])
        default = self._engine.runtimes[self._engine.default_runtime]
        state: dict[str, Any] = {
            "runtime": default.name,
            "isolation": default.isolation(),
            "slots": {row["name"]: row["slots"] for row in rows},
            "pending": {row["name"]: row["pending"] for row in rows},
            "active": {row["name"]: row["active"] for row in rows},
            "dispatchers": [dict(row) | {"seen_at": row["seen_at"].isoformat()} for row in alive],
            "at": datetime.now(UTC).isoformat(),
        }
        if self._state_file is not None:
            draft = self._state_file.with_suffix(".part")
            draft.write_text(json.dumps(state))
            draft.replace(self._state_file)

    async def _tell_of_tokens(self) -> None:
        """Ours is the instance's clock: application tokens that end soon are told of, once whoever looks."""
        await application_tokens.tell(self._engine.database)

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


def _now() -> float:
    """Seconds that pass while the machine sleeps, too: a lease does not wait for it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
