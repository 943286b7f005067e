"""The runtime for machines without user namespaces: the same contract with fewer walls.

A worker is a supervisor in a session of its own that gathers every descendant (subreaper), in a private
directory, under rlimits, no_new_privs, a seccomp filter, cgroup limits where there are any, and the
connect gate. When the dispatcher is root, each worker is a user of its own that exists nowhere else, so
that workers cannot touch each other or us. What is missing (the host's files, processes and network are
in sight) `isolation` says.
"""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sfp_server.runtimes import bwrap, cgroups, image, job, launch, seccomp
from sfp_server.runtimes.base import Limits, Network, RuntimeUnavailable, Workload
from sfp_server.runtimes.broker import BrokerDoor
from sfp_server.runtimes.channel import Channel
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.folders import Folders, public, remove_tree
from sfp_server.runtimes.supervised import SupervisedRuntime
from sfp_server.runtimes.toolchains import Toolchain
from sfp_server.runtimes.worker import Worker

#: seconds within which a worker must be up, and within which its leftovers must be dead
READY_SECONDS, SWEEP_SECONDS = 20.0, 5.0
#: users that exist nowhere else: one per worker, drawn at random
FIRST_USER, USERS = 0x70000000, 0x0FFFFFFF

ENTRY = "import sys; sys.path.insert(0, sys.argv[2]); from sfp_worker.supervisor import entry; entry()"


class ProcessRuntime(SupervisedRuntime):
    """`extra_ca_file` is not used: programs see the host's certificates."""

    name = "process"

    def __init__(
        self,
        broker_socket: BrokerDoor | None,
        egress: EgressPolicy,
        warm: int = 2,
        *,
        scratch: Path,
        defaults: Limits | None = None,
        extra_ca_file: Path | None = None,  # noqa: ARG002 (the same for every runtime)
        toolchains: Mapping[str, Toolchain] | None = None,
    ) -> None:
        super().__init__(broker_socket=broker_socket, egress=egress, warm=warm, toolchains=toolchains)
        self._scratch = scratch
        self._defaults = defaults or Limits()
        self._folders = Folders(scratch)
        self._setpriv = shutil.which("setpriv") if os.geteuid() == 0 else None
        self._code: Path | None = None
        self._python = Path()
        self._filters: dict[Network, bytes] = {}
        self._no_filters = ""

    async def open(self) -> None:
        """As `Runtime.open`."""
        self._cgroups = await asyncio.to_thread(cgroups.find)
        await self._cgroups.remove_leftovers()
        if self._setpriv is not None:
            self._folders = Folders(await asyncio.to_thread(public, self._scratch, "/var/tmp"))  # noqa: S108 (checked there)
        await asyncio.to_thread(self._folders.remove_leftovers)
        try:
            for network, internet in ((Network.NONE, "none"), (Network.EGRESS, "tcp")):
                self._filters[network] = await asyncio.to_thread(seccomp.program, internet=internet)
        except OSError as error:
            self._no_filters = str(error)
        self._python = await image.interpreter()
        code = self._folders.make("code")
        code.chmod(0o755)
        await image.copy_code(code / "code", self._python)
        self._code = code
        self._fill_pools()

    async def close(self) -> None:
        await super().close()
        if self._code is not None:
            await asyncio.to_thread(remove_tree, self._code)
            self._code = None

    def _check(self, workload: Workload) -> None:
        if self._code is None:
            raise RuntimeUnavailable("the runtime is not open")
        if workload.network is Network.EGRESS and not self._is_gated():
            raise RuntimeUnavailable("network egress needs seccomp user notification (Linux 5.9) and libseccomp")

    def _is_gated(self) -> bool:
        return seccomp.has_user_notification() and not self._no_filters

    def _fits_warm(self, workload: Workload) -> bool:  # noqa: ARG002 (nothing is fixed from the start)
        return True

    async def _make(self, workload: Workload | None, toolchain: str | None) -> Worker:
        if self._code is None:
            raise RuntimeUnavailable("the runtime is not open")
        limits = self._defaults if workload is None else workload.limits
        user = None if self._setpriv is None else FIRST_USER + secrets.randbelow(USERS)
        group = await self._new_group(limits)
        folder = await asyncio.to_thread(self._home, user)
        ours, theirs = socket.socketpair()
        try:
            process = self._spawn(user, group, theirs.fileno(), folder)
        except OSError as error:
            ours.close()
            if group is not None:
                self._later(group.remove())
            raise RuntimeUnavailable(f"a worker cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        worker = Worker(
            process=process, channel=Channel(ours), group=group, terms=self._terms(folder, group, toolchain)
        )
        worker.leftovers = partial(_sweep, user, process.pid, folder)
        process.call_when_ended(worker.channel.hang_up)
        try:
            await _until_ready(worker)
        except BaseException:
            await asyncio.shield(worker.discard())
            raise
        return worker

    def _home(self, user: int | None) -> Path:
        folder = self._folders.make("worker")
        if user is not None:
            os.chown(folder, user, user)
        return folder

    def _spawn(self, user: int | None, group: cgroups.Group | None, control: int, folder: Path) -> launch.Process:
        enter = [] if group is None else group.entrance()
        become = [] if user is None else [str(self._setpriv), f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        python = [str(self._python), "-I", "-S", "-X", "utf8", "-c", ENTRY, "process", f"{self._code}/code"]
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            return launch.spawn(
                [*enter, *become, *(["--"] if become else []), *python, str(folder)],
                env={},
                descriptors={0: null, 1: null, 2: null, bwrap.CONTROL: control},
            )
        finally:
            os.close(null)

    def _terms(self, folder: Path, group: cgroups.Group | None, toolchain: str | None) -> job.Terms:
        return job.Terms(
            root=str(folder),
            own_network=False,
            sized_disk=False,
            has_memory_limit=group is not None and group.memory is not None,
            has_process_limit=group is not None and group.pids is not None,
            filters=self._filters,
            always_gated=self._is_gated(),
            tools=self._tools(toolchain),
        )

    def isolation(self) -> dict[str, str]:
        """As `Runtime.isolation`."""
        memory, pids = self._cgroups.memory, self._cgroups.pids
        filtered = not self._no_filters
        return {
            "runtime": self.name,
            "processes": "none: the host's processes are in sight; all descendants are ended with the task",
            "files": "none: the host's readable files are in sight; a private directory, removed at the end; "
            "the disk limit holds for each file, not for all together",
            "network": "internet sockets refused by seccomp" if filtered else f"none: {self._no_filters}",
            "egress": "TCP through the connect gate" if self._is_gated() else "none: no seccomp user notification",
            "user": "a user of its own per worker" if self._setpriv else "none: the dispatcher's own user",
            "system calls": "seccomp deny-list, no_new_privs" if filtered else "no_new_privs only",
            "memory": self._cgroups.describe(memory) + ("" if memory else ": address space limit per process"),
            "process count": self._cgroups.describe(pids) + ("" if pids else ": RLIMIT_NPROC"),
            "credentials": "over an inherited descriptor, to a supervisor that cannot be traced",
        }


async def _until_ready(worker: Worker) -> None:
    try:
        frame = await asyncio.wait_for(worker.channel.receive(), READY_SECONDS)
    except TimeoutError:
        raise RuntimeUnavailable("a worker did not come up in time") from None
    if not isinstance(frame, dict) or frame["t"] != "ready":
        raise RuntimeUnavailable("a worker cannot be started")


def _sweep(user: int | None, supervisor: int, folder: Path) -> None:
    """End what the supervisor could not (it was killed itself), and remove the directory."""
    deadline = time.monotonic() + SWEEP_SECONDS
    while (found := _left(user, folder)) and time.monotonic() < deadline:
        for pid in found:
            if pid not in {supervisor, os.getpid()}:
                _kill(pid)
        time.sleep(0.01)
    remove_tree(folder)


def _left(user: int | None, folder: Path) -> list[int]:
    """Processes of the worker's own user; without one, those whose environment names its directory."""
    marker = f"SFP_PROGRESS={folder}/".encode()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                ours = entry.stat().st_uid == user if user else marker in (entry / "environ").read_bytes()
            except OSError:
                continue  # ended meanwhile, or somebody else's
            if ours and launch.start_time(int(entry.name)) is not None:
                found.append(int(entry.name))
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return
