"""Does a task cost the same however many are stored? The use cases themselves, on databases of different sizes.

    .venv/bin/python benchmarks/stored.py [--sizes 1000 100000 1000000] [--pending 100000] [--count 60] [--rounds 3]

Each size is a database of its own on one durable server, filled by SQL with finished tasks of the last sixty days
(three teams, one of which owns nine of ten; attempts, channels, and the events of the last ten days), and one more in
which `--pending` tasks wait besides. Rounds take turns; figures are milliseconds, medians of all. Everything runs under
the services' own roles with row-level security, as in the API and the dispatcher, but without HTTP and workers.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import product
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import uvloop

import store
from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.kinds import KINDS
from sfp_server.runtimes.base import Exit
from sfp_server.settings import Settings
from sfp_server.tasks import explain, service
from sfp_server.tasks.claims import claimed
from sfp_server.tasks.exchange import Exchange, Outcome
from sfp_server.tasks.model import Status
from sfp_server.tasks.reports import SQL
from sfp_server.tasks.wire import SubmitTask
from sfp_server.web.wire import convert

BODY = {"type": "command", "data": {"argv": ["true"]}, "labels": {"pr": "123"}}
STEPS = ("submit", "status", "list", "list failed", "list label", "claim", "finish", "explain", "reasons", "look")

FILL = """
WITH made AS (
  SELECT n, at, overlay(uuid7_from(at)::text PLACING '7' || substr(md5(n::text), 1, 3) || '-8'
                        || substr(md5(n::text), 4, 3)
                        || '-' || substr(md5(n::text), 7, 12) FROM 15)::uuid AS id,
         teams[1 + (n % 10 = 0)::int + (n % 100 = 0)::int] AS team,
         CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'completed' END AS became
    FROM generate_series($1::int, $2::int) AS n,
         LATERAL (SELECT now() - interval '1 hour' - (n % 10000) * interval '518 seconds' AS at) AS clock,
         (SELECT array_agg(id ORDER BY id) AS teams FROM teams) AS all_teams
), stored AS (
  INSERT INTO tasks (id, team_id, type, data, priority, schedule_type, labels, status, reason, attempt, timeout_seconds,
                     lease_seconds, network, created_by, created_by_name, created_at, due_at, started_at, finished_at,
                     progress, error, result)
  SELECT id, team, 'command', '{"argv": ["true"]}', (ARRAY['normal', 'batch', 'critical'])[1 + n % 3], 'immediate',
         jsonb_build_object('pr', (n % 1000)::text), became, NULL, 1, 3600, 60, 'none', 'application:bench', 'bench',
         at, at, at + interval '10 ms', at + interval '1 s', 100,
         CASE became WHEN 'failed' THEN '{"code": "exit_code", "message": "it exited with status 1"}'::jsonb END,
         '{"exitCode": 0, "signal": null, "durationMs": 990, "output": {}, "artifacts": [], "usage": {"cpuSeconds": 1}}'
    FROM made
), tried AS (
  INSERT INTO attempts (task_id, attempt, team_id, queue, status, dispatcher_id, runtime, lease_expires_at, started_at,
                        ended_at, exit_code)
  SELECT id, 1, team, (ARRAY['normal', 'batch', 'critical'])[1 + n % 3], became, gen_random_uuid(), 'sandbox',
         at + interval '1 minute', at + interval '10 ms', at + interval '1 s', 0
    FROM made
), named AS (
  INSERT INTO channels (team_id, name, last_seq) SELECT team, 'task:' || id, 3 FROM made
)
INSERT INTO events (team_id, channel, seq, event, at, data)
SELECT team, channel, CASE channel WHEN 'task:' || id THEN 0 ELSE n * 3 END + number, 'task.' || word, at,
       jsonb_build_object('operationId', id, 'type', 'command', 'status', became, 'priority', 'normal', 'attempt', 1)
  FROM made, unnest(ARRAY['created', 'started', 'completed']) WITH ORDINALITY AS words (word, number),
       unnest(ARRAY['task:' || id, 'tasks', 'queue:normal']) AS channel
 WHERE at > now() - interval '10 days'
"""


@dataclass(slots=True, kw_only=True)
class Sized:
    """One database of a size."""

    name: str
    api: Database
    dispatcher: Database
    admin: asyncpg.Connection
    actor: Actor
    settings: Settings


def _named(url: str, name: str) -> str:
    head, _, options = url.partition("?")
    return f"{head.rpartition('/')[0]}/{name}?{options}"


async def _grow(settings: Settings, sizes: list[int], pending: int) -> list[str]:
    """Fill `sfp`, and keep a copy of it at each size, and one more with tasks that wait."""
    admin = await store.superuser(settings)
    server = await asyncpg.connect(_named(settings.role_url("postgres"), "postgres"))
    await admin.execute("INSERT INTO teams (slug, name) VALUES ('two', 'Two'), ('three', 'Three')")
    for back, table in product((1, 2), ("tasks", "attempts", "events")):
        await admin.execute("SELECT make_partition($1, date_trunc('month', $2::date)::date)", table, _months_ago(back))
    names: list[str] = []
    have = 0
    for size in sizes:
        await admin.execute("SET session_replication_role = replica")  # rules are for what is new, not for the past
        for first in range(have + 1, size + 1, 50_000):
            await admin.execute(FILL, first, min(first + 49_999, size))
        await admin.execute("VACUUM ANALYZE")
        have = size
        names.append(await _copy(server, admin, f"sfp_{size}"))
        admin = await store.superuser(settings)
        say(f"  {size} tasks are stored")
    await admin.execute(store.WAITING, await store.team(admin), pending, "batch")
    await admin.execute("VACUUM ANALYZE")
    names.append(await _copy(server, admin, f"sfp_{have}_and_{pending}_waiting"))
    await server.close()
    return names


def _months_ago(number: int) -> date:
    day = datetime.now(UTC).date()
    for _ in range(number):
        day = day.replace(day=1) - timedelta(days=1)
    return day


async def _copy(server: asyncpg.Connection, admin: asyncpg.Connection, name: str) -> str:
    await admin.close()
    await server.execute(f"CREATE DATABASE {name} TEMPLATE sfp STRATEGY file_copy")
    return name


async def _open(settings: Settings, name: str) -> Sized:
    admin = await asyncpg.connect(_named(settings.role_url("postgres"), name), server_settings={"search_path": "sfp"})
    team = await admin.fetchval("SELECT id FROM teams ORDER BY id LIMIT 1")
    await admin.execute("UPDATE queues SET slots = 4")
    me = Actor(id=uuid4(), role=Role.OWNER, team_id=team, team_slug="bench", name="bench", scopes=frozenset())
    opened = {
        role: Database(_named(settings.role_url(role), name), application="bench", size=2)
        for role in ("sfp_api", "sfp_dispatcher")
    }
    return Sized(
        name=name.removeprefix("sfp_"),
        api=opened["sfp_api"],
        dispatcher=opened["sfp_dispatcher"],
        admin=admin,
        actor=me,
        settings=settings,
    )


async def _round(of: Sized, count: int) -> dict[str, list[float]]:
    """Milliseconds of `count` runs of each step. What was submitted here is claimed and finished here."""
    took: dict[str, list[float]] = defaultdict(list)
    checked = service.check(convert(BODY, SubmitTask), KINDS, of.settings)
    exchange = Exchange(of.dispatcher, uuid4(), wake=lambda: None)

    async def timed(step: str, run: Callable[[], Awaitable[object]]) -> object:
        began = time.perf_counter()
        answer = await run()
        took[step].append((time.perf_counter() - began) * 1000)
        return answer

    async def submit() -> UUID:
        async with of.api.transaction(of.actor) as tx:
            return (await service.submit(tx, of.actor, checked, of.settings, request_id="bench"))["id"]

    def listed(**wanted: object) -> Callable[[], Awaitable[object]]:
        async def run() -> object:
            async with of.api.transaction(of.actor) as tx:
                return await service.listed(tx, service.Filter(**wanted), after=None, limit=50)  # type: ignore[arg-type]

        return run

    async def status(task_id: UUID) -> object:
        async with of.api.transaction(of.actor) as tx:
            return await service.get(tx, task_id)

    async def told(task_id: UUID) -> object:
        async with of.api.transaction(of.actor) as tx:
            return await explain.explain(tx, await service.get(tx, task_id))

    async def exchanged(up_to: int) -> list:
        return await exchange.step(["sandbox"], (0, 3), up_to=up_to)

    async def house(name: str, *values: object) -> None:
        async with of.dispatcher.serving() as tx:
            await tx.all(SQL[name], *values)

    for number in range(count):
        task_id = await timed("submit", submit)
        await timed("status", lambda task_id=task_id: status(task_id))
        if number % 4 == 0:
            await timed("list", listed())
            await timed("list failed", listed(status=Status.FAILED))
            await timed("list label", listed(labels={"pr": "777"}))
            await timed("explain", lambda task_id=task_id: told(task_id))
        if number % 20 == 0:
            await timed("reasons", lambda: house("explain", 0))
        rows = await timed("claim", lambda: exchanged(1))
        assert len(rows) == 1
        ending = asyncio.ensure_future(
            exchange.finish(claimed(rows[0]), Outcome(status=Status.COMPLETED, result={}, exit=Exit(code=0)))
        )
        await asyncio.sleep(0)
        await timed("finish", lambda: exchanged(0))
        assert await ending
        await timed("look", lambda: house("expired"))
    return took


async def measure(
    settings: Settings, *, sizes: list[int], pending: int, count: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Medians in milliseconds per database and step."""
    opened = [await _open(settings, name) for name in await _grow(settings, sizes, pending)]
    samples: dict[str, dict[str, list[float]]] = {of.name: defaultdict(list) for of in opened}
    for of in opened:
        await _round(of, 5)  # connections, prepared statements, caches
    for number in range(rounds):
        say(f"  round {number + 1} of {rounds}")
        for of in opened:
            for step, found in (await _round(of, count)).items():
                samples[of.name][step] += found
    for of in opened:
        await of.api.close()
        await of.dispatcher.close()
        await of.admin.close()
    return {name: {step: statistics.median(steps[step]) for step in STEPS} for name, steps in samples.items()}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run(*, sizes: list[int], pending: int, count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Make the databases, measure, remove them."""
    base = Path(tempfile.mkdtemp(prefix="sfp-stored-"))
    try:
        with store.database(base) as settings:
            return uvloop.run(measure(settings, sizes=sizes, pending=pending, count=count, rounds=rounds))
    finally:
        shutil.rmtree(base, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The cost of a task by how many are stored.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    wish = parser.parse_args()
    found = run(sizes=wish.sizes, pending=wish.pending, count=wish.count, rounds=wish.rounds)
    if wish.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'ms':>14}", *(f"{name:>26}" for name in found))
    for step in STEPS:
        print(f"{step:>14}", *(f"{steps[step]:>26.2f}" for steps in found.values()))


if __name__ == "__main__":
    main()
