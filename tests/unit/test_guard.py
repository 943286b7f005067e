"""The guard wakes who is stopped and ends who is silent; here the test is supervisord, and passes the clock in."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sfp_server.instance import guard, ports
from sfp_server.instance.guard import (
    AGAIN_SECONDS,
    AWAY_SECONDS,
    DATABASE_SILENCE_SECONDS,
    OURS_STOPPED,
    SILENCE_SECONDS,
    TASK_STOPPED,
    Guard,
)

#: beats once, then its loop is stuck
STUCK = "import sys, pathlib, time; pathlib.Path(sys.argv[1]).touch(); print(flush=True); time.sleep(600)"
SLEEP = "print(flush=True); import time; time.sleep(600)"
#: has a child that is stopped
PARENT = """
import os, signal, subprocess
child = subprocess.Popen(["sleep", "600"])
child.send_signal(signal.SIGSTOP)
os.waitpid(child.pid, os.WUNTRACED)
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("alive", "postgres"):
        (tmp_path / "run" / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a service that has said its first line; killed at the end."""
    started: list[subprocess.Popen[str]] = []
    found = guard.children

    def ours(pid: int) -> list[int]:
        """We stand in for supervisord: what this process started for other tests (a PostgreSQL!) is no service."""
        mine = {process.pid for process in started}
        return [child for child in found(pid) if pid != os.getpid() or child in mine]

    monkeypatch.setattr(guard, "children", ours)

    def start(script: str, *arguments: str, name: str | None = None) -> subprocess.Popen[str]:
        argv = [name or sys.executable, "-c", script, *arguments]
        process = subprocess.Popen(argv, executable=sys.executable, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.first = process.stdout.readline()  # type: ignore[attr-defined]
        started.append(process)
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing else to do."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # until it has stopped


def state(pid: int) -> str:
    return guard.status(pid)[0]


def test_a_stopped_service_is_woken_and_not_at_once(place, service):
    stopped = service(SLEEP)
    watching = Guard(place, 1, os.getpid())
    stop(stopped)
    watching.look(0.0)
    watching.look(OURS_STOPPED / 2)
    assert state(stopped.pid) == "T"
    watching.look(OURS_STOPPED)
    assert state(stopped.pid) != "T"


def test_a_service_that_is_stopped_again_is_killed(place, service):
    stopped = service(SLEEP)
    watching = Guard(place, 1, os.getpid())
    stop(stopped)
    watching.look(0.0)
    watching.look(OURS_STOPPED)
    stop(stopped)
    watching.look(OURS_STOPPED + 1)
    assert stopped.wait(10) == -signal.SIGKILL


def test_a_service_that_is_stopped_much_later_is_woken_again(place, service):
    stopped = service(SLEEP)
    watching = Guard(place, 1, os.getpid())
    stop(stopped)
    watching.look(0.0)
    watching.look(OURS_STOPPED)
    stop(stopped)
    watching.look(OURS_STOPPED + AGAIN_SECONDS)
    assert state(stopped.pid) != "T"


def test_what_postgresql_runs_is_only_ever_woken(place, service):
    stopped = service(SLEEP, name="postgres")
    watching = Guard(place, 1, os.getpid())
    for again in range(5):
        stop(stopped)
        watching.look(again * 3.0)
        watching.look(again * 3.0 + OURS_STOPPED)
        assert state(stopped.pid) != "T"
    assert stopped.poll() is None


def test_a_stopped_program_of_a_task_is_woken_later(place, service):
    parent = service(PARENT, name="dispatcher")
    child = int(parent.first)
    watching = Guard(place, 1, os.getpid())
    watching.look(100.0)
    watching.look(100.0 + TASK_STOPPED / 2)
    assert state(child) == "T"
    watching.look(100.0 + TASK_STOPPED)
    assert state(child) != "T"
    os.kill(child, signal.SIGKILL)


def test_a_service_whose_loop_is_stuck_is_killed(place, service, calm):
    stuck = service(STUCK, "")
    (place / "run" / "alive" / str(stuck.pid)).touch()
    watching = Guard(place, 1, os.getpid())
    watching.look(0.0)
    watching.look(SILENCE_SECONDS - 1)
    assert stuck.poll() is None
    watching.look(SILENCE_SECONDS)
    assert stuck.wait(10) == -signal.SIGKILL


def test_a_busy_machine_gets_more_time(place, service, monkeypatch):
    stuck = service(STUCK, "")
    (place / "run" / "alive" / str(stuck.pid)).touch()
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0 * (os.cpu_count() or 1), 0.0, 0.0))
    watching = Guard(place, 1, os.getpid())
    watching.look(0.0)
    watching.look(SILENCE_SECONDS * 2)
    assert stuck.poll() is None


def test_a_service_that_beats_is_left_alone(place, service, calm):
    well = service(SLEEP)
    mark = place / "run" / "alive" / str(well.pid)
    watching = Guard(place, 1, os.getpid())
    for look in range(5):
        mark.touch()
        watching.look(look * SILENCE_SECONDS)
    assert well.poll() is None


def test_marks_of_services_that_have_ended_are_removed(place):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (place / "run" / "alive" / str(ended.pid)).touch()
    Guard(place, 1, os.getpid()).look(0.0)
    assert list((place / "run" / "alive").iterdir()) == []


def test_a_silent_database_is_asked_to_shut_down_after_a_long_time(place, service, calm, capfd):
    silent = service(SLEEP, name="postgres")
    listening = socket.socket(socket.AF_UNIX)
    with listening:
        listening.bind(str(place / "run" / "postgres" / ".s.PGSQL.5432"))
        listening.listen()
        watching = Guard(place, 1, os.getpid())
        watching.look(0.0)  # asks
        watching.look(1.0)
        watching.look(DATABASE_SILENCE_SECONDS - 1.0)
        assert capfd.readouterr().out == ""  # it says what it does
        watching.look(DATABASE_SILENCE_SECONDS)
        watching.close()
        assert silent.wait(10) == -signal.SIGQUIT


def test_a_database_that_answers_or_is_just_starting_is_left_alone(place, service, calm):
    well = service(SLEEP, name="postgres")
    watching = Guard(place, 1, os.getpid())
    watching.look(0.0)
    watching.look(DATABASE_SILENCE_SECONDS * 2)  # its socket is not there yet
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "run" / "postgres" / ".s.PGSQL.5432"))
        listening.listen()
        clock = DATABASE_SILENCE_SECONDS * 2
        for _ in range(3):
            clock += DATABASE_SILENCE_SECONDS - 1
            watching.look(clock)
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(8) == guard.SSL_REQUEST
                connection.sendall(b"N")
                watching.look(clock + 1)
    assert well.poll() is None


def test_it_returns_when_supervisord_has_ended(place):
    supervisord = subprocess.Popen(["sleep", "600"])
    supervisord.kill()
    watching = Guard(place, 1, supervisord.pid)
    watching.watch()
    assert supervisord.wait() == -signal.SIGKILL


def test_the_api_s_port_is_held_while_the_api_is_away_and_shared_when_it_comes(place, service):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    watching = Guard(place, 1, os.getpid(), port)
    watching.look(0.0)
    assert ports.is_free(port)  # there has been no API yet
    api = service(SLEEP, "sfp_server.cli", "serve", "x")
    watching.look(1.0)
    api.kill()
    api.wait()
    watching.look(1.0 + AWAY_SECONDS)
    assert not ports.is_free(port)  # as another instance looks for one
    with socket.create_server(("127.0.0.1", port), reuse_port=True), socket.create_connection(("127.0.0.1", port)):
        pass  # as the API listens; whoever connects gets there
    watching.look(2.0 + AWAY_SECONDS)
    assert ports.is_free(port)
