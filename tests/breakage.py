"""Faults of a whole instance, by name: what is struck, and how long work may take to go on by itself.

`faults.py` has those of single services that a test starts itself.
"""

import asyncio
import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from acceptance.conftest import HEALING, Instance
from sfp_server.db.database import fetch
from sfp_server.settings import Settings

#: seconds after which a worker's trouble must be over
WORKER_HEALING = 30.0
SERVICES = ("postgres", "cache", "api", "dispatcher", "broker", "deliverer", "auditor", "caddy")
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@dataclass(frozen=True, kw_only=True)
class Fault:
    name: str
    #: strikes, and answers with the processes that it hit
    strike: Callable[[Instance], list[int]]
    #: seconds
    recovery: float = HEALING


def admin_url(instance: Instance) -> str:
    return Settings.load(instance.place.directory, {}).admin_url()


def _argv(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has ended meanwhile
        return []


def below(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def postmaster(instance: Instance) -> list[int]:
    return instance.pids("postgres")


def postgres_all(instance: Instance) -> list[int]:
    return [pid for top in postmaster(instance) for pid in (top, *(child.pid for child in below(top)))]


def postgres_backend(instance: Instance) -> list[int]:
    """One connection of the API."""
    children = [child for top in postmaster(instance) for child in below(top)]
    return [child.pid for child in children if "sfp_api" in " ".join(_argv(child))][:1]


def worker_programs(instance: Instance) -> list[psutil.Process]:
    """The programs of the tasks that run now, as `Recorder.script` starts them."""
    children = [child for top in instance.pids("dispatcher") for child in below(top)]
    return [child for child in children if _argv(child)[:1] == ["bash"] and "/dev/tcp/" in " ".join(_argv(child))]


def worker_child(instance: Instance) -> list[int]:
    return [program.pid for program in worker_programs(instance)[:1]]


def worker_supervisor(instance: Instance) -> list[int]:
    return _above(instance)[:1]


def worker_ancestors(instance: Instance) -> list[int]:
    """What lies between a program and the dispatcher: supervisor, template, bubblewrap."""
    return _above(instance)


def _above(instance: Instance) -> list[int]:
    own = {child.pid for top in instance.pids("dispatcher") for child in below(top)}
    for program in worker_programs(instance):
        try:
            return [parent.pid for parent in program.parents() if parent.pid in own]
        except psutil.Error:  # it has ended meanwhile
            continue
    return []


def service(name: str) -> Callable[[Instance], list[int]]:
    return lambda instance: instance.pids(name)


VICTIMS: dict[str, Callable[[Instance], list[int]]] = {
    **{name: service(name) for name in SERVICES},
    "postgres-all": postgres_all,
    "postgres-backend": postgres_backend,
    "worker-child": worker_child,
    "worker-supervisor": worker_supervisor,
    "worker-ancestors": worker_ancestors,
}


def found(victims: Callable[[Instance], list[int]], instance: Instance) -> list[int]:
    """The victims, as soon as there are some: a worker may not be running just now."""
    deadline = time.monotonic() + HEALING
    while not (pids := [pid for pid in victims(instance) if pid]):
        assert time.monotonic() < deadline, "nothing there to strike"
        time.sleep(0.02)
    return pids


def signalled(victims: Callable[[Instance], list[int]], number: signal.Signals) -> Callable[[Instance], list[int]]:
    def strike(instance: Instance) -> list[int]:
        pids = found(victims, instance)
        for pid in pids:
            with suppress(ProcessLookupError):  # a child that went with its parent
                os.kill(pid, number)
        return pids

    return strike


def cut_connections(instance: Instance) -> list[int]:
    """Every connection to the database ends at once."""
    statement = (
        "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return [row["pid"] for row in asyncio.run(fetch(admin_url(instance), statement))]


def _faults() -> dict[str, Fault]:
    made = [Fault(name="cut-connections", strike=cut_connections)]
    for name, victims in VICTIMS.items():
        recovery = WORKER_HEALING if name.startswith("worker") else HEALING
        made += [
            Fault(name=f"kill-{name}", strike=signalled(victims, signal.SIGKILL), recovery=recovery),
            Fault(name=f"freeze-{name}", strike=signalled(victims, signal.SIGSTOP), recovery=recovery),
        ]
    return {fault.name: fault for fault in made}


FAULTS = _faults()


# ------------------------------------------------------------------------------------------------- clocks


def give_clock(instance: Instance, name: str) -> None:
    """Start a service anew with a clock of its own, which `set_clock` moves. It reads the offset once a second."""
    assert FAKETIME is not None, "libfaketime is not installed"
    set_clock(instance, name, 0)
    file = instance.place.directory / "services.json"
    known = json.loads(file.read_text())
    known[name]["env"].update(
        LD_PRELOAD=str(FAKETIME),
        FAKETIME_TIMESTAMP_FILE=str(_clock(instance, name)),
        FAKETIME_CACHE_DURATION="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",  # as a clock that is set: what counts seconds goes on
        DONT_FAKE_MONOTONIC="1",
    )
    file.write_text(json.dumps(known))
    signalled(service(name), signal.SIGKILL)(instance)


def set_clock(instance: Instance, name: str, seconds: int) -> None:
    """Let the service's clock be so far ahead (negative: behind) of the machine's."""
    _clock(instance, name).write_text(f"{seconds:+d}\n")


def _clock(instance: Instance, name: str) -> Path:
    return instance.place.run / f"clock-{name}"


# --------------------------------------------------------------------------------------------------- disks


@contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Nothing more can be written below `folder`, which must lie on a small file system of its own."""
    filler = folder / "filler"
    try:
        descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size, at = shutil.disk_usage(folder).free, 0
            while size >= 1:
                try:
                    os.posix_fallocate(descriptor, at, size)
                    at += size
                except OSError:
                    size //= 2
        finally:
            os.close(descriptor)
        yield
    finally:
        filler.unlink()


def is_full(folder: Path) -> bool:
    probe = folder / "probe"
    try:
        probe.write_bytes(b"\0" * 4096)
    except OSError as error:
        return error.errno == errno.ENOSPC
    finally:
        probe.unlink(missing_ok=True)
    return False


# ----------------------------------------------------------------------------------------------- what stays


def remains(instance: Instance, before: dict[str, int]) -> list[str]:
    """Processes, groups, folders and mounts that there were not when nothing ran yet."""
    now = inventory(instance)
    return [f"{count - before.get(what, 0)} more {what}" for what, count in now.items() if count > before.get(what, 0)]


def inventory(instance: Instance) -> dict[str, int]:
    """How many there are, of what a worker could leave behind; other instances' are not counted."""
    rows = asyncio.run(fetch(admin_url(instance), "SELECT DISTINCT pid FROM sfp.dispatchers"))
    dispatchers = {str(row["pid"]) for row in rows} | {str(pid) for pid in instance.pids("dispatcher")}
    made = [name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.count("-") == 3]
    groups = [name for name in made if name.startswith("sfp-") and name.split("-")[1] in dispatchers]
    tops = [Path("/run/sfp-server"), instance.place.run / "workers"]
    folders = [entry for top in tops if top.is_dir() for entry in top.iterdir()]
    return {
        "processes of workers": len([child for pid in instance.pids("dispatcher") for child in below(pid)]),
        "groups": len(set(groups)),
        "folders": len([entry for entry in folders if set(entry.name.split("-")) & dispatchers]),
        "mounts": len([line for line in Path("/proc/mounts").read_text().splitlines() if str(instance.base) in line]),
        "marks of life": len([mark for mark in (instance.place.run / "alive").iterdir() if not psutil.pid_exists(int(mark.name))]),
        "drafts of artifacts": len([file for file in (instance.place.directory / "artifacts").rglob("*") if "draft" in file.name or file.suffix == ".part"]),
    }  # fmt: skip
