"""Work for an instance while it is broken: tasks of every sort, in an order that a seed decides, and their history."""

import asyncio
import random
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from acceptance.conftest import Instance
from breakage import admin_url, inventory, remains
from history import Accepted, History, Recorder
from sfp_client import Client
from sfp_client.errors import ApiError, ClientError, TimedOut
from sfp_server.db.database import fetch

#: sorts of tasks and how often they come
SORTS = {"plain": 8, "retry": 3, "lossless": 5, "keyed": 3, "cancel": 2, "scheduled": 2, "secret": 2, "recurring": 0.05}
ENDS = frozenset({"task.completed", "task.failed", "task.cancelled"})
RETRY = {"backoff": "fixed", "delaySeconds": 0, "jitter": False}
#: tries of a task that must not fail whatever breaks
MANY = 10

TASKS = """
SELECT id::text, team_id::text AS team, status, attempt, series_id::text, schedule_type, preemptions, priority,
       error ->> 'code' AS code, error ->> 'message' AS message, labels ->> 'sort' AS sort
  FROM sfp.tasks
"""
ATTEMPTS = (
    "SELECT task_id::text AS task, attempt, status, started_at, ended_at, error ->> 'code' AS code FROM sfp.attempts"
)
EVENTS = "SELECT team_id::text AS team, channel, seq, event, data ->> 'operationId' AS task FROM sfp.events"
CHANNELS = "SELECT team_id::text AS team, name, last_seq FROM sfp.channels"
#: a lease or ticket may be there while its attempt is; a key while its task is active
LEFT = """
SELECT 'the key ' || key AS what, task_id::text AS task FROM sfp.held_keys
  JOIN sfp.tasks ON tasks.id = task_id WHERE status <> 'active'
UNION ALL
SELECT 'the lease of ' || name, leases.task_id::text FROM sfp.leases
  JOIN sfp.attempts USING (task_id, attempt) WHERE leases.ended_at IS NULL AND status <> 'active'
UNION ALL
SELECT 'a ticket', worker_tickets.task_id::text FROM sfp.worker_tickets
  JOIN sfp.attempts USING (task_id, attempt) WHERE status <> 'active'
"""


class Follow(threading.Thread):
    """Follows the channel of all tasks of a team, through the edge, from first to last."""

    def __init__(self, instance: Instance, token: str) -> None:
        super().__init__(daemon=True)
        self._client = Client(instance.url, token, ca_file=instance.place.edge_root_copy)
        self._ended = threading.Event()
        #: (seq, event, task)
        self.seen: list[tuple[int, str, str]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        last = 0  # not from now on: a connection that comes late must still tell everything
        while not self._ended.is_set():
            try:
                for event in self._client.events("tasks", after=last, deadline=time.monotonic() + 5):
                    last = event.seq
                    self.seen.append((event.seq, event.event, event.data["operationId"]))
                    if self._ended.is_set():
                        return
            except TimedOut:
                continue
            except Exception:  # whatever ends a follower is a finding
                self.failures.append(f"a follower failed: {traceback.format_exc()}")
                self._ended.wait(0.5)

    def stop(self) -> None:
        self._ended.set()
        self.join(20)
        self._client.close()


@dataclass
class Load:
    """Tasks of one instance: `run` feeds it in a thread, `settle` waits for all ends, `history` is what came of it."""

    instance: Instance
    seed: int
    #: application tokens, one per team
    tokens: list[str]
    #: seconds that a task works
    work: tuple[float, float] = (0.05, 0.3)
    sorts: dict[str, float] = field(default_factory=lambda: dict(SORTS))
    recorder: Recorder = field(default_factory=Recorder)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._clients = [
            Client(self.instance.url, token, ca_file=self.instance.place.edge_root_copy) for token in self.tokens
        ]
        self._followers = [Follow(self.instance, token) for token in self.tokens]
        self._ended = threading.Event()
        self._series: list[tuple[Client, str]] = []
        self._in_flight = 0
        self.canary(60)  # so that there is a dispatcher, with all that it keeps ready
        self._before = self._at_rest()

    def _at_rest(self) -> dict[str, int]:
        """What there is while nothing runs: once the workers that wait for tasks have been made."""
        before: dict[str, int] = {}
        deadline = time.monotonic() + 30
        while (now := inventory(self.instance)) != before or not now["processes of workers"]:
            assert time.monotonic() < deadline, now
            before = now
            time.sleep(1)  # time without a change is what is waited for
        return now

    # ------------------------------------------------------------------------------------------------ feeding

    @contextmanager
    def run(self, in_flight: int) -> Iterator["Load"]:
        """Keep so many tasks in flight while the block runs."""
        for follower in self._followers:
            follower.start()
        feeder = threading.Thread(target=self._feed, args=(in_flight,), daemon=True)
        feeder.start()
        try:
            yield self
        finally:
            self._ended.set()
            feeder.join(90)

    def _feed(self, most: int) -> None:
        while not self._ended.is_set():
            room = most - self._open()
            if room <= 0:
                self._ended.wait(0.2)
            elif room > 20:
                self._submit_many(min(room, 100))
            else:
                self._submit_one()

    def _open(self) -> int:
        """Tasks in flight; while the database is away, as many as before."""
        try:
            rows = asyncio.run(
                fetch(admin_url(self.instance), "SELECT count(*) FROM sfp.tasks WHERE finished_at IS NULL")
            )
            self._in_flight = rows[0]["count"]
        except Exception:  # a fault is going on
            self._ended.wait(0.2)
        return self._in_flight

    def _submit_many(self, count: int) -> None:
        client = self._random.choice(self._clients)
        chosen = [self._choose(("plain", "lossless", "keyed", "retry")) for _ in range(count)]
        answer = self._persistently(client, "/tasks/bulk", {"tasks": [body for body, _ in chosen]})
        for made, (_, expected) in zip(answer["items"], chosen, strict=True) if answer else ():
            self._accept(client, made["operationId"], expected)

    def _submit_one(self) -> None:
        client = self._random.choice(self._clients)
        body, expected = self._choose(tuple(self.sorts))
        answer = self._persistently(client, "/tasks", body)
        if answer is None:
            return
        ident = answer["operationId"]
        self._accept(client, ident, expected)
        if body["labels"]["sort"] == "cancel":
            self._cancel(client, ident)
        elif body["labels"]["sort"] == "recurring":
            self._series.append((client, ident))

    def _accept(self, client: Client, ident: str, expected: dict[str, Any]) -> None:
        key = expected.get("key")  # means something within a team only
        team = self._clients.index(client)
        self.accepted[ident] = Accepted(id=ident, **{**expected, "key": key and f"{key} of team {team}"})

    def _persistently(self, client: Client, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """Until it is known to be taken: with one key, so that it is taken once."""
        key = str(uuid.UUID(int=self._random.getrandbits(128)))
        while True:
            try:
                return client.transport.json("POST", path, body=body, key=key)
            except ApiError as error:
                self.refused[error.code] += 1
                if error.status < 500 and error.status != 429:
                    return None
            except ClientError as error:
                self.refused[type(error).__name__] += 1
            if self._ended.wait(0.2) and self.refused.total() > 10_000:
                return None

    def _cancel(self, client: Client, ident: str) -> None:
        self._ended.wait(self._random.uniform(0, 0.3))
        try:
            client.tasks.cancel(ident)
        except ClientError as error:
            self.refused[getattr(error, "code", type(error).__name__)] += 1

    def _choose(self, sorts: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The body of a task, and what may be expected of it."""
        sort = self._random.choices(sorts, [self.sorts[name] for name in sorts])[0]
        script = f"sleep {self._random.uniform(*self.work):.3f}; echo done"
        if sort == "retry":
            script = f'{script}; [ "$SFP_ATTEMPT" -ge 2 ]'
        elif sort == "secret":
            script = f'{script}; test -n "$IT"'
        body: dict[str, Any] = {
            "type": "command",
            "data": {"argv": ["bash", "-c", self.recorder.script(script)]},
            "network": "egress",
            "priority": self._random.choice(["critical", "normal", "normal", "batch", "batch"]),
            "labels": {"sort": sort},
            "timeoutSeconds": 60,
        }
        expected: dict[str, Any] = {}
        if sort in {"retry", "lossless", "secret"}:
            expected["max_attempts"] = MANY
            body["retryConfig"] = {**RETRY, "maxAttempts": MANY}
        match sort:
            case "keyed":
                body["concurrencyKey"] = expected["key"] = f"key-{self._random.randrange(4)}"
            case "scheduled":
                at = time.time() + self._random.uniform(0.5, 3)
                body["scheduleType"] = "scheduled"
                body["scheduledFor"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
            case "secret":
                body["credentials"] = [{"type": "secret", "name": "THROUGH_FAULTS", "env": "IT"}]
            case "recurring":
                body["scheduleType"] = "recurring"
                body["recurrenceConfig"] = {"intervalSeconds": 2, "overlap": "skip", "missed": "skip"}
        return body, expected

    # ----------------------------------------------------------------------------------------------- afterwards

    def canary(self, timeout: float) -> None:
        """A small urgent task, from submission to end: whether work goes on. Raises TimedOut."""
        client = self._clients[0]
        deadline = time.monotonic() + timeout
        argv = ["bash", "-c", self.recorder.script("true")]
        body = {"type": "command", "data": {"argv": argv}, "network": "egress", "priority": "critical"}
        body |= {"labels": {"sort": "canary"}, "retryConfig": {**RETRY, "maxAttempts": MANY}}
        answer = self._persistently(client, "/tasks", body)
        assert answer is not None, self.refused
        self._accept(client, answer["operationId"], {"max_attempts": MANY})
        while True:
            try:
                client.tasks.wait(answer["operationId"], timeout=max(0.1, deadline - time.monotonic()))
            except TimedOut:
                raise
            except ClientError:
                if time.monotonic() > deadline:
                    raise TimedOut("no answer in time") from None
            else:
                return

    def settle(self, timeout: float) -> None:
        """Wait until every task has ended, every follower has heard of it, and nothing remains; or the time is up."""
        for client, ident in self._series:
            self._stop_series(client, ident)
        deadline = time.monotonic() + timeout
        self._until(deadline, lambda: self._ended.is_set() and self._open() == 0)
        heard = "SELECT coalesce(sum(last_seq), 0)::bigint AS n FROM sfp.channels WHERE name = 'tasks'"
        told = asyncio.run(fetch(admin_url(self.instance), heard))[0]["n"]
        self._until(time.monotonic() + 15, lambda: sum(len(follower.seen) for follower in self._followers) >= told)
        self._until(time.monotonic() + 15, lambda: not remains(self.instance, self._before))

    def _stop_series(self, client: Client, ident: str) -> None:
        """However often that takes: an occurrence that is just being made is a conflict, and no reason to give up."""
        for _ in range(20):
            try:
                client.tasks.stop_recurring(ident)
            except ApiError as error:
                self.refused[error.code] += 1
                if error.code == "already_final":
                    return
            else:
                return
            time.sleep(0.2)

    @staticmethod
    def _until(deadline: float, condition: Any) -> None:
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.1)

    def history(self) -> History:
        async def look() -> list[Any]:
            url = admin_url(self.instance)
            return [await fetch(url, statement) for statement in (TASKS, ATTEMPTS, EVENTS, CHANNELS, LEFT)]

        tasks, attempts, events, channels, left = asyncio.run(look())
        return History(
            accepted=self.accepted,
            tasks=tasks,
            attempts=attempts,
            events=events,
            channels={(row["team"], row["name"]): row["last_seq"] for row in channels},
            left=[(row["what"], row["task"]) for row in left],
            runs=list(self.recorder.runs),
            followed={f"follower {n}": list(follower.seen) for n, follower in enumerate(self._followers)},
            remains=[
                *remains(self.instance, self._before),
                *(failure for follower in self._followers for failure in follower.failures),
            ],
        )

    def close(self) -> None:
        self._ended.set()
        for follower in self._followers:
            follower.stop()
        for client in self._clients:
            client.close()
        self.recorder.close()


def ends(history: History) -> Counter[tuple[str, str, str]]:
    """How tasks ended: how many by sort, status and error."""
    return Counter((task["sort"] or "", task["status"], task["code"] or "") for task in history.tasks)


def unexpected(history: History) -> list[str]:
    """Tasks that failed and must not have: those that may be tried often."""
    never = {"lossless", "retry", "secret", "canary"}
    failed = [task for task in history.tasks if task["sort"] in never and task["status"] == "failed"]
    return [f"{task['sort']} {task['id']}: {task['code']}: {task['message']}" for task in failed]
