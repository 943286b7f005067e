"""The queue without workers: claim and finish, beside the least that PostgreSQL could do.

    .venv/bin/python benchmarks/queue_alone.py [--tasks 2000] [--hands 1 8] [--rounds 3]

*Ours*: the dispatcher's exchange, with the events, attempts, fairness and fences that belong to it; endings that come
together go together, as in the dispatcher. *Bare*: a `SKIP LOCKED` claim and a finish by id, each one by one and
committed, on a table with the same columns and indexes as `tasks` but no attempts, no events and no rules, in the same
database with the same durability. `hands` is how many tasks are in hand at once: so many connections of the bare loop,
so many of the dispatcher's attempts.
"""

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import asyncpg
import uvloop

import store
from sfp_server.db.database import Database
from sfp_server.runtimes.base import Exit
from sfp_server.settings import Settings
from sfp_server.tasks.claims import claimed
from sfp_server.tasks.exchange import MOST, Exchange, Outcome
from sfp_server.tasks.model import Claimed, Status

RESULT = {"exitCode": 0, "signal": None, "durationMs": 3, "output": {}, "artifacts": [], "usage": {"cpuSeconds": 0.001}}

BARE = """
CREATE TABLE bare (LIKE tasks INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
"""
TAKE = """
UPDATE bare
   SET status = 'active', reason = NULL, attempt = attempt + 1, started_at = clock_timestamp()
 WHERE id = (SELECT id FROM bare
              WHERE priority = 'normal' AND status = 'pending' AND schedule_type <> 'recurring' AND team_id = $1
                AND due_at <= now()
              ORDER BY due_at, id
              LIMIT 1
                FOR UPDATE SKIP LOCKED)
RETURNING *
"""
GIVE = """
UPDATE bare
   SET status = 'completed', result = $2, finished_at = clock_timestamp(), progress = 100
 WHERE id = $1 AND status = 'active'
"""


async def bare(settings: Settings, hands: int, count: int) -> float:
    """Tasks per second, each claimed and finished by one of `hands` connections."""
    admin = await store.superuser(settings)
    team = await store.team(admin)
    await admin.execute("DROP TABLE IF EXISTS bare")
    await admin.execute(BARE)
    await admin.execute(store.WAITING.replace("INTO tasks", "INTO bare"), team, count, "normal")
    await admin.execute("VACUUM ANALYZE bare")
    connections = [await store.superuser(settings) for _ in range(hands)]
    result = json.dumps(RESULT)
    ready = [(await one.prepare(TAKE), await one.prepare(GIVE)) for one in connections]

    async def work(
        take: asyncpg.prepared_stmt.PreparedStatement, give: asyncpg.prepared_stmt.PreparedStatement
    ) -> None:
        while row := await take.fetchrow(team):
            await give.fetch(row["id"], result)

    began = time.perf_counter()
    await asyncio.gather(*(work(*pair) for pair in ready))
    seconds = time.perf_counter() - began
    assert await admin.fetchval("SELECT count(*) FROM bare WHERE status = 'completed'") == count
    for connection in [*connections, admin]:
        await connection.close()
    return count / seconds


async def ours(settings: Settings, hands: int, count: int) -> float:
    """Tasks per second, `hands` of them in the dispatcher's hands at once."""
    admin = await store.superuser(settings)
    team = await store.team(admin)
    await admin.execute("UPDATE queues SET slots = $1 WHERE name = 'normal'", hands)
    await admin.execute(store.WAITING, team, count, "normal")
    await admin.execute("VACUUM ANALYZE tasks, attempts, channels, events")
    async with Database(settings.role_url("sfp_dispatcher"), application="bench", size=8) as database:
        wake = asyncio.Event()
        exchange = Exchange(database, uuid4(), wake=wake.set)
        seconds = await _trade(exchange, wake, count)
    done = await admin.fetchval("SELECT count(*) FROM tasks WHERE status = 'completed'")
    left = await admin.fetchval("SELECT count(*) FROM tasks WHERE status <> 'completed'")
    assert (left, done % count) == (0, 0), (left, done)
    await admin.close()
    return count / seconds


async def _trade(exchange: Exchange, wake: asyncio.Event, count: int) -> float:
    """What the dispatcher does, with attempts that end at once; seconds from the first claim to the last end."""
    ended = 0
    attempts: set[asyncio.Task[None]] = set()

    async def attempt(task: Claimed) -> None:
        nonlocal ended
        assert await exchange.finish(task, Outcome(status=Status.COMPLETED, result=RESULT, exit=Exit(code=0)))
        ended += 1
        wake.set()

    began = time.perf_counter()
    while ended < count:
        for row in await exchange.step(["sandbox"], (0, 3), up_to=MOST):
            attempts.add(asyncio.create_task(attempt(claimed(row))))
        await asyncio.sleep(0)
        if not exchange.is_waited_for and ended < count:
            wake.clear()
            await wake.wait()
    seconds = time.perf_counter() - began
    await asyncio.gather(*attempts)
    return seconds


async def measure(settings: Settings, *, hands: list[int], count: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians per number of hands, rounds in turns."""
    found: dict[str, dict[str, float]] = {}
    for number in hands:
        pairs = [(await bare(settings, number, count), await ours(settings, number, count)) for _ in range(rounds)]
        bares, mine = (statistics.median(column) for column in zip(*pairs, strict=True))
        found[str(number)] = {"bare": bares, "ours": mine, "share": mine / bares}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Claim and finish without workers, beside a bare SKIP LOCKED loop.")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--hands", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=3)
    wish = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="sfp-queue-"))
    try:
        with store.database(base) as settings:
            found = uvloop.run(measure(settings, hands=wish.hands, count=wish.tasks, rounds=wish.rounds))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    for hands, figures in found.items():
        print(
            f"{hands:>3} in hand: bare {figures['bare']:6.0f}/s, ours {figures['ours']:6.0f}/s, {figures['share']:.0%}"
        )


if __name__ == "__main__":
    main()
