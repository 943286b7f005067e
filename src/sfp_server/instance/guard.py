"""Who watches over the instance: `python -I -S guard.py DIRECTORY PORT API_PORT`, one of supervisord's programs.

supervisord starts again what has died. The guard sees to the rest:

* supervisord itself dies, other than by an orderly stop (which ends this process first): the guard starts the
  instance again; `start` ends what was left running and brings everything back;
* a process of the instance is stopped (SIGSTOP, a debugger that went away): it is woken, and killed when it is stopped
  again at once. PostgreSQL's processes are only ever woken. A worker's processes too: nobody else is there to do it;
* a service runs, but gives no sign of life: it is killed, and supervisord starts it again. Our own processes touch
  `run/alive/<pid>` every second (`sfp_server/alive.py`); the others are asked something cheap. PostgreSQL gets more
  time, and an immediate shutdown instead of a kill;
* the API is down for a moment: the guard holds its port, lest another instance takes it. Both would have it then,
  because API processes share their port, and requests would go to either.

A machine that is merely slow kills nothing: whoever is stopped says so in /proc; silence is measured on a clock that
stands while the guard itself is kept waiting, and counts for less the more processes wait for a processor. Killed
alone, the guard is started again by supervisord. So no single fault takes the instance down for good.

Standard library only: it waits for years and should weigh little.
"""

import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

#: seconds between two looks at the services, and between two looks at the workers
LOOK_SECONDS, WORKERS_SECONDS = 1.0, 2.0
#: a process of ours, and one that a task has started, is woken when it has been stopped so long, seconds
OURS_STOPPED, TASK_STOPPED = 2.0, 10.0
#: stopped again within so many seconds of having been woken: killed
AGAIN_SECONDS = 15.0
#: the API's port is held for so long while it is away
AWAY_SECONDS = 10.0
#: a service without a sign of life for so long (seconds, on a machine that is not busy) is ended
SILENCE_SECONDS, DATABASE_SILENCE_SECONDS = 10.0, 30.0
#: more processes than any instance has: a look must end
MOST = 5_000
#: whether PostgreSQL speaks TLS: answered before it looks at anything, also during recovery, and never logged
SSL_REQUEST = struct.pack("!ii", 8, (1234 << 16) | 5679)


class Stopped:
    """A process that was seen stopped; times are the guard's clock. (`dataclasses` alone would weigh a megabyte.)"""

    def __init__(self, since: float) -> None:
        self.since = since
        self.woken_at: float | None = None


class Question:
    """Something cheap to ask a service. Nobody waits for the answer: it is looked for at the next look."""

    def __init__(self, address: "str | tuple[str, int]", words: bytes) -> None:
        self._address = address
        self._words = words
        self._asked: socket.socket | None = None

    def is_answered(self) -> bool:
        """False: a question is open. Whoever is not there to be asked is not silent: supervisord sees to that."""
        try:
            if self._asked is None:
                self._ask()
                return True
            self._asked.recv(1)
        except (BlockingIOError, TimeoutError):  # no answer yet, or not even room to ask
            return False
        except OSError:
            pass
        self.forget()
        return True

    def forget(self) -> None:
        if self._asked is not None:
            self._asked.close()
            self._asked = None

    def _ask(self) -> None:
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(0.2)
            connection.connect(self._address)
            connection.sendall(self._words)
            connection.setblocking(False)
        except BaseException:
            connection.close()
            raise
        self._asked = connection


class Guard:
    """Looks after the instance in `directory`, whose supervisord has the number `supervisord`."""

    def __init__(self, directory: Path, port: int, supervisord: int, api_port: int = 0) -> None:
        self._run = (directory / "run").resolve()
        self._supervisord = supervisord
        self._api_port = api_port
        self._held: socket.socket | None = None
        self._api_seen_at = 0.0
        self._questions = {
            "postgres": Question(str(self._run / "postgres" / ".s.PGSQL.5432"), SSL_REQUEST),
            "valkey-server": Question(str(self._run / "valkey.sock"), b"PING\r\n"),
            # plain words on the TLS port: refused at once, by whoever is awake
            "caddy": Question(("127.0.0.1", port), b"GET / HTTP/1.0\r\n\r\n"),
        }
        self._stopped: dict[tuple[int, str], Stopped] = {}
        #: by pid: when there was a sign of life, on the guard's clock, and which mark it had made then
        self._heard_at: dict[int, float] = {}
        self._marks: dict[int, int | None] = {}
        #: seconds: when the guard looked last
        self._clock = 0.0
        self._workers_at = 0.0

    def watch(self) -> None:
        """Returns when supervisord has ended."""
        descriptor = os.pidfd_open(self._supervisord)
        before, clock = time.monotonic(), 0.0
        while not select.select([descriptor], [], [], LOOK_SECONDS)[0]:
            now = time.monotonic()
            # Kept waiting ourselves, we cannot tell who else was: no more than a look's time has passed for anybody.
            clock += min(now - before, LOOK_SECONDS * 1.5)
            before = now
            try:
                self.look(clock)
            except Exception as error:  # whatever it is, the next look may do better
                say(f"a look failed: {error!r}")
        os.close(descriptor)
        self.close()

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
        for question in self._questions.values():
            question.forget()

    def look(self, clock: float) -> None:
        """Wake who is stopped, end who is silent. `clock`: seconds that the guard has been awake and on time."""
        self._clock = clock
        services = {pid: program(pid) for pid in children(self._supervisord)}
        self._hold_port(services)
        looked_at: dict[int, float] = dict.fromkeys([self._supervisord, *services], OURS_STOPPED)
        for pid, name in services.items():
            if name == "postgres":
                looked_at.update(dict.fromkeys(children(pid), OURS_STOPPED))
            self._listen_to(pid, name)
        if self._clock - self._workers_at >= WORKERS_SECONDS:
            self._workers_at = self._clock
            for pid in descendants(services):
                looked_at.setdefault(pid, TASK_STOPPED)
        looked_at.update({pid: TASK_STOPPED for pid, _ in self._stopped if pid not in looked_at})
        killable = {pid for pid, name in services.items() if name != "postgres"}
        self._wake(looked_at, killable)
        self._forget_ended(services)

    def _hold_port(self, services: dict[int, str]) -> None:
        """Bound and not listening: who shares the port on purpose can have it, who looks for a free one cannot.

        Only sockets of one user share a port: ours is given to the user that the API runs as.
        """
        api = next((pid for pid, name in services.items() if name == "serve"), None)
        if api is None:
            if self._held is not None and self._clock - self._api_seen_at > AWAY_SECONDS:
                self._held.close()  # it may come back as another user, which our hold would keep out
                self._held = None
            return
        self._api_seen_at = self._clock
        if self._held is not None or not self._api_port:
            return
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            os.fchown(held.fileno(), user_of(api), -1)
            held.bind(("127.0.0.1", self._api_port))
        except OSError:  # a connection that has just ended is in the way: the next look may do better
            held.close()
        else:
            self._held = held

    def _wake(self, looked_at: dict[int, float], killable: set[int]) -> None:
        seen: set[tuple[int, str]] = set()
        for pid, patience in looked_at.items():
            state, started = status(pid)
            if state != "T":
                continue
            seen.add((pid, started))
            record = self._stopped.setdefault((pid, started), Stopped(self._clock))
            again = record.woken_at is not None and self._clock - record.woken_at < AGAIN_SECONDS
            if again and pid in killable:
                self._signal(pid, signal.SIGKILL, "was stopped again and again: killed")
            elif self._clock - (record.woken_at or record.since) >= (OURS_STOPPED if is_ours(pid) else patience):
                record.woken_at = self._clock
                self._signal(pid, signal.SIGCONT, "was stopped: woken")
        for key, record in list(self._stopped.items()):
            if key not in seen and (record.woken_at is None or self._clock - record.woken_at >= AGAIN_SECONDS):
                del self._stopped[key]

    def _listen_to(self, pid: int, name: str) -> None:
        """Note a sign of life; without one for too long, end the service."""
        question = self._questions.get(name)
        if self._has_beaten(pid) if question is None else question.is_answered():
            self._heard_at[pid] = self._clock
            return
        silent = self._clock - self._heard_at.setdefault(pid, self._clock)
        waiting = os.getloadavg()[0] / (os.cpu_count() or 1)
        patience = (DATABASE_SILENCE_SECONDS if name == "postgres" else SILENCE_SECONDS) * max(1.0, waiting)
        if silent >= patience and status(pid)[0] not in {"T", "D"}:  # D: it waits for a disk, and cannot be killed
            self._heard_at[pid] = self._clock
            number = signal.SIGQUIT if name == "postgres" else signal.SIGKILL
            self._signal(pid, number, f"gave no sign of life for {silent:.0f} s: ended by {number.name}")

    def _has_beaten(self, pid: int) -> bool:
        """Since the last look; who has no mark yet is not expected to."""
        mark = touched(self._run / "alive" / str(pid))
        before = self._marks.get(pid)
        self._marks[pid] = mark
        return mark is None or mark != before

    def _forget_ended(self, services: dict[int, str]) -> None:
        for pid in [pid for pid in self._heard_at if pid not in services]:
            del self._heard_at[pid]
            self._marks.pop(pid, None)
        for name in set(self._questions) - set(services.values()):
            self._questions[name].forget()
        for mark in (self._run / "alive").glob("*"):
            if mark.name.isdigit() and int(mark.name) not in services and not Path(f"/proc/{mark.name}").exists():
                mark.unlink(missing_ok=True)

    def _signal(self, pid: int, number: signal.Signals, why: str) -> None:
        name = program(pid)
        try:
            os.kill(pid, number)
        except OSError as error:
            say(f"{name} ({pid}) {why}, in vain: {error.strerror}")
        else:
            say(f"{name} ({pid}) {why}")


def touched(path: Path) -> int | None:
    """When the file was touched, in the kernel's nanoseconds; only ever compared with itself. None: there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def status(pid: int) -> tuple[str, str]:
    """A process's state, one letter, and when it was started; empty when it has ended."""
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (fields[0].decode(), fields[19].decode()) if len(fields) > 19 else ("", "")


def user_of(pid: int) -> int:
    """The number of the user that a process runs as; our own when it has ended."""
    lines = read(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[2]) for line in lines if line.startswith(b"Uid:")), os.geteuid())


def program(pid: int) -> str:
    """The name of what a process runs: of the module's command for Python."""
    argv = read(f"/proc/{pid}/cmdline").split(b"\0")
    if b"sfp_server.cli" in argv[:-1]:
        return argv[argv.index(b"sfp_server.cli") + 1].decode(errors="replace")
    return os.path.basename(argv[0]).decode(errors="replace") or "a process"  # noqa: PTH119 (bytes)


def is_ours(pid: int) -> bool:
    """What runs a task, not the task: a worker's supervisor, the template it was forked from, their sandbox."""
    argv = read(f"/proc/{pid}/cmdline")
    return b"sfp_worker" in argv or program(pid) == "bwrap"


def children(pid: int) -> list[int]:
    """The children of a process, where the kernel lists them; else by asking every process for its parent."""
    threads = Path(f"/proc/{pid}/task")
    try:
        lists = [read(f"/proc/{pid}/task/{thread.name}/children") for thread in threads.iterdir()]
    except OSError:
        return []
    if any(lists) or Path("/proc/self/task", str(os.getpid()), "children").exists():
        return [int(number) for found in lists for number in found.split()]
    return [child for child in everybody() if parent(child) == pid]


def descendants(services: dict[int, str]) -> Iterator[int]:
    """What the services have started, and what that has, without end; PostgreSQL's own are looked at anyway."""
    waiting = [pid for pid, name in services.items() if name != "postgres"]
    for _ in range(MOST):
        if not waiting:
            return
        found = children(waiting.pop())
        yield from found
        waiting += found


def everybody() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def parent(pid: int) -> int | None:
    fields = read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return int(fields[1]) if len(fields) > 1 else None


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:  # it has ended meanwhile, or is another user's
        return b""


def say(text: str) -> None:
    """To guard.log, as supervisord keeps it."""
    try:
        os.write(1, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode())
    except OSError:  # supervisord is gone, or the disk is full: that is what comes next
        return


def main(directory: str, port: str, api_port: str) -> None:
    supervisord = os.getppid()
    if _number(Path(directory) / "run" / "supervisord.pid") == supervisord:
        Guard(Path(directory), int(port), supervisord, int(api_port)).watch()
    log = os.open(Path(directory) / "logs" / "guard.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)  # our pipes led to the dead supervisord
    os.dup2(log, 2)
    os.execv(sys.executable, [sys.executable, "-I", "-m", "sfp_server.instance.revive", directory])  # noqa: S606


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
