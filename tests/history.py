"""What happened to many tasks while things broke, and the rules that it must keep.

A history is put together from four witnesses: the client (what was accepted), the database (tasks, attempts, events), a
live follower, and the tasks themselves: each holds a connection to a `Recorder` while it runs, which the kernel closes
when it dies, however it dies. Every rule answers with what it found against it; tests/unit/test_history.py shows that each can.
"""

import socket
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

FINAL = frozenset({"completed", "failed", "cancelled"})


@dataclass(frozen=True, kw_only=True)
class Accepted:
    """A task that the server took."""

    id: str
    #: tries that it may have; more is wrong
    max_attempts: int = 1
    key: str | None = None
    cancelled: bool = False


@dataclass(kw_only=True)
class Run:
    """One life of a worker's program, as the recorder saw it; seconds on its clock."""

    task: str
    attempt: int
    began: float
    ended: float | None = None


@dataclass(kw_only=True)
class History:
    accepted: dict[str, Accepted] = field(default_factory=dict)
    tasks: Sequence[Mapping[str, Any]] = ()
    attempts: Sequence[Mapping[str, Any]] = ()
    #: team, channel, seq, event, task
    events: Sequence[Mapping[str, Any]] = ()
    #: (team, channel) → the number given last
    channels: Mapping[tuple[str, str], int] = field(default_factory=dict)
    #: rows that should be gone: what, and of which task
    left: Sequence[tuple[str, str]] = ()
    runs: Sequence[Run] = ()
    #: per follower: (seq, event, task), as they came
    followed: Mapping[str, Sequence[tuple[int, str, str]]] = field(default_factory=dict)
    #: processes, groups, folders, mounts that nobody uses any more
    remains: Sequence[str] = ()


def lost(history: History) -> Iterable[str]:
    """Accepted, and the database knows nothing of it."""
    known = {task["id"] for task in history.tasks}
    return (f"{one} was accepted and is not there" for one in history.accepted if one not in known)


def doubled(history: History) -> Iterable[str]:
    """There is a task that nobody was told of: a submission that was tried again was taken twice."""
    made = (task for task in history.tasks if task["id"] not in history.accepted and task["series_id"] is None)
    return (f"{task['id']} was made without being asked for" for task in made)


def stuck(history: History) -> Iterable[str]:
    """Not ended, though there was time."""
    return (f"{task['id']} is still {task['status']}" for task in history.tasks if task["status"] not in FINAL)


def run_twice_at_once(history: History) -> Iterable[str]:
    for task, runs in _by(history.runs, lambda run: run.task).items():
        for one, other in pairwise(sorted(runs, key=lambda run: run.began)):
            if one.ended is None or one.ended > other.began:
                yield f"{task} ran as attempt {one.attempt} and as attempt {other.attempt} at once"


def attempt_run_twice(history: History) -> Iterable[str]:
    """An attempt has one worker, ever."""
    counts = Counter((run.task, run.attempt) for run in history.runs)
    return (f"attempt {attempt} of {task} ran {n} times" for (task, attempt), n in counts.items() if n > 1)


def key_shared(history: History) -> Iterable[str]:
    keyed = [run for run in history.runs if _key(history, run) is not None]
    for key, runs in _by(keyed, lambda run: _key(history, run)).items():
        for one, other in pairwise(sorted(runs, key=lambda run: run.began)):
            if one.task != other.task and (one.ended is None or one.ended > other.began):
                yield f"{one.task} and {other.task} ran at once under the key {key}"


def _key(history: History, run: Run) -> str | None:
    accepted = history.accepted.get(run.task)
    return accepted.key if accepted else None


def finished_twice(history: History) -> Iterable[str]:
    ends = Counter(
        event["task"]
        for event in history.events
        if event["channel"] == f"task:{event['task']}" and event["event"].removeprefix("task.") in FINAL
    )
    return (f"{task} ended {n} times" for task, n in ends.items() if n > 1)


def ended_in_silence(history: History) -> Iterable[str]:
    """Final, and no event says so."""
    told = {(event["task"], event["event"]) for event in history.events}
    final = (task for task in history.tasks if task["status"] in FINAL)
    return (f"{t['id']} is {t['status']} untold" for t in final if (t["id"], f"task.{t['status']}") not in told)


def completed_unrun(history: History) -> Iterable[str]:
    """Completed, and its last attempt never ran."""
    ran = {(run.task, run.attempt) for run in history.runs}
    completed = (
        task for task in history.tasks if task["status"] == "completed" and task["schedule_type"] != "recurring"
    )
    return (f"{task['id']} never ran" for task in completed if (task["id"], task["attempt"]) not in ran)


def tried_too_often(history: History) -> Iterable[str]:
    tried = Counter(attempt["task"] for attempt in history.attempts if attempt["status"] != "preempted")
    for task, count in tried.items():
        accepted = history.accepted.get(task)
        if accepted is not None and count > accepted.max_attempts:
            yield f"{task} was tried {count} times and may be tried {accepted.max_attempts} times"


def attempt_open(history: History) -> Iterable[str]:
    """An attempt that still holds a slot, of a task that has ended."""
    final = {task["id"] for task in history.tasks if task["status"] in FINAL}
    active = (attempt for attempt in history.attempts if attempt["status"] == "active" and attempt["task"] in final)
    return (f"attempt {attempt['attempt']} of {attempt['task']} holds a slot" for attempt in active)


def attempts_overlap(history: History) -> Iterable[str]:
    """By the database's own record, two attempts of one task at once."""
    for task, attempts in _by(history.attempts, lambda attempt: attempt["task"]).items():
        for one, other in pairwise(sorted(attempts, key=lambda attempt: attempt["attempt"])):
            if one["status"] == "active" and other["status"] == "active":
                yield f"{task} has two active attempts, {one['attempt']} and {other['attempt']}"


def channel_with_hole(history: History) -> Iterable[str]:
    numbers = defaultdict(list)
    for event in history.events:
        numbers[event["team"], event["channel"]].append(event["seq"])
    for channel, last in history.channels.items():
        if sorted(numbers[channel]) != list(range(1, last + 1)):
            yield f"{channel[1]} has {len(numbers[channel])} events and its last number is {last}"


def followed_wrong(history: History) -> Iterable[str]:
    """A follower sees each number once, in order, and each end of a task."""
    for name, events in history.followed.items():
        for (before, *_), (after, *_) in pairwise(events):
            if after != before + 1:
                yield f"{name} saw {after} after {before}"


def end_unfollowed(history: History) -> Iterable[str]:
    if not history.followed:
        return
    seen = {(task, event) for events in history.followed.values() for _, event, task in events}
    for event in history.events:
        is_end = event["channel"] == "tasks" and event["event"].removeprefix("task.") in FINAL
        if is_end and (event["task"], event["event"]) not in seen:
            yield f"nobody was told that {event['task']} is {event['event'].removeprefix('task.')}"


def leaked(history: History) -> Iterable[str]:
    """Keys, leases of credentials, tickets of what has ended."""
    return (f"{what} of {task} is left" for what, task in history.left)


def remained(history: History) -> Iterable[str]:
    running = (f"{run.task} is still running" for run in history.runs if run.ended is None)
    return [*history.remains, *running]


RULES: dict[str, Callable[[History], Iterable[str]]] = {
    rule.__name__: rule
    for rule in (
        lost,
        doubled,
        stuck,
        run_twice_at_once,
        attempt_run_twice,
        key_shared,
        finished_twice,
        ended_in_silence,
        completed_unrun,
        tried_too_often,
        attempt_open,
        attempts_overlap,
        channel_with_hole,
        followed_wrong,
        end_unfollowed,
        leaked,
        remained,
    )
}


def violations(history: History) -> dict[str, list[str]]:
    """What was found, by rule; empty: all is well."""
    found = {name: list(rule(history)) for name, rule in RULES.items()}
    return {name: words for name, words in found.items() if words}


def _by(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


class Recorder:
    """A server on loopback to which each task says `<task> <attempt>` and stays connected while it runs."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return self._listener.getsockname()[1]

    def script(self, work: str) -> str:
        """Bash that reports to the recorder, waits for its word, and then does the work."""
        return (
            f"exec 3<>/dev/tcp/127.0.0.1/{self.port} || exit 9; "
            f'echo "$SFP_OPERATION_ID $SFP_ATTEMPT" >&3; read -r _ <&3 || exit 9; {work}'
        )

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._record, args=(connection,), daemon=True).start()

    def _record(self, connection: socket.socket) -> None:
        with connection:
            try:
                line = connection.makefile("rb").readline().split()
            except OSError:
                return
            if len(line) != 2:
                return
            run = Run(task=line[0].decode(), attempt=int(line[1]), began=time.monotonic())
            with self._lock:
                self.runs.append(run)
            try:
                connection.sendall(b"go\n")
                while connection.recv(64):
                    pass
            except OSError:
                pass  # reset: it was killed
            run.ended = time.monotonic()
