"""Ceilings for memory and processes of one worker, by whatever kind of cgroups this machine has.

v2 (one tree), v1 and hybrid (a tree per controller) or none: `find` says which. Each worker has a group
of its own below the dispatcher's; the memory controller also counts out-of-memory kills, so that the
reason of a death need not be guessed. Where there is none, rlimits stand in, and `isolation` says so.
"""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sfp_server.runtimes.launch import start_time

#: what bubblewrap and the supervisor, with the threads of its gate, need beside the program
SUPERVISOR_MB, SUPERVISOR_PROCESSES = 24, 8

MOUNT = Path("/sys/fs/cgroup")
#: groups are named `sfp-<dispatcher's pid>-<its start time>-<random>`
_PREFIX = "sfp"
_ENTER = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 1; shift; done; shift; exec "$@"'
#: how often the removal of a group is tried, and with which pauses in seconds, from the first to the longest: on a busy
#: machine it takes the dead a while to go
_REMOVE_TRIES, _REMOVE_PAUSES = 60, (0.02, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the kernel counted for a worker; None where nobody counts."""

    out_of_memory: bool = False
    peak_memory_bytes: int | None = None


class Ceilings(Protocol):
    """What bounds one worker, and counts for it: a cgroup of ours, or a container."""

    @property
    def name(self) -> str:
        """Finds it again when its dispatcher is gone."""
        ...

    def limit(self, *, memory_mb: int, processes: int) -> None: ...

    def counters(self) -> Counters: ...

    async def remove(self, held: int | None = None) -> None:
        """End what is left in it, free it, and close the descriptor `held`, which may take the kernel as long."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """Where groups are made. `memory` and `pids` are the same folder in v2."""

    version: str  # "v2", "v1", "none"
    memory: Path | None = None
    pids: Path | None = None
    #: why a controller is missing
    notes: tuple[str, ...] = ()

    def parents(self) -> tuple[Path, ...]:
        return tuple({folder for folder in (self.memory, self.pids) if folder is not None})

    def describe(self, folder: Path | None) -> str:
        if folder is not None:
            return f"cgroup {self.version}"
        return "; ".join(self.notes) or "no cgroup"

    def make(self) -> "Group | None":
        """A new group; None where there are no cgroups."""
        name = f"{_PREFIX}-{os.getpid()}-{start_time(os.getpid())}-{secrets.token_hex(4)}"
        folders = tuple(parent / name for parent in self.parents())
        try:
            for folder in folders:
                folder.mkdir()
        except OSError:
            for folder in folders:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return None
        if not folders:
            return None
        memory = None if self.memory is None else self.memory / name
        pids = None if self.pids is None else self.pids / name
        return Group(name=name, version=self.version, memory=memory, pids=pids)

    async def remove_leftovers(self) -> None:
        """End and remove the groups of dispatchers that are gone."""
        for parent in self.parents():
            for folder in parent.glob(f"{_PREFIX}-*-*-*"):
                _, pid, started, _ = folder.name.split("-")
                if str(start_time(int(pid))) != started:
                    await _remove(folder)

    async def kill(self, name: str) -> None:
        """End and remove the group of that name, if it is one of ours and still there."""
        if name.startswith(f"{_PREFIX}-") and "/" not in name:
            for parent in self.parents():
                await _remove(parent / name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One worker's ceilings."""

    name: str
    version: str
    memory: Path | None
    pids: Path | None
    #: what is in force now, so that setting it again costs nothing
    _set: dict[str, int] = field(default_factory=dict[str, int])

    def folders(self) -> tuple[Path, ...]:
        return tuple({folder for folder in (self.memory, self.pids) if folder is not None})

    def doors(self) -> list[Path]:
        """Files to which a process writes `0` to put itself under the ceilings.

        Moving another process takes a lock that stops every fork and exit of the machine for 10 ms or
        more; a thread that moves itself by v1's `tasks` does not need it.
        """
        return [folder / ("cgroup.procs" if self.version == "v2" else "tasks") for folder in self.folders()]

    def entrance(self) -> list[str]:
        """A command that puts itself under the ceilings and then becomes the command that follows it."""
        return ["/bin/sh", "-c", _ENTER, "enter", *map(str, self.doors()), "--"]

    def limit(self, *, memory_mb: int, processes: int) -> None:
        """Set the ceilings for a program; its supervisor comes on top. Swap counts as memory."""
        memory_bytes = (memory_mb + SUPERVISOR_MB) << 20
        processes += SUPERVISOR_PROCESSES
        if self._set.get("memory") != memory_bytes and self.memory is not None:
            self._limit_memory(self.memory, memory_bytes)
            self._set["memory"] = memory_bytes
        if self._set.get("pids") != processes and self.pids is not None:
            (self.pids / "pids.max").write_text(str(processes), encoding="ascii")
            self._set["pids"] = processes

    def _limit_memory(self, folder: Path, limit: int) -> None:
        if self.version == "v2":
            (folder / "memory.max").write_text(str(limit), encoding="ascii")
            with contextlib.suppress(OSError):  # a kernel without swap accounting has no such file
                (folder / "memory.swap.max").write_text("0", encoding="ascii")
            return
        # memsw may never be below the plain limit, whichever way we go: lift it first.
        with contextlib.suppress(OSError):
            (folder / "memory.memsw.limit_in_bytes").write_text("-1", encoding="ascii")
        (folder / "memory.limit_in_bytes").write_text(str(limit), encoding="ascii")
        with contextlib.suppress(OSError):
            (folder / "memory.memsw.limit_in_bytes").write_text(str(limit), encoding="ascii")

    def counters(self) -> Counters:
        """To be read when the worker has ended, before `remove`."""
        if self.memory is None:
            return Counters()
        events, peak = (
            ("memory.events", "memory.peak")
            if self.version == "v2"
            else ("memory.oom_control", "memory.max_usage_in_bytes")
        )
        return Counters(
            out_of_memory=_field(self.memory / events, "oom_kill") > 0,
            peak_memory_bytes=_number(self.memory / peak),
        )

    async def remove(self, held: int | None = None) -> None:
        folders = self.folders()
        # Nearly always everybody in it is gone: all in one thread, for each costs more than what it does.
        if not await asyncio.to_thread(_removed, folders, held):
            for folder in folders:
                await _remove(folder)


def _field(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.isdigit():
                return int(value)
    return 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _removed(folders: Sequence[Path], held: int | None) -> bool:
    """Close a descriptor and remove empty groups; whether none is left."""
    if held is not None:
        os.close(held)
    left = False
    for folder in folders:
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            left = True
    return not left


async def _remove(folder: Path) -> None:
    """Kill what is inside and remove it, in a few tries: dying takes the kernel a moment."""
    pause, longest = _REMOVE_PAUSES
    for _ in range(_REMOVE_TRIES):
        try:
            await asyncio.to_thread(folder.rmdir)
        except FileNotFoundError:
            return
        except OSError:
            _kill_all(folder)
            await asyncio.sleep(pause)
            pause = min(pause * 1.1, longest)
        else:
            return


def _kill_all(folder: Path) -> None:
    with contextlib.suppress(OSError):
        (folder / "cgroup.kill").write_text("1", encoding="ascii")
        return
    with contextlib.suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)


def find(mount: Path = MOUNT, own: str | None = None) -> Cgroups:
    """What this machine and this user can make. `own` is the content of /proc/self/cgroup."""
    text = Path("/proc/self/cgroup").read_text(encoding="ascii") if own is None else own
    paths = {names: path for _, names, path in (line.split(":", 2) for line in text.splitlines())}
    if (mount / "cgroup.controllers").exists():
        return _find_v2(mount, paths.get("", "/"))
    memory, why_memory = _find_v1(mount, "memory", paths)
    pids, why_pids = _find_v1(mount, "pids", paths)
    notes = tuple(why for why in (why_memory, why_pids) if why)
    if memory is None and pids is None:
        return Cgroups(version="none", notes=notes)
    return Cgroups(version="v1", memory=memory, pids=pids, notes=notes)


def _find_v1(mount: Path, controller: str, paths: dict[str, str]) -> tuple[Path | None, str]:
    own = next((path for names, path in paths.items() if controller in names.split(",")), None)
    if own is None:
        return None, f"no cgroup controller for {controller}"
    # In a container the path may be the host's, and what is mounted is our own part of it.
    for folder in (mount / controller / own.lstrip("/"), mount / controller):
        if (folder / "cgroup.procs").exists() and _can_make(folder):
            return folder, ""
    return None, f"no right to make a {controller} cgroup"


def _find_v2(mount: Path, own: str) -> Cgroups:
    for folder in (mount / own.lstrip("/"), mount):
        if not (folder / "cgroup.procs").exists() or not _can_make(folder):
            continue
        missing = _enable(folder)
        memory = None if "memory" in missing else folder
        pids = None if "pids" in missing else folder
        if memory or pids:
            notes = tuple(f"cgroup v2 without the {name} controller" for name in sorted(missing))
            return Cgroups(version="v2", memory=memory, pids=pids, notes=notes)
    return Cgroups(version="none", notes=("no right to make a cgroup, or no controller delegated",))


def _enable(folder: Path) -> set[str]:
    """Hand memory and pids down to children; the ones that cannot be."""
    control = folder / "cgroup.subtree_control"
    for name in ("memory", "pids"):
        with contextlib.suppress(OSError):
            if name not in control.read_text(encoding="ascii").split():
                _hand_down(folder, name)
    try:
        return {"memory", "pids"} - set(control.read_text(encoding="ascii").split())
    except OSError:
        return {"memory", "pids"}


def _hand_down(folder: Path, name: str) -> None:
    control = folder / "cgroup.subtree_control"
    try:
        control.write_text(f"+{name}", encoding="ascii")
    except OSError:
        # A group with processes cannot hand controllers down: they, and we, move into a leaf.
        leaf = folder / f"{_PREFIX}-host"
        leaf.mkdir(exist_ok=True)
        for pid in (folder / "cgroup.procs").read_text(encoding="ascii").split():
            with contextlib.suppress(OSError):
                (leaf / "cgroup.procs").write_text(pid, encoding="ascii")
        control.write_text(f"+{name}", encoding="ascii")


def _can_make(folder: Path) -> bool:
    probe = folder / f"{_PREFIX}-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True
