"""One worker as a runtime holds it: its process, its channel, its group, and finally its exit."""

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sfp_server.runtimes import job
from sfp_server.runtimes.base import Attendant, Exit, Failure, Handle, Workload
from sfp_server.runtimes.cgroups import Ceilings
from sfp_server.runtimes.channel import Channel
from sfp_server.runtimes.conversation import Conversation, lost
from sfp_server.runtimes.launch import Outermost, kill_exactly, start_time


@dataclass(slots=True, kw_only=True, eq=False)
class Worker:
    """Pristine until it is given its job; used once."""

    process: Outermost
    channel: Channel
    group: Ceilings | None
    terms: job.Terms
    #: (pid, start time) of the supervisor, when it is not the outermost process
    inner: tuple[int, int] | None = None
    #: Descriptor of its mount namespace. To take one apart takes the kernel milliseconds; while we
    #: hold it, that happens after the exit was reported and not before.
    mounts: int | None = None
    #: what else is to be freed when it has ended
    leftovers: Callable[[], None] | None = None
    _conversation: Conversation | None = field(default=None)
    _exit: "asyncio.Task[Exit] | None" = field(default=None)
    _discarded: "asyncio.Task[None] | None" = field(default=None)

    @property
    def is_alive(self) -> bool:
        return self.process.status is None

    def kill(self) -> None:
        """SIGKILL to the supervisor: with process 1 the kernel ends all of its namespace."""
        if self.inner is not None:
            kill_exactly(*self.inner)
        self.process.kill()

    def name(self, runtime: str) -> Handle:
        """Everything that finds this worker again after the dispatcher restarted."""
        processes = [[self.process.pid, self.process.started], *([list(self.inner)] if self.inner else [])]
        group = None if self.group is None else self.group.name
        return json.dumps({"runtime": runtime, "processes": processes, "group": group}, separators=(",", ":"))

    async def give(self, workload: Workload, attendant: Attendant, brief: job.Brief) -> None:
        """Hand the job over; from now on the worker is used up.

        Raises:
            OSError: the worker died before it had the job; another one can have it.
        """
        limits = workload.limits
        try:
            if self.group is not None:
                self.group.limit(memory_mb=limits.memory_mb, processes=limits.processes)
            await self.channel.send(brief.message, brief.descriptors)
        finally:
            brief.close()
        self._conversation = Conversation(self.channel, self.process, workload, attendant, brief.policies)
        self._exit = asyncio.create_task(self._attend(self._conversation, workload))

    async def _attend(self, conversation: Conversation, workload: Workload) -> Exit:
        ended = await conversation.run()
        self.channel.close()
        if self.group is None:
            return ended
        return _with_counters(ended, self.group, workload)

    async def wait(self) -> Exit:
        if self._exit is None:
            return lost("the worker never had a job")
        return await asyncio.shield(self._exit)

    def terminate(self) -> None:
        if self._conversation is not None:
            self._conversation.terminate()

    def result(self) -> Exit:
        """Its exit, once there is one."""
        return lost("the worker never had a job") if self._exit is None else self._exit.result()

    def call_when_ended(self, callback: Callable[[], None]) -> None:
        if self._exit is not None:
            self._exit.add_done_callback(lambda _: callback())

    async def discard(self) -> None:
        """End it, whatever it is doing, and free what it held; once, however many ask."""
        if self._discarded is None:
            self._discarded = asyncio.create_task(self._discard())
        await asyncio.shield(self._discarded)

    async def _discard(self) -> None:
        self.kill()
        await self.process.wait()
        if self._exit is not None:
            with contextlib.suppress(Exception):
                await asyncio.shield(self._exit)
        self.channel.close()
        mounts, self.mounts = self.mounts, None
        if self.group is not None:
            await self.group.remove(mounts)
        elif mounts is not None:
            await asyncio.to_thread(os.close, mounts)
        if self.leftovers is not None:
            await asyncio.to_thread(self.leftovers)


def _with_counters(ended: Exit, group: Ceilings, workload: Workload) -> Exit:
    """The kernel's counts over the worker's own."""
    counted = group.counters()
    usage = ended.usage
    if counted.peak_memory_bytes is not None:
        usage = replace(usage, peak_memory_bytes=counted.peak_memory_bytes)
    failed = ended.code != 0
    if counted.out_of_memory and failed and (ended.failure is None or ended.failure.code == "worker_lost"):
        text = f"the worker used up its {workload.limits.memory_mb} MB of memory"
        return replace(ended, failure=Failure(code="out_of_memory", message=text), output=None, usage=usage)
    return replace(ended, usage=usage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A worker that an earlier dispatcher started, known by its handle only."""

    processes: tuple[tuple[int, int], ...]
    group: str | None

    @classmethod
    def parse(cls, handle: Handle) -> "Stranger":
        """Of a text that is no handle comes a worker that does not exist."""
        try:
            data = json.loads(handle)
            pairs = tuple((int(pid), int(started)) for pid, started in data["processes"])
            group = data["group"]
        except (ValueError, KeyError, TypeError):
            return cls(processes=(), group=None)
        return cls(processes=pairs, group=group if isinstance(group, str) else None)

    @property
    def has_processes(self) -> bool:
        """Whether it can be looked for among the processes of this machine."""
        return any(pid for pid, _ in self.processes)

    def is_alive(self) -> bool:
        return any(start_time(pid) == started for pid, started in self.processes)

    def kill(self) -> None:
        for pid, started in reversed(self.processes):
            kill_exactly(pid, started)
