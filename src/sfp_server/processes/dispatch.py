"""The dispatcher process: claims tasks and runs their workers on this machine."""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

import structlog

from sfp_server.db.database import Database
from sfp_server.kinds import KINDS
from sfp_server.processes.leash import leash
from sfp_server.processes.signals import stop_signal
from sfp_server.runtimes.base import Limits, Runtime, RuntimeUnavailable
from sfp_server.runtimes.broker import BrokerDoor
from sfp_server.runtimes.detect import container, detect
from sfp_server.runtimes.toolchains import of_machine, versions
from sfp_server.settings import Settings
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.tasks.attempt import Engine
from sfp_server.tasks.dispatcher import Dispatcher
from sfp_server.tasks.model import Machine
from sfp_server.tasks.steps import SQL, persistently

log = structlog.get_logger()

#: seconds that running tasks get to end by themselves when the dispatcher is stopped
STOP_SECONDS = 30.0
#: seconds between two tries to reach a container engine that does not answer
ENGINE_SECONDS = 5.0


def limits_of(settings: Settings) -> Limits:
    """The instance's ceilings for one worker."""
    return Limits(
        memory_mb=settings.worker_memory_mb,
        disk_mb=settings.worker_disk_mb,
        processes=settings.worker_processes,
        cpu_seconds=settings.worker_cpu_seconds,
        output_bytes=settings.worker_output_mb * 1024 * 1024,
        artifact_bytes=settings.worker_artifact_mb * 1024 * 1024,
    )


async def run(settings: Settings) -> None:
    """Run the dispatcher of this instance's directory; a second one waits until the first has ended."""
    async with leash(settings.lease_seconds):  # first, while nothing is open that a fork could keep
        await _run(settings)


async def _run(settings: Settings) -> None:
    stopping = stop_signal()
    with await only_one(settings.run_directory / "dispatcher.lock"):
        store = ArtifactStore(settings.directory / "artifacts")
        store.remove_drafts()
        async with (
            Database(settings.role_url("sfp_dispatcher"), application="sfp dispatcher", size=8) as database,
            opened(settings, limits_of(settings)) as runtimes,
        ):
            await _set_slots(database, settings)
            dispatcher = Dispatcher(
                Engine(
                    database=database,
                    runtimes=runtimes,
                    default_runtime=next(iter(runtimes)),
                    kinds=KINDS,
                    store=store,
                    limits=limits_of(settings),
                    grace_seconds=settings.grace_seconds,
                ),
                lease_seconds=settings.lease_seconds,
                state_file=settings.run_directory / "dispatcher.json",
                place=str(settings.directory),
                machine=Machine(slots=settings.dispatcher_slots, toolchains=versions(of_machine(settings))),
                team_limit=settings.team_active_max,
                preemptions_at_most=settings.preemptions_max,
                retention_days=(settings.retention_days, settings.logs_retention_days),
            )
            stopper = asyncio.create_task(then(stopping, dispatcher.stop))
            await dispatcher.run(stop_seconds=STOP_SECONDS)
            stopper.cancel()


@asynccontextmanager
async def opened(
    settings: Settings, limits: Limits, broker: BrokerDoor | None = None
) -> AsyncGenerator[dict[str, Runtime]]:
    """The runtimes of this machine, the default one first; closed at the end."""
    default = await detect(settings, limits, broker)
    runtimes: dict[str, Runtime] = {default.name: default}
    joining = asyncio.create_task(_join_container(runtimes, settings, limits, broker))
    try:
        yield runtimes
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        for runtime in runtimes.values():
            await runtime.close()


async def _join_container(
    runtimes: dict[str, Runtime], settings: Settings, limits: Limits, broker: BrokerDoor | None
) -> None:
    """Add the container runtime where one is set; until its engine answers, its tasks wait with that reason."""
    if settings.container_engine is None or "container" in runtimes:
        return
    runtime = container(settings, limits, broker)
    try:
        await _until_open(runtime)
        runtimes[runtime.name] = runtime
    finally:
        if runtime.name not in runtimes:
            await runtime.close()


async def _until_open(runtime: Runtime) -> None:
    told = False
    while True:
        try:
            await runtime.open()
        except RuntimeUnavailable as error:
            if not told:
                log.warning("the container engine cannot be used; trying on", why=str(error))
                told = True
        else:
            log.info("container runtime ready", isolation=runtime.isolation())
            return
        await asyncio.sleep(ENGINE_SECONDS)


async def _set_slots(database: Database, settings: Settings) -> None:
    """`workerCounts` decides the slots when the dispatcher starts."""

    async def once() -> None:
        async with database.serving() as tx:
            for queue, slots in settings.slots().items():
                await tx.execute(SQL["set_slots"], queue, slots)

    await persistently(once)


async def then(event: asyncio.Event, step: Callable[[], None]) -> None:
    """Do `step` once `event` is set."""
    await event.wait()
    step()


async def only_one(path: Path) -> IO[str]:
    """Hold the lock file as long as the answer is open; the kernel frees it when the process dies."""
    file = path.open("a")
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                log.warning("another dispatcher of this instance is running; waiting for its end", pid=os.getpid())
                told = True
            await asyncio.sleep(0.2)
        else:
            return file
