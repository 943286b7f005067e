"""Crashes, crowds and restores: the trail stays whole, and no entry of a committed change is lost."""

import asyncio
import subprocess
import sys
import uuid
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import asyncpg
import pytest

import faults
from auditing import by_hand
from sfp_server.audit import service as audit
from sfp_server.db.database import Database, run_script
from sfp_server.errors import Unavailable
from sfp_server.instance import binaries

WRITERS = 100
EACH = 5


@pytest.fixture
async def auditing(settings, clone):
    async with by_hand(settings, clone) as made:
        yield made


@pytest.fixture
async def writing(clone, auditing):
    key = auditing.settings.audit_key()
    async with Database(clone.role_url("sfp_api"), application="test", size=25, audit_key=key) as database:
        yield database


async def write(database, actor, number):
    async with database.transaction(actor) as tx:
        await audit.record(tx, actor.label, "thing.done", f"thing:{number}", {"n": number})


class Undone(Exception):
    pass


async def test_a_hundred_writers_leave_no_hole_and_wait_for_nobody(auditing, writing, owner, admin):
    """Every third transaction is rolled back: its identity number is lost, no entry number is."""
    other = await admin.fetchval("INSERT INTO teams (slug, name) VALUES ('other', 'Other') RETURNING id")
    actors = [owner, replace(owner, team_id=other)]

    async def writer(number):
        for turn in range(EACH):
            with suppress(Undone):
                async with writing.transaction(actors[number % 2]) as tx:
                    await audit.record(tx, owner.label, "thing.done", f"thing:{number}", {"turn": turn})
                    if (number + turn) % 3 == 0:
                        raise Undone

    sealing = asyncio.create_task(auditing.sealer.run(checkpoint_seconds=0.1))
    await asyncio.gather(*(writer(number) for number in range(WRITERS)))
    sealing.cancel()
    await asyncio.gather(sealing, return_exceptions=True)
    entries = await admin.fetchval("SELECT count(*) FROM audit_log")
    report = await auditing.verify()
    assert (report.ok, report.entries, report.unsealed) == (True, entries, 0)
    assert entries == sum((number + turn) % 3 != 0 for number in range(WRITERS) for turn in range(EACH))
    for actor in actors:
        count = await admin.fetchval("SELECT count(*) FROM audit_log WHERE team_id = $1", actor.team_id)
        assert ((await auditing.verify(actor.team_id)).entries, count) == (count, count)


async def test_an_entry_that_commits_late_is_sealed_too(auditing, writing, owner):
    """Its id is smaller than that of entries which were sealed before it."""
    async with writing.transaction(owner) as tx:
        await audit.record(tx, owner.label, "thing.done", "thing:late")
        await write(writing, owner, 2)
        await auditing.seal()
    await auditing.seal()
    report = await auditing.verify()
    assert (report.ok, report.entries) == (True, 2)


async def test_two_auditors_at_once_make_one_chain(auditing, writing, owner, settings, clone):
    async with by_hand(settings, clone) as second:
        for number in range(20):
            await write(writing, owner, number)
            await asyncio.gather(auditing.seal(), second.seal())
    report = await auditing.verify()
    assert (report.ok, report.entries) == (True, 20)


def _auditor_process(directory: Path, clone) -> faults.Service:
    """The auditor as it is started for real, and ready once it listens."""
    (directory / "run").mkdir(exist_ok=True)
    (directory / "secrets" / "db-sfp_auditor").write_text("role-password")
    argv = [sys.executable, "-m", "sfp_server.cli", "audit", "--directory", str(directory)]
    socket = directory / "run" / "auditor.sock"
    return faults.Service(argv, socket.exists, directory / "auditor.log", {"DATABASE_URL": clone.admin_url})


async def test_an_auditor_that_is_killed_again_and_again_leaves_a_whole_chain(
    auditing, writing, owner, admin, clone, short_path
):
    settings = replace(auditing.settings, directory=short_path)
    (short_path / "secrets").mkdir()
    for file in (auditing.settings.directory / "secrets").iterdir():
        (short_path / "secrets" / file.name).write_bytes(file.read_bytes())
    service = _auditor_process(short_path, clone)
    writer = asyncio.create_task(_write_on(writing, owner))
    try:
        for _ in range(4):
            (short_path / "run" / "auditor.sock").unlink(missing_ok=True)
            await asyncio.to_thread(service.start)
            await _sealed_more(admin, 20)
            await asyncio.to_thread(service.kill)
        writer.cancel()
        (short_path / "run" / "auditor.sock").unlink(missing_ok=True)
        await asyncio.to_thread(service.start)
        await _until(admin, "SELECT count(*) = 0 FROM audit_log WHERE seq IS NULL")
        await asyncio.to_thread(service.stop)
    finally:
        writer.cancel()
        service.stop()
    async with by_hand(settings, clone) as found:
        report = await found.verify()
    assert [problem.kind for problem in report.problems] == []
    assert report.entries == await admin.fetchval("SELECT count(*) FROM audit_log") > 80


async def _write_on(writing, owner):
    number = 0
    while True:
        await write(writing, owner, number := number + 1)


async def _sealed_more(admin, count):
    sealed = "SELECT count(*) FROM audit_log WHERE seq IS NOT NULL"
    await _until(admin, f"SELECT ({sealed}) >= {await admin.fetchval(sealed) + count}")


async def _until(admin, statement):
    async with asyncio.timeout(30):
        while not await admin.fetchval(statement):
            await asyncio.sleep(0.01)  # sealing has no event of its own


async def test_a_writer_that_is_killed_leaves_nothing(auditing, writing, owner, admin, clone):
    connection = await asyncpg.connect(clone.role_url("sfp_api"))
    await connection.execute(f"BEGIN; SELECT set_config('sfp.team_id', '{owner.team_id}', true)")
    await connection.execute(
        "INSERT INTO sfp.audit_log (team_id, actor, action, subject) VALUES (sfp.current_team(), 'a', 'b', 'c')"
    )
    connection.terminate()
    await write(writing, owner, 1)
    await auditing.seal()
    assert await admin.fetchval("SELECT array_agg(action) FROM audit_log") == ["thing.done"]


async def test_a_database_that_goes_away_while_sealing_costs_nothing(auditing, writing, owner, admin):
    for number in range(10):
        await write(writing, owner, number)
    cutting = asyncio.create_task(
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'sfp_auditor'")
    )
    with suppress(Unavailable):
        await auditing.seal()
    await cutting
    async with asyncio.timeout(10):
        while True:
            with suppress(Unavailable):
                await auditing.seal()
                break
    auditing.sealer.checkpoint()
    report = await auditing.verify()
    assert (report.ok, report.entries) == (True, 10)


async def test_a_full_disk_delays_the_checkpoint_only(auditing, writing, owner, monkeypatch):
    await write(writing, owner, 1)
    await auditing.seal()
    directory = auditing.settings.checkpoint_directory
    directory.rename(directory.with_name("away"))
    directory.write_text("no directory")
    auditing.sealer.checkpoint()
    directory.unlink()
    directory.with_name("away").rename(directory)
    assert not list(directory.iterdir())
    auditing.sealer.checkpoint()
    assert (await auditing.verify()).checkpoints == 1


async def test_a_restored_backup_verifies(auditing, writing, owner, admin, clone, cluster, tmp_path):
    """pg_dump and restore into another database: texts, times and JSON come back as they were hashed."""
    for number in range(5):
        async with writing.transaction(owner) as tx:
            detail = {"n": number, "ü": ["\u2028", 1.5, 10**15, None, {"a": {}}], "text": 'quote " and \\ and \t'}
            await audit.record(tx, owner.label, "thing.done", "thing:ä\n\\x", detail)
    await auditing.seal()
    auditing.sealer.checkpoint()
    assert await admin.fetchval("SELECT bool_and(attested) FROM audit_log")
    dump = tmp_path / "dump"
    subprocess.run([binaries.postgres("pg_dump"), "-Fc", "-f", dump, clone.admin_url], check=True)
    name = f"test_{uuid.uuid4().hex}"
    await run_script(cluster.url("postgres"), f"CREATE DATABASE {name}")
    try:
        restored = replace(clone, name=name)
        subprocess.run([binaries.postgres("pg_restore"), "-d", restored.admin_url, dump], check=True)
        async with by_hand(auditing.settings, restored) as found:
            report = await found.verify()
            assert (report.ok, report.entries) == (True, 5)
            await write_to(restored, auditing, owner)
            await found.seal()
            assert (await found.verify()).ok
    finally:
        await run_script(cluster.url("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


async def write_to(clone, auditing, owner):
    key = auditing.settings.audit_key()
    async with Database(clone.role_url("sfp_api"), application="test", audit_key=key) as database:
        await write(database, owner, 6)


async def test_no_credential_is_leased_while_the_trail_is_not_sealed(auditing, admin, owner, clone):
    """For ten minutes the auditor may be away; then the entry of a lease, and so the lease, is refused."""
    connection = await asyncpg.connect(clone.role_url("sfp_broker"))

    async def lease():
        async with connection.transaction():
            await connection.execute("SELECT set_config('sfp.team_id', $1, true)", str(owner.team_id))
            await connection.execute(
                "INSERT INTO sfp.audit_log (team_id, actor, action, subject)"
                " VALUES (sfp.current_team(), 'user:x', 'credential.lease', 'secret:X')"
            )

    old = "INSERT INTO audit_log (at, actor, action, subject) VALUES (now() - interval '11 minutes', 'a', 'b', 'c')"
    try:
        await admin.execute(old)
        with pytest.raises(asyncpg.LockNotAvailableError):
            await lease()
        await auditing.seal()
        await lease()
        await lease()  # what waits for less than ten minutes is nothing unusual
    finally:
        await connection.close()
