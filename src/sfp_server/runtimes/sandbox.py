"""The default runtime: each worker in namespaces of its own, built by bubblewrap.

Walls: user, PID, network, IPC, UTS, mount and cgroup namespaces; no capabilities; no_new_privs; a seccomp
filter; a root of read-only /usr, a composed /etc and one sized tmpfs; cgroup limits (or rlimits); and no
network but what the gate lets through. When the dispatcher is root, the worker is nobody on the host
too. `isolation` says what is in force here; docs/threat-model.md says what it is worth.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from sfp_server.runtimes import bwrap, cgroups, image, job, launch, seccomp
from sfp_server.runtimes.base import Limits, Network, RuntimeUnavailable, Workload
from sfp_server.runtimes.broker import BrokerDoor
from sfp_server.runtimes.channel import Channel
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.folders import Folders, public
from sfp_server.runtimes.supervised import SupervisedRuntime
from sfp_server.runtimes.template import Template
from sfp_server.runtimes.toolchains import Toolchain
from sfp_server.runtimes.worker import Worker

log: Any = structlog.get_logger(__name__)

#: seconds within which a sandbox must be up
READY_SECONDS = 20.0
#: whom a worker is on the host when the dispatcher is root
NOBODY = 65534
#: the out-of-memory killer takes the program before its supervisor
SUPERVISOR_OOM_SCORE = "-500"


class SandboxRuntime(SupervisedRuntime):
    """Made for one instance, whose private directory is `scratch`.

    `defaults` are the limits of most tasks, for which warm workers wait; `bwrap_path` overrides the search.
    """

    name = "sandbox"

    def __init__(
        self,
        broker_socket: BrokerDoor | None,
        egress: EgressPolicy,
        warm: int = 2,
        *,
        scratch: Path,
        defaults: Limits | None = None,
        extra_ca_file: Path | None = None,
        bwrap_path: str | None = None,
        forked: bool = True,
        toolchains: Mapping[str, Toolchain] | None = None,
    ) -> None:
        super().__init__(broker_socket=broker_socket, egress=egress, warm=warm, toolchains=toolchains)
        self._scratch = scratch
        self._defaults = defaults or Limits()
        self._folders = Folders(scratch)
        self._extra_ca_file = extra_ca_file
        self._bwrap = shutil.which(bwrap_path or "bwrap")
        self._setpriv = shutil.which("setpriv") if os.geteuid() == 0 else None
        self._image: image.Image | None = None
        self._filter = b""
        #: by toolchain: open descriptors of their folders, and templates
        self._folders_of_tools: dict[str, int] = {}
        self._templates: dict[str | None, Template] = {}
        self._starting = asyncio.Lock()
        #: why workers are not forked from a template
        self._without_template = None if forked else "switched off"

    async def open(self) -> None:
        """As `Runtime.open`."""
        self._cgroups = await asyncio.to_thread(cgroups.find)
        await self._cgroups.remove_leftovers()
        if self._setpriv is not None:
            self._folders = Folders(await asyncio.to_thread(public, self._scratch, "/run"))
        await asyncio.to_thread(self._folders.remove_leftovers)
        try:
            self._filter = await asyncio.to_thread(seccomp.program)
        except OSError as error:
            raise RuntimeUnavailable(str(error)) from error
        self._image = await image.compose(self._folders.make("image"), extra_ca_file=self._extra_ca_file)
        for name, toolchain in self._toolchains.items():
            if toolchain.folder is not None:
                self._folders_of_tools[name] = os.open(toolchain.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        if self._bwrap is not None:
            await self._try_template()
            self._fill_pools()

    async def _try_template(self) -> None:
        """Where workers cannot be forked (nested user namespaces are forbidden), each is built by itself."""
        try:
            template = await self._usable_template(None)
            if template is not None:
                worker = await self._fork(template, self._defaults, self._group(self._defaults), None)
                await worker.discard()
        except RuntimeUnavailable as error:
            self._without_template = str(error)
            for template in self._templates.values():
                await template.close()
            log.warning("workers are not forked from a template but built one by one", why=str(error))

    async def probe(self) -> None:
        """Raises RuntimeUnavailable, with the reason, when no sandbox can be built here."""
        self._require()
        worker = await self._make(None, None)
        await worker.discard()

    async def close(self) -> None:
        for template in self._templates.values():
            await template.close()
        await super().close()
        while self._folders_of_tools:
            os.close(self._folders_of_tools.popitem()[1])
        if self._image is not None:
            self._image.close()
            self._image = None

    def _require(self) -> tuple[str, image.Image]:
        if self._bwrap is None:
            raise RuntimeUnavailable("bubblewrap (bwrap) is not installed")
        if self._image is None:
            raise RuntimeUnavailable("the runtime is not open")
        return self._bwrap, self._image

    def _check(self, workload: Workload) -> None:
        self._require()
        if workload.network is Network.EGRESS and not seccomp.has_user_notification():
            raise RuntimeUnavailable("network egress needs seccomp user notification (Linux 5.9)")

    def _fits_warm(self, workload: Workload) -> bool:
        return workload.limits.disk_mb == self._defaults.disk_mb  # a tmpfs has its size from the start

    async def _make(self, workload: Workload | None, toolchain: str | None) -> Worker:
        limits = self._defaults if workload is None else workload.limits
        self._require()
        group = await self._new_group(limits)
        try:
            template = await self._usable_template(toolchain)
            if template is not None:
                return await self._fork(template, limits, group, toolchain)
            return await self._build(limits, group, toolchain)
        except BaseException:
            if group is not None:  # no worker came to be that would take it along
                self._later(group.remove())
            raise

    # ------------------------------------------------------------------------------- forked from a template

    async def _usable_template(self, toolchain: str | None) -> Template | None:
        """The template of now; None where this machine does not let one make namespaces."""
        if self._without_template is not None:
            return None
        async with self._starting:
            template = self._templates.get(toolchain)
            if template is None or not template.is_usable:
                if template is not None:
                    template.retire()
                template = self._templates[toolchain] = await self._start_template(toolchain)
            return template

    async def _start_template(self, toolchain: str | None) -> Template:
        _, files = self._require()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = launch.memory_file(b"", "errors")
        filters = launch.memory_file(self._filter, "seccomp")
        given = {bwrap.CONTROL: theirs.fileno(), bwrap.SECCOMP: filters, **self._mounted(toolchain)}
        options = bwrap.template(files.host, toolchain=toolchain is not None)
        try:
            process = self._spawn(options, bwrap.command(files.host, bwrap.TEMPLATE), given, errors)
        except BaseException:
            ours.close()
            os.close(errors)
            raise
        finally:
            theirs.close()
            os.close(filters)
        template = Template(process, ours, errors)
        try:
            await template.until_ready()
        except BaseException:
            await asyncio.shield(template.close())
            raise
        return template

    async def _fork(
        self, template: Template, limits: Limits, group: cgroups.Group | None, toolchain: str | None
    ) -> Worker:
        ours, theirs = socket.socketpair()
        channel = Channel(ours, names_sender=True)
        doors: list[int] = []
        try:
            doors = [] if group is None else [os.open(door, os.O_WRONLY | os.O_CLOEXEC) for door in group.doors()]
            process = await template.fork(theirs.fileno(), doors, disk_bytes=limits.disk_mb << 20)
        except OSError as error:
            channel.close()
            raise RuntimeUnavailable(f"a worker cannot be forked: {error.strerror}") from error
        finally:
            theirs.close()
            for door in doors:
                os.close(door)
        worker = Worker(process=process, channel=channel, group=group, terms=self._terms(group, toolchain))
        process.call_when_ended(channel.hang_up)
        try:
            frame, pid = await asyncio.wait_for(channel.receive_ready(), READY_SECONDS)
            if not isinstance(frame, dict) or frame["t"] != "ready" or pid <= 0:
                raise RuntimeUnavailable(f"a worker cannot be forked: {template.complaint()}")  # noqa: TRY301
            process.identify(pid)
        except TimeoutError:
            self._give_up(worker)
            raise RuntimeUnavailable("a worker did not come up in time") from None
        except BaseException:
            self._give_up(worker)
            raise
        self._hold_mounts(worker, pid)
        return worker

    def _give_up(self, worker: Worker) -> None:
        worker.channel.close()  # it ends when nobody listens, even where we do not know its process
        self._cleanup(worker)

    # ------------------------------------------------------------------------------------ built by itself

    async def _build(self, limits: Limits, group: cgroups.Group | None, toolchain: str | None) -> Worker:
        _, files = self._require()
        ours, theirs = socket.socketpair()
        info, info_theirs = os.pipe()
        errors = launch.memory_file(b"", "errors")
        filters = launch.memory_file(self._filter, "seccomp")
        given = {bwrap.CONTROL: theirs.fileno(), bwrap.SECCOMP: filters, bwrap.INFO: info_theirs}
        given |= self._mounted(toolchain)
        options = bwrap.worker(files.host, disk_bytes=limits.disk_mb << 20, toolchain=toolchain is not None)
        enter = [] if group is None else group.entrance()
        try:
            process = self._spawn(options, bwrap.command(files.host, bwrap.WORKER), given, errors, enter)
        except BaseException:
            ours.close()
            os.close(info)
            os.close(errors)
            raise
        finally:
            theirs.close()
            os.close(info_theirs)
            os.close(filters)
        worker = Worker(process=process, channel=Channel(ours), group=group, terms=self._terms(group, toolchain))
        process.call_when_ended(worker.channel.hang_up)
        try:
            await self._until_ready(worker, errors)
            self._find_inside(worker, info)
        except BaseException:
            await asyncio.shield(worker.discard())
            raise
        finally:
            os.close(info)
            os.close(errors)
        return worker

    def _spawn(
        self,
        options: Sequence[str],
        command: Sequence[str],
        given: Mapping[int, int],
        errors: int,
        enter: Sequence[str] = (),
    ) -> launch.Process:
        """Start bubblewrap with these options and descriptors. Raises RuntimeUnavailable."""
        path, files = self._require()
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        arguments = launch.memory_file(bwrap.encoded(options), "arguments")
        try:
            return launch.spawn(
                [*enter, *self._as_nobody(), path, "--args", str(bwrap.ARGUMENTS), *command],
                env={},
                descriptors={
                    0: null,
                    1: null,
                    2: errors,
                    bwrap.ARGUMENTS: arguments,
                    bwrap.ETC: files.etc,
                    bwrap.CODE: files.code,
                    **({} if files.prefix is None else {bwrap.PREFIX: files.prefix}),
                    **given,
                },
            )
        except OSError as error:
            raise RuntimeUnavailable(f"a sandbox cannot be started: {error.strerror}") from error
        finally:
            for descriptor in (null, arguments):
                os.close(descriptor)

    def _mounted(self, toolchain: str | None) -> dict[int, int]:
        return {} if toolchain is None else {bwrap.TOOLCHAIN: self._folders_of_tools[toolchain]}

    def _as_nobody(self) -> list[str]:
        """Root's dispatcher gives root away first: then a hole in the sandbox leads to nobody."""
        if self._setpriv is None:
            return []
        return [self._setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]

    async def _until_ready(self, worker: Worker, errors: int) -> None:
        try:
            frame = await asyncio.wait_for(worker.channel.receive(), READY_SECONDS)
        except TimeoutError:
            raise RuntimeUnavailable("a sandbox did not come up in time") from None
        if not isinstance(frame, dict) or frame["t"] != "ready":
            said = os.pread(errors, 500, 0).decode("utf-8", "replace").strip().splitlines()
            raise RuntimeUnavailable(f"a sandbox cannot be built: {said[-1] if said else 'no reason given'}")

    @staticmethod
    def _find_inside(worker: Worker, info: int) -> None:
        """Learn which process of the host the supervisor is."""
        worker.inner = _inner(info)
        if worker.inner is None:
            raise RuntimeUnavailable("bubblewrap did not say which process the worker is")
        pid = worker.inner[0]
        with contextlib.suppress(OSError):  # only root may lower it
            Path(f"/proc/{pid}/oom_score_adj").write_text(SUPERVISOR_OOM_SCORE, encoding="ascii")
        SandboxRuntime._hold_mounts(worker, pid)

    @staticmethod
    def _hold_mounts(worker: Worker, pid: int) -> None:
        with contextlib.suppress(OSError):
            worker.mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def _place_of(self, toolchain: Toolchain) -> str:  # noqa: ARG002 (the same place for each)
        return bwrap.TOOLCHAIN_AT

    def _terms(self, group: cgroups.Group | None, toolchain: str | None) -> job.Terms:
        return job.Terms(
            root=bwrap.ROOT,
            own_network=True,
            sized_disk=True,
            has_memory_limit=group is not None and group.memory is not None,
            has_process_limit=group is not None and group.pids is not None,
            tools=self._tools(toolchain),
        )

    def isolation(self) -> dict[str, str]:
        """As `Runtime.isolation`."""
        notification = seccomp.has_user_notification()
        memory, pids = self._cgroups.memory, self._cgroups.pids
        return {
            "runtime": self.name,
            "processes": "PID namespace of its own; process 1 is the supervisor",
            "files": "read-only /usr, composed /etc, private tmpfs of the disk limit's size",
            "network": "network namespace of its own, empty",
            "egress": "TCP through the connect gate" if notification else "none: no seccomp user notification",
            "workers": "forked from a pristine template"
            if self._without_template is None
            else f"built one by one: {self._without_template}",
            "user": "user namespace of its own; nobody on the host" if self._setpriv else "user namespace of its own",
            "system calls": "seccomp deny-list, no_new_privs, no capabilities",
            "memory": self._cgroups.describe(memory) + ("" if memory else ": address space limit per process"),
            "process count": self._cgroups.describe(pids) + ("" if pids else ": RLIMIT_NPROC"),
            "credentials": "over an inherited descriptor, to a supervisor that cannot be traced",
        }


def _inner(info: int) -> tuple[int, int] | None:
    """The supervisor's pid on the host, from what bubblewrap wrote before it came up."""
    try:
        pid = int(json.loads(os.read(info, 4096))["child-pid"])
    except (ValueError, KeyError, OSError):
        return None
    started = launch.start_time(pid)
    return None if started is None else (pid, started)
