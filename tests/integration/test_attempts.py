"""Limits of guessing: what they count for, and that nothing resets them."""

import asyncio
import unicodedata

import pytest

from sfp_server.db.database import Database
from sfp_server.errors import TooManyRequests
from sfp_server.identity.attempts import (
    LIMITS,
    Guess,
    Kind,
    Limit,
    address_subject,
    admit,
    guess,
    normal_email,
    refuse,
    succeeded,
)


async def count(database: Database, tried: Guess) -> int | None:
    """Admit one try; answers the seconds to wait when it was refused."""
    try:
        async with database.identifying() as tx:
            await admit(tx, tried)
    except TooManyRequests as error:
        return error.retry_after
    return None


@pytest.mark.parametrize("kind", list(Kind))
async def test_each_kind_has_limits_of_account_and_address_of_its_own(api_database, kind):
    of_account, of_address = LIMITS[kind]
    tried = guess(kind, account="a", address="198.51.100.1")
    assert [await count(api_database, tried) for _ in range(of_account.free)] == [None] * of_account.free
    assert await count(api_database, tried) == of_account.first
    assert await count(api_database, guess(kind, account="b", address="198.51.100.1")) is None
    for number in range(of_address.free - of_account.free - 1):
        assert await count(api_database, guess(kind, account=f"c{number}", address="198.51.100.1")) is None
    assert await count(api_database, guess(kind, account="d", address="198.51.100.1")) == of_address.first
    for other in set(Kind) - {kind}:
        assert await count(api_database, guess(other, account="a", address="198.51.100.1")) is None


async def test_tries_at_once_from_several_processes_are_counted_like_tries_in_a_row(clone):
    tried = guess(Kind.PASSWORD, account="a")
    pools = [Database(clone.role_url("sfp_api"), application="test", size=4) for _ in range(3)]
    try:
        answers = await asyncio.gather(*(count(pools[number % 3], tried) for number in range(30)))
    finally:
        for pool in pools:
            await pool.close()
    assert answers.count(None) == 5


async def test_what_is_refused_counts_for_nothing(api_database, admin):
    tried = guess(Kind.PASSWORD, account="a", address="198.51.100.1")
    for _ in range(12):
        await count(api_database, tried)
    assert await admin.fetch("SELECT failures FROM login_attempts") == [(5,), (5,)]


async def test_a_success_takes_its_own_try_back(api_database, admin):
    tried = guess(Kind.PASSWORD, account="a", address="198.51.100.1")
    await count(api_database, guess(Kind.PASSWORD, account="b", address="198.51.100.1"))
    await count(api_database, tried)
    async with api_database.identifying() as tx:
        await succeeded(tx, tried)
    rows = await admin.fetch("SELECT failures FROM login_attempts WHERE subject LIKE '%address%'")
    assert rows == [(1,)]
    assert await admin.fetchval("SELECT count(*) FROM login_attempts WHERE subject = $1", tried.account) == 0


async def test_a_failure_counted_afterwards_says_when_there_were_too_many(api_database):
    tried = guess(Kind.CI_TOKEN, address="2001:db8::1")
    for number in range(51):
        async with api_database.identifying() as tx:
            answer = await refuse(tx, tried)
        assert (answer is not None) == (number == 50)


async def test_counts_end_and_the_table_stays_small(api_database, admin):
    await admin.execute(
        "INSERT INTO login_attempts SELECT 'old' || n, 3, now() - interval '2 hours' FROM generate_series(1, 30) AS n"
    )
    await admin.execute("INSERT INTO login_attempts VALUES ('much', 9, now() - interval '2 hours')")
    for number in range(2):
        await count(api_database, guess(Kind.PASSWORD, account=f"a{number}"))
    left = {row["subject"] for row in await admin.fetch("SELECT subject FROM login_attempts")}
    assert not {subject for subject in left if subject.startswith("old")}
    assert "much" in left


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("nonsense", "", True),
    ],
)
def test_what_counts_as_one_address(one, other, is_same):
    assert (address_subject(one) == address_subject(other)) == is_same


@pytest.mark.parametrize(
    ("typed", "is_same"),
    [
        ("ANN@acme.example", True),
        ("  ann@ACME.example\n", True),
        ("ann+1@acme.example", False),
        ("a.nn@acme.example", False),
        ("\uff41nn@acme.example", False),
    ],
)
def test_what_counts_as_one_account(typed, is_same):
    assert (normal_email(typed) == "ann@acme.example") == is_same


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_one_character_written_in_two_ways_is_one_account(form):
    assert normal_email(unicodedata.normalize(form, "RenÉ@acme.example")) == "rené@acme.example"


def test_no_wait_is_for_ever():
    assert all(limit.longest <= 900 for limits in LIMITS.values() for limit in limits)
    assert Limit(free=1, first=1).longest == 900
