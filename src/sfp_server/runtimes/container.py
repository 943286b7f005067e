"""Each worker in a container of its own, made by Docker or Podman from an image of the operator's choice.

The supervisor is process 1 of the container, so that the contract is the same as everywhere. Its control
socket waits for it in a directory that only this container sees; it is the first to connect, and before
it gets a job the socket is gone. What the container may do is in `containerspec`, how it ends in
`contained`. Engine and images are the operator's: see docs/decisions/0011-container-runtime.md.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import resource
import secrets
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from sfp_server.runtimes import bwrap, containerspec, image, job, launch, seccomp
from sfp_server.runtimes.base import Git, Limits, Network, RuntimeUnavailable, Workload
from sfp_server.runtimes.broker import BrokerDoor
from sfp_server.runtimes.channel import Channel
from sfp_server.runtimes.contained import Contained, remove
from sfp_server.runtimes.containerspec import Ground
from sfp_server.runtimes.docker import About, Docker, EngineError
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.folders import Folders, remove_tree
from sfp_server.runtimes.supervised import SupervisedRuntime
from sfp_server.runtimes.worker import Stranger, Worker

#: seconds within which a container must be up
READY_SECONDS = 30.0
#: seconds between two looks whether a container that does not connect has ended
LOOK_SECONDS = 0.5
#: Users that exist nowhere else, one per worker in turn; fewer where the engine remaps users, which has
#: no more than 65,536 of them.
FIRST_USER, FIRST_REMAPPED, USERS = 0x60000000, 1000, 0xF000
#: what engines write themselves: names from the host's own file, and nameservers that no gate asks
_ETC = ("resolv.conf", "hosts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """Which engine makes the containers, and from what."""

    #: the engine's unix socket, as a path or `unix://` URL
    engine: str
    #: image of the tasks whose type has none of its own; None: those cannot run here
    image: str | None = None
    #: task type → image
    images: Mapping[str, str] = field(default_factory=dict[str, str])
    #: whether an image that is not on this machine is fetched
    pull: bool = False
    #: the interpreter (3.11 or newer), as the images know it
    python: str = "python3"
    #: directories of this machine that workers see, read-only, at the same place
    mounts: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    about: About
    ground: Ground
    folder: Path


class ContainerRuntime(SupervisedRuntime):
    """Made for one instance, whose private directory is `scratch`; `defaults` are the limits of warm workers."""

    name = "container"

    def __init__(
        self,
        broker_socket: BrokerDoor | None,
        egress: EgressPolicy,
        warm: int = 0,
        *,
        scratch: Path,
        supply: Supply,
        defaults: Limits | None = None,
    ) -> None:
        super().__init__(broker_socket=broker_socket, egress=egress, warm=warm)
        self._supply = supply
        self._defaults = defaults or Limits()
        self._folders = Folders(scratch / "containers")  # nobody else's: sockets in there are open to all
        self._instance = hashlib.sha256(str(scratch.resolve()).encode()).hexdigest()[:16]
        #: other runtimes of this process may serve the same instance
        self._names = f"sfp-{self._instance}-{secrets.token_hex(4)}"
        self._dispatcher = f"{os.getpid()}-{launch.start_time(os.getpid())}"
        self._engine = Docker(supply.engine)
        # From anywhere: a limit of processes counts all those of a user, also in another instance's container.
        self._numbers = itertools.count(secrets.randbelow(USERS))
        self._prepared: _Prepared | None = None
        self._filters: dict[Network, bytes] = {}

    async def open(self) -> None:
        """As `Runtime.open`. Raises RuntimeUnavailable when the engine does not answer; may then be tried again."""
        about = await self._engine.about()
        await self._remove_leftovers()
        await asyncio.to_thread(self._folders.remove_leftovers)
        try:
            # An empty network is around every worker: the filter need not look after sockets.
            filters = await asyncio.to_thread(seccomp.program)
        except OSError as error:
            raise RuntimeUnavailable(str(error)) from error
        self._filters = dict.fromkeys(Network, filters)
        folder = self._folders.make("container")
        folder.chmod(0o755)
        await image.copy_code(folder / "code", await image.interpreter())
        _make_etc(folder)
        self._prepared = _Prepared(about=about, ground=self._ground(about, folder), folder=folder)
        if self._supply.image is not None:
            self._fill_pools()

    def _ground(self, about: About, folder: Path) -> Ground:
        return Ground(
            code=folder / "code",
            etc=[folder / name for name in _ETC],
            mounts=self._supply.mounts,
            python=self._supply.python,
            has_memory_limit=about.has_memory_limit,
            has_process_limit=about.has_process_limit,
            open_files=min(job.OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        )

    async def _remove_leftovers(self) -> None:
        """Remove the containers of this instance's dispatchers that are gone."""
        found = await self._engine.labelled(containerspec.INSTANCE, self._instance)
        for ident, labels in found.items():
            pid, _, started = labels.get(containerspec.DISPATCHER, "").partition("-")
            if not pid.isdigit() or str(launch.start_time(int(pid))) != started:
                await remove(self._engine, ident)

    async def close(self) -> None:
        await super().close()
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await asyncio.to_thread(remove_tree, prepared.folder)
        await self._engine.close()

    def _check(self, workload: Workload) -> None:
        if _is_gated(workload) and not seccomp.has_user_notification():
            raise RuntimeUnavailable("network egress needs seccomp user notification (Linux 5.9)")
        self._image_of(workload)

    def _image_of(self, workload: Workload | None) -> str:
        kind = "" if workload is None else workload.kind
        found = self._supply.images.get(kind, self._supply.image)
        if found is None:
            raise RuntimeUnavailable(
                f"no container image for tasks of type {kind}: set worker.container.image or worker.container.images"
            )
        return found

    def _fits_warm(self, workload: Workload) -> bool:
        return (
            self._image_of(workload) == self._supply.image
            and workload.limits.disk_mb == self._defaults.disk_mb
            and workload.limits.memory_mb == self._defaults.memory_mb
            and workload.limits.processes == self._defaults.processes
            and self._profile(workload) is None
        )

    def _profile(self, workload: Workload | None) -> str | None:
        """Podman's own seccomp profile leaves the gate its calls; Docker's does not."""
        is_podman = self._prepared is not None and self._prepared.about.name == "podman"
        needs_ours = workload is not None and _is_gated(workload) and not is_podman
        return containerspec.gate_profile() if needs_ours else None

    def _toolchain_of(self, workload: Workload) -> str | None:  # noqa: ARG002 (part of its image)
        return None

    async def _make(self, workload: Workload | None, toolchain: str | None) -> Worker:  # noqa: ARG002 (as above)
        prepared = self._prepared
        if prepared is None:
            raise RuntimeUnavailable("the container runtime is not open")
        number = next(self._numbers)
        container = await self._container(prepared, workload, number)
        folder = container.control
        listener = _listen(folder / containerspec.SOCKET)
        try:
            contained, control = await self._start(prepared, container, number, listener)
        except BaseException:
            await asyncio.to_thread(remove_tree, folder)
            raise
        finally:
            listener.close()
        worker = Worker(process=contained, channel=Channel(control), group=contained, terms=self._terms(prepared))
        worker.leftovers = partial(remove_tree, folder)
        contained.call_when_ended(worker.channel.hang_up)
        try:
            await _until_ready(worker)
        except BaseException:
            await asyncio.shield(worker.discard())
            raise
        return worker

    async def _container(self, prepared: _Prepared, workload: Workload | None, number: int) -> containerspec.Container:
        name = self._image_of(workload)
        found = await self._engine.image(name)
        if found is None and self._supply.pull:
            await self._engine.pull(name)
            found = await self._engine.image(name)
        if found is None:
            raise RuntimeUnavailable(
                f"the image {name} is not on this machine: pull it, build it, or set worker.container.pull"
            )
        folder = self._folders.make("control")
        folder.chmod(0o755)  # for the container's user; on the way there stands a directory of ours alone
        first = FIRST_REMAPPED if prepared.about.is_remapped else FIRST_USER
        return containerspec.Container(
            image=name,
            volumes=found.volumes,
            control=folder,
            user=first + number % USERS,
            limits=self._defaults if workload is None else workload.limits,
            labels={
                containerspec.INSTANCE: self._instance,
                containerspec.DISPATCHER: self._dispatcher,
                containerspec.OPERATION: "" if workload is None else workload.operation_id,
                containerspec.ATTEMPT: "" if workload is None else str(workload.attempt),
            },
            profile=self._profile(workload),
        )

    async def _start(
        self, prepared: _Prepared, container: containerspec.Container, number: int, listener: socket.socket
    ) -> tuple[Contained, socket.socket]:
        """A running container and its supervisor's connection."""
        name = f"{self._names}-{number}"
        try:
            ident = await self._engine.create(name, containerspec.spec(prepared.ground, container))
            await self._engine.start(ident)
            control = await self._first_to_connect(ident, listener)
            # Nobody else in there, now or later, finds the socket.
            (container.control / containerspec.SOCKET).unlink()
            state = await self._engine.state(ident)
        except BaseException:
            with contextlib.suppress(EngineError):  # by its name: we may not have got as far as its id
                await asyncio.shield(self._engine.remove(name))
            raise
        # When the kernel names the same process as the engine, the engine counts as we do.
        pid = state.pid if state.pid and state.pid == _peer(control) else 0
        return Contained(self._engine, ident, pid=pid), control

    async def _first_to_connect(self, ident: str, listener: socket.socket) -> socket.socket:
        """Wait for the supervisor, or for the container's end, whichever comes first."""
        accepting = asyncio.create_task(_accept(listener))
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not (await asyncio.wait({accepting}, timeout=LOOK_SECONDS))[0]:
                    state = await self._engine.state(ident)
                    if not state.is_running:
                        raise RuntimeUnavailable(
                            f"the image's {self._supply.python} cannot run a worker "
                            f"(exit status {state.exit_code}): 3.11 or newer is needed"
                        )
            return accepting.result()
        except TimeoutError:
            raise RuntimeUnavailable("a container did not come up in time") from None
        finally:
            accepting.cancel()

    def _terms(self, prepared: _Prepared) -> job.Terms:
        return job.Terms(
            root=containerspec.ROOT,
            own_network=True,
            sized_disk=True,
            has_memory_limit=prepared.about.has_memory_limit,
            has_process_limit=prepared.about.has_process_limit,
            filters=self._filters,
        )

    async def _outlives(self, stranger: Stranger) -> bool:
        if stranger.is_alive():
            return True
        if stranger.group is None or stranger.has_processes or not await self._is_ours(stranger.group):
            return False
        return (await self._engine.state(stranger.group)).is_running

    async def _end_group(self, name: str) -> None:
        if await self._is_ours(name):
            await self._engine.remove(name)

    async def _is_ours(self, ident: str) -> bool:
        """A handle comes from a row of the database: it must not reach other people's containers."""
        return ident in await self._engine.labelled(containerspec.INSTANCE, self._instance)

    def isolation(self) -> dict[str, str]:
        """As `Runtime.isolation`."""
        about = None if self._prepared is None else self._prepared.about
        notification = seccomp.has_user_notification()
        memory = about is not None and about.has_memory_limit
        processes = about is not None and about.has_process_limit
        return {
            "runtime": self.name,
            "engine": "none: it does not answer" if about is None else f"{about.name} {about.version}",
            "processes": "PID namespace of its own; process 1 is the supervisor",
            "files": "read-only image, private tmpfs of the disk limit's size, small tmpfs for /tmp, /var/tmp and /run",
            "network": "network namespace of its own, empty",
            "egress": "TCP through the connect gate" if notification else "none: no seccomp user notification",
            "user": "a user of its own per worker, without capabilities",
            "system calls": "the engine's seccomp profile and our deny-list, no_new_privs",
            "memory": "cgroup, by the engine" if memory else "address space limit per process",
            "process count": "cgroup, by the engine" if processes else "RLIMIT_NPROC",
            "credentials": "over a socket that is gone by then, to a supervisor that cannot be traced",
        }


def _make_etc(folder: Path) -> None:
    files = {
        "resolv.conf": image.resolv_conf(image.nameservers()),
        "hosts": f"127.0.0.1 localhost {bwrap.HOSTNAME}\n::1 localhost\n",
    }
    for name in _ETC:
        (folder / name).write_text(files[name], encoding="utf-8")
        (folder / name).chmod(0o644)


def _is_gated(workload: Workload) -> bool:
    return workload.network is Network.EGRESS or isinstance(workload.workspace, Git)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        # By its directory: the whole path may be longer than the kernel takes for a socket.
        folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        finally:
            os.close(folder)
        path.chmod(0o666)  # for the container's user
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise RuntimeUnavailable(f"no control socket can be made: {error.strerror or error}") from error
    return listener


async def _accept(listener: socket.socket) -> socket.socket:
    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
    return connection


def _peer(connection: socket.socket) -> int:
    """The process that connected, as this machine counts; 0 when it is not one of this machine."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", data)[0])


async def _until_ready(worker: Worker) -> None:
    try:
        frame = await asyncio.wait_for(worker.channel.receive(), READY_SECONDS)
    except TimeoutError:
        raise RuntimeUnavailable("a container did not come up in time") from None
    if not isinstance(frame, dict) or frame["t"] != "ready":
        raise RuntimeUnavailable("a worker cannot be started in its container")
