"""Talking to this instance's supervisord, and ending what an earlier one left behind."""

import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfp_server.instance.keys import KEY_VARIABLES
from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.services import MARK, python_environment

#: what is started while others are ended is found by looking again, so often at most
_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One supervised process, as supervisord sees it."""

    name: str
    service: str
    #: supervisord's word: RUNNING, STOPPED, …
    state: str
    pid: int
    #: seconds
    uptime: int

    @property
    def is_running(self) -> bool:
        return self.state == "RUNNING"


class Supervisor:
    """A client of supervisord's private socket."""

    def __init__(self, at: Place) -> None:
        self._at = at

    def is_alive(self) -> bool:
        """True when supervisord answers."""
        try:
            return self._call("supervisor.getState")["statename"] in {"RUNNING", "RESTARTING", "SHUTDOWN"}
        except (OSError, xmlrpc.client.Error):
            return False

    def processes(self) -> list[Process]:
        """Every supervised process; empty when supervisord does not answer."""
        try:
            found: list[dict[str, Any]] = self._call("supervisor.getAllProcessInfo")
        except (OSError, xmlrpc.client.Error):
            return []
        return [
            Process(
                name=item["name"],
                service=item["group"],
                state=item["statename"],
                pid=item["pid"],
                uptime=max(0, item["now"] - item["start"]) if item["pid"] else 0,
            )
            for item in found
        ]

    def start_all(self) -> None:
        self._call("supervisor.startAllProcesses", False)

    def restart(self, service: str) -> None:
        """Stop a service in order and start it again, all its processes."""
        try:
            self._call("supervisor.stopProcessGroup", service, True)
            self._call("supervisor.startProcessGroup", service, False)
        except (OSError, xmlrpc.client.Error):
            return  # the instance is being stopped

    def kill(self, service: str) -> None:
        """Stop a service by SIGKILL; supervisord does not start it again."""
        try:
            self._call("supervisor.stopProcessGroup", service, False)
            self._call("supervisor.signalProcessGroup", service, "KILL")
        except (OSError, xmlrpc.client.Error):
            return  # it has ended by itself

    def shutdown(self) -> None:
        """Ask supervisord to stop everything in order and end; returns at once."""
        try:
            self._call("supervisor.shutdown")
        except (OSError, xmlrpc.client.Error):
            return  # it is already on its way

    def _call(self, method: str, *arguments: object) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport: Any = SupervisorTransport(None, None, f"unix://{self._at.supervisor_socket}")
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy, method)(*arguments)


def spawn(at: Place) -> None:
    """Start supervisord; it puts itself into the background. Raises InstanceError when it refuses."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "supervisor.supervisord", "-c", str(at.directory / "supervisor.conf")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={
            **python_environment(at),
            MARK: str(at.directory),  # so that it counts as a leftover when it hangs
            # for the broker, where the vault's keys are kept in the environment; no other service gets them
            **{name: os.environ[name] for name in KEY_VARIABLES if name in os.environ},
        },
        check=False,
        timeout=30,
        cwd=at.directory,
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise InstanceError(f"supervisord does not start: {lines[-1]}; see {at.logs / 'supervisord.log'}")


def supervisor_pid(at: Place) -> int | None:
    """The process number of the supervisord that runs this instance, if it lives."""
    try:
        pid = int((at.run / "supervisord.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if os.fsencode(at.directory / "supervisor.conf") in command.split(b"\0") else None


def leftovers(at: Place) -> list[int]:
    """Processes of this very instance: those that carry its mark, and PostgreSQL on its data directory.

    Never those of another instance, nor a shell that happens to stand in the directory.
    """
    mark, directory = os.fsencode(f"{MARK}={at.directory}"), os.fsencode(at.directory)
    own = os.getpid()
    found = {pid for pid in _pids() if pid != own and _belongs(pid, mark, directory)}
    postmaster = _postmaster(at)
    return sorted(found | ({postmaster} if postmaster else set()))


def _belongs(pid: int, mark: bytes, directory: bytes) -> bool:
    """By the mark in its environment; the broker hides its own, so one of our programs also by its arguments."""
    if mark in _read(pid, "environ").split(b"\0"):
        return True
    argv = _read(pid, "cmdline").split(b"\0")
    return b"sfp_server.cli" in argv and b"--directory" in argv and directory in argv


def end_leftovers(at: Place) -> int:
    """End what a killed supervisord left running, PostgreSQL by a fast shutdown. Returns how many there were.

    Running tasks are not waited for: they will be found lost and told so, and the instance must be back soon. Whoever
    could start something again goes first: the guard, what it turns into, and a supervisord that does not answer.
    """
    count = 0
    for _ in range(_ROUNDS):
        _end_by_force(_starters(at), after=0.0)
        pids = leftovers(at)
        if not pids:
            break
        count += len(pids)
        _end(at, pids)
    return count


def _end(at: Place, pids: list[int]) -> None:
    postmaster = _postmaster(at)
    for pid in pids:
        _signal(pid, signal.SIGCONT)  # one that is stopped hears nothing else
        _signal(pid, signal.SIGINT if pid == postmaster else signal.SIGTERM)
    others = [pid for pid in pids if pid != postmaster]
    _end_by_force(others, after=2.0)
    _end_by_force([postmaster] if postmaster else [], after=8.0)


def _starters(at: Place) -> list[int]:
    supervisord = supervisor_pid(at)
    guards = [
        pid
        for pid in leftovers(at)
        if {b"sfp_server.instance.revive", b"supervisor.supervisord"}
        & (argv := set(_read(pid, "cmdline").split(b"\0")))
        or os.fsencode(Path(__file__).with_name("guard.py")) in argv
    ]
    return guards if supervisord is None else [supervisord, *guards]


def _end_by_force(pids: list[int], *, after: float) -> None:
    """SIGKILL for those of `pids` that have not ended after so many seconds."""
    deadline = time.monotonic() + after
    while (left := [pid for pid in pids if _is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.03)
    for pid in left:
        _signal_group(pid)
    while any(_is_alive(pid) for pid in left) and time.monotonic() < deadline + 5:
        time.sleep(0.03)


def wait_gone(pids: Iterable[int], timeout: float, *, poke: Callable[[], object]) -> bool:
    """True when all of them have ended in time; `poke` is called between looks."""
    deadline = time.monotonic() + timeout
    waiting = list(pids)
    while (waiting := [pid for pid in waiting if _is_alive(pid)]) and time.monotonic() < deadline:
        poke()
        time.sleep(0.03)
    return not waiting


def _postmaster(at: Place) -> int | None:
    """PostgreSQL rewrites its environment area, so it is known by its pid file and its directory instead."""
    try:
        pid = int((at.database / "postmaster.pid").read_text().splitlines()[0])
        same = Path(f"/proc/{pid}/cwd").resolve() == at.database.resolve()
    except (OSError, ValueError, IndexError):
        return None
    return pid if same and _is_alive(pid) else None


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:  # ended meanwhile, or another user's
        return b""


def _is_alive(pid: int) -> bool:
    state = _read(pid, "stat").rpartition(b")")[2].split()
    return bool(state) and state[0] not in {b"Z", b"X"}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return


def _signal_group(pid: int) -> None:
    """SIGKILL for the process and, where it leads its group, for what it started."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass
    _signal(pid, signal.SIGKILL)
