"""What the two runtimes of this machine share: handles, waiting, ending. How a worker is made differs."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

from sfp_server.runtimes import job
from sfp_server.runtimes.base import Attendant, Exit, Handle, Limits, RuntimeUnavailable, Workload
from sfp_server.runtimes.broker import BrokerDoor
from sfp_server.runtimes.cgroups import Cgroups, Group
from sfp_server.runtimes.conversation import lost
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.toolchains import Toolchain
from sfp_server.runtimes.warm import MAX_WARM, WarmPool
from sfp_server.runtimes.worker import Stranger, Worker

#: exits that are remembered for whoever asks again
REMEMBERED = 2000
#: warm workers that may turn out dead before a start is given up
TRIES = 5
#: Seconds after which an ended worker's remains are cleared away, if `stop` does not ask for it before. To take its
#: mounts and groups apart keeps the kernel busy for a millisecond or two, just when its result is being written down.
CLEAR_SECONDS = 0.1
#: seconds between two looks at a worker that somebody else started
STRANGER_SECONDS = 0.25


class SupervisedRuntime(ABC):
    """A runtime whose workers are supervisors (sfp_worker) on this machine."""

    name: str

    def __init__(
        self,
        *,
        broker_socket: BrokerDoor | None,
        egress: EgressPolicy,
        warm: int,
        toolchains: Mapping[str, Toolchain] | None = None,
    ) -> None:
        self._broker = broker_socket
        self._egress = egress
        self._toolchains = toolchains or {}
        folders = [name for name, toolchain in self._toolchains.items() if toolchain.folder is not None]
        warm = min(warm, MAX_WARM // (1 + len(folders)))
        #: by toolchain; None: without one
        self._pools = {name: WarmPool(warm, partial(self._make, None, name)) for name in (None, *folders)}
        self._workers: dict[Handle, Worker] = {}
        self._exits: OrderedDict[Handle, Exit] = OrderedDict()
        self._cleanups: set[asyncio.Task[None]] = set()
        self._remains: dict[Handle, tuple[Worker, asyncio.TimerHandle]] = {}
        self._cgroups = Cgroups(version="none")

    @abstractmethod
    async def _make(self, workload: Workload | None, toolchain: str | None) -> Worker:
        """A pristine worker with this toolchain, fit for `workload` (None: for the default limits)."""

    @abstractmethod
    def _fits_warm(self, workload: Workload) -> bool:
        """Whether a warm worker can serve it."""

    @abstractmethod
    def _check(self, workload: Workload) -> None:
        """Raises RuntimeUnavailable when this machine cannot keep what the workload asks for."""

    async def start(self, workload: Workload, attendant: Attendant) -> Handle:
        """As `Runtime.start`."""
        self._check(workload)
        toolchain = self._toolchain_of(workload)
        for _ in range(TRIES):
            worker = self._pools[toolchain].take() if self._fits_warm(workload) else None
            if worker is None:
                worker = await self._make(workload, toolchain)
            try:
                return await self._begin(worker, workload, attendant)
            except OSError:
                await worker.discard()
            except BaseException:
                self._cleanup(worker)
                raise
        raise RuntimeUnavailable("workers die before they have their job")

    def _toolchain_of(self, workload: Workload) -> str | None:
        """The one to be made visible; None: none is. Raises RuntimeUnavailable when it is not on this machine."""
        if workload.toolchain is None:
            return None
        toolchain = self._toolchains.get(workload.toolchain)
        if toolchain is None:
            raise RuntimeUnavailable(f"the toolchain {workload.toolchain} is not installed on this machine")
        return None if toolchain.folder is None else toolchain.name

    def _tools(self, toolchain: str | None) -> job.Tools:
        """A toolchain as a worker sees it."""
        if toolchain is None:
            return job.Tools()
        found = self._toolchains[toolchain]
        place = self._place_of(found)
        return job.Tools(path=found.path_at(place), env=found.env_at(place))

    def _place_of(self, toolchain: Toolchain) -> str:
        """Where a worker sees it."""
        return str(toolchain.folder)

    def _fill_pools(self) -> None:
        for pool in self._pools.values():
            pool.fill()

    async def _begin(self, worker: Worker, workload: Workload, attendant: Attendant) -> Handle:
        brief = await job.brief(workload, attendant.ticket, worker.terms, broker=self._broker, egress=self._egress)
        await worker.give(workload, attendant, brief)
        handle = worker.name(self.name)
        self._workers[handle] = worker
        worker.call_when_ended(lambda: self._ended(handle, worker))
        return handle

    def _ended(self, handle: Handle, worker: Worker) -> None:
        """Remember the exit; freeing what the worker held need not keep anybody waiting."""
        timer = asyncio.get_running_loop().call_later(CLEAR_SECONDS, self._clear, handle)
        self._remains[handle] = worker, timer
        self._workers.pop(handle, None)
        with contextlib.suppress(BaseException):
            self._exits[handle] = worker.result()
        while len(self._exits) > REMEMBERED:
            self._exits.popitem(last=False)

    def _clear(self, handle: Handle) -> Worker:
        worker, timer = self._remains.pop(handle)
        timer.cancel()
        self._cleanup(worker)
        return worker

    def _cleanup(self, worker: Worker) -> None:
        self._later(worker.discard())

    async def _new_group(self, limits: Limits) -> Group | None:
        """A group for one worker. Whoever is cancelled meanwhile cannot take it; the thread makes it all the same."""
        making = asyncio.ensure_future(asyncio.to_thread(self._group, limits))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            self._later(_free(making))
            raise

    def _group(self, limits: Limits) -> Group | None:
        group = self._cgroups.make()
        if group is not None:
            group.limit(memory_mb=limits.memory_mb, processes=limits.processes)
        return group

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Free something without keeping anybody waiting; `close` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)

    async def wait(self, handle: Handle) -> Exit:
        """As `Runtime.wait`."""
        worker = self._workers.get(handle)
        if worker is not None:
            return await worker.wait()
        if handle in self._exits:
            return self._exits[handle]
        stranger = Stranger.parse(handle)
        while await self._outlives(stranger):  # noqa: ASYNC110 (no event tells of processes that are not our children)
            await asyncio.sleep(STRANGER_SECONDS)
        return lost("the worker is gone, and its dispatcher with it")

    async def terminate(self, handle: Handle) -> None:
        """As `Runtime.terminate`. A stranger's worker has no dispatcher to be asked by: it is ended."""
        worker = self._workers.get(handle)
        if worker is not None:
            worker.terminate()
        elif handle not in self._exits:
            await self.stop(handle)

    async def stop(self, handle: Handle) -> None:
        """As `Runtime.stop`."""
        worker = self._workers.get(handle)
        if worker is not None:
            await worker.discard()
        elif handle in self._remains:
            await self._clear(handle).discard()
        elif handle not in self._exits:
            stranger = Stranger.parse(handle)
            stranger.kill()
            if stranger.group is not None:
                await self._end_group(stranger.group)

    async def _outlives(self, stranger: Stranger) -> bool:
        """Whether a worker that somebody else started still runs."""
        return stranger.is_alive()

    async def _end_group(self, name: str) -> None:
        """End and free everything of a worker that somebody else started."""
        await self._cgroups.kill(name)

    async def close(self) -> None:
        """As `Runtime.close`."""
        for pool in self._pools.values():
            await pool.close()
        workers: list[Any] = [worker.discard() for worker in list(self._workers.values())]
        await asyncio.gather(*workers, return_exceptions=True)
        await asyncio.sleep(0)  # the last ones' ends are told
        for handle in list(self._remains):
            self._clear(handle)
        while self._cleanups:
            await asyncio.gather(*self._cleanups, return_exceptions=True)


async def _free(making: "asyncio.Future[Group | None]") -> None:
    group = await making
    if group is not None:
        await group.remove()
