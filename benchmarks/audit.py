"""What the audit trail costs: an audited transaction before and with seals, sealing, and checking.

    .venv/bin/python benchmarks/audit.py [--count 400] [--entries 100000] [--rounds 3]

On a database of its own, as durable as every instance's, with the auditor at work. "Before" is the table as it was
without tag, seal and notification. The two take turns; times are milliseconds for one transaction with one entry,
commit included.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import uvloop

import store
from sfp_proof.checkpoint import files_at, read
from sfp_proof.keys import KeyRing
from sfp_server.actor import Actor, Role
from sfp_server.audit import service
from sfp_server.audit.checkpoints import CheckpointFiles
from sfp_server.audit.sealer import Sealer
from sfp_server.audit.signer import Signer
from sfp_server.audit.verifying import verify
from sfp_server.db.database import Database
from sfp_server.settings import Settings

PLAIN = """
CREATE TABLE audit_plain (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, team_id uuid, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor text NOT NULL, action text NOT NULL, subject text NOT NULL, detail jsonb NOT NULL DEFAULT '{}',
  request_id text NOT NULL DEFAULT '');
CREATE INDEX ON audit_plain (team_id, id);
ALTER TABLE audit_plain ENABLE ROW LEVEL SECURITY;
CREATE POLICY plain ON audit_plain TO sfp_api USING (team_id = current_team()) WITH CHECK (team_id = current_team());
GRANT SELECT, INSERT ON audit_plain TO sfp_api;
"""
INSERT_PLAIN = """
INSERT INTO audit_plain (team_id, actor, action, subject, detail, request_id)
VALUES (current_team(), $1, $2, $3, $4, $5)
"""
FILL = """
INSERT INTO audit_log (team_id, actor, action, subject, detail)
SELECT $1, 'application:bench', 'credential.lease', 'secret:BENCH',
       jsonb_build_object('task', gen_random_uuid(), 'attempt', 1)
  FROM generate_series(1, $2::int)
"""
DETAIL = {"task": "01a20b70-caa2-709b-a5c0-5ad978453c49", "attempt": 1, "version": 1}


async def plainly(database: Database, actor: Actor) -> None:
    async with database.transaction(actor) as tx:
        await tx.execute(INSERT_PLAIN, actor.label, "credential.lease", "secret:BENCH", DETAIL, "")


async def audited(database: Database, actor: Actor) -> None:
    async with database.transaction(actor) as tx:
        await service.record(tx, actor.label, "credential.lease", "secret:BENCH", DETAIL)


async def timed(step, database: Database, actor: Actor, count: int) -> list[float]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        await step(database, actor)
        found.append((time.perf_counter() - began) * 1000)
    return found


async def measure(settings: Settings, *, count: int, entries: int, rounds: int) -> dict[str, float]:
    admin = await store.superuser(settings)
    team = await store.team(admin)
    await admin.execute(PLAIN)
    user = await admin.fetchval("SELECT id FROM users LIMIT 1")
    actor = Actor(id=user, role=Role.OWNER, team_id=team, team_slug="", name="", scopes=frozenset())
    keys = KeyRing.read(settings.secret("audit-public.pem"))
    signer = Signer(settings.secret("audit-signing.pem"))
    async with (
        Database(settings.role_url("sfp_api"), application="bench", audit_key=settings.audit_key()) as database,
        Database(settings.role_url("sfp_auditor"), application="bench auditor", size=4) as auditing,
    ):
        sealer = Sealer(
            auditing, signer, keys, CheckpointFiles(settings.checkpoint_directory, signer), tag_key=settings.audit_key()
        )
        sealer.remember(read([], keys))
        settings.checkpoint_directory.mkdir(exist_ok=True)
        sealing = asyncio.create_task(sealer.run(checkpoint_seconds=15))
        samples: dict[str, list[float]] = {"before": [], "audited": []}
        await timed(audited, database, actor, 20)
        for _ in range(rounds):
            samples["before"] += await timed(plainly, database, actor, count)
            samples["audited"] += await timed(audited, database, actor, count)
        sealing.cancel()
        await asyncio.gather(sealing, return_exceptions=True)
        waits = await admin.fetchval(
            "SELECT percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM sealed_at - at)) FROM audit_log"
        )
        await admin.execute(FILL, team, entries)
        began = time.perf_counter()
        sealed = 0
        while done := await sealer.round():
            sealed += done
        sealing_rate = sealed / (time.perf_counter() - began)
        sealer.checkpoint()
        began = time.perf_counter()
        report = await verify(auditing, keys, read(files_at(settings.checkpoint_directory), keys))
        checking_rate = report.entries / (time.perf_counter() - began)
    await admin.close()
    return {
        "before_p50_ms": statistics.median(samples["before"]),
        "audited_p50_ms": statistics.median(samples["audited"]),
        "before_p95_ms": statistics.quantiles(samples["before"], n=20)[-1],
        "audited_p95_ms": statistics.quantiles(samples["audited"], n=20)[-1],
        "unsealed_p99_ms": float(waits) * 1000,
        "sealed_per_second": sealing_rate,
        "checked_per_second": checking_rate,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sfp-bench-") as folder, store.database(Path(folder)) as settings:
        figures = uvloop.run(measure(settings, count=wanted.count, entries=wanted.entries, rounds=wanted.rounds))
    figures["load"] = os.getloadavg()[0]
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
