"""When a series runs: time zones, clock changes, intervals, downtime."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfp_server.tasks.recurrence import LATE, MISSED_AT_MOST, Rhythm, check_cron, check_timezone, due


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def berlin(cron: str, start: str) -> Rhythm:
    return Rhythm(cron=cron, interval_seconds=None, timezone="Europe/Berlin", start_at=at(start))


def every(seconds: float, start: datetime, end: datetime | None = None) -> Rhythm:
    return Rhythm(cron=None, interval_seconds=seconds, timezone="UTC", start_at=start, end_at=end)


def test_a_daily_run_keeps_its_local_time_when_the_clock_changes():
    runs = list(islice(berlin("0 6 * * *", "2026-03-28").after(at("2026-03-28")), 3))
    assert runs == [at("2026-03-28T05:00"), at("2026-03-29T04:00"), at("2026-03-30T04:00")]


def test_a_run_inside_the_gap_comes_right_after_it():
    assert next(berlin("30 2 * * *", "2026-03-29").after(at("2026-03-29"))) == at("2026-03-29T01:00")


def test_a_run_inside_the_repeated_hour_comes_once():
    runs = list(islice(berlin("30 2 * * *", "2026-10-25").after(at("2026-10-24T12:00")), 2))
    assert runs == [at("2026-10-25T00:30"), at("2026-10-26T01:30")]


def test_the_start_and_the_end_are_inside():
    rhythm = every(60, at("2026-01-01T00:00"), at("2026-01-01T00:02"))
    assert list(rhythm.after(at("2025-12-31"))) == [at(f"2026-01-01T00:0{n}") for n in range(3)]
    start = Rhythm(cron="0 0 * * *", interval_seconds=None, timezone="UTC", start_at=at("2026-01-01"))
    assert next(start.after(at("2025-12-01"))) == at("2026-01-01")


@given(seconds=st.integers(1, 10**6), offset=st.floats(0, 10**7))
def test_an_interval_is_in_step_with_its_start(seconds, offset):
    start = at("2026-01-01")
    moment = start + timedelta(seconds=offset)
    first, second = islice(every(seconds, start).after(moment), 2)
    assert first > moment
    assert first - moment <= timedelta(seconds=seconds)
    assert second - first == timedelta(seconds=seconds)
    assert (first - start) % timedelta(seconds=seconds) == timedelta(0)


@pytest.mark.parametrize(("missed", "runs", "skipped"), [("skip", 1, 4), ("once", 1, 4), ("all", 5, 0)])
def test_what_becomes_of_missed_runs(missed, runs, skipped):
    start = at("2026-01-01")
    now = start + timedelta(hours=4, seconds=5)
    found = due(every(3600, start), next_at=start, now=now, missed=missed)
    assert (len(found.run), found.skipped, found.next_at) == (runs, skipped, start + timedelta(hours=5))
    assert found.run[-1] == start + timedelta(hours=4)


@given(minutes=st.integers(0, 60 * 24 * 30), missed=st.sampled_from(["skip", "once", "all"]))
def test_a_long_downtime_is_made_up_for_in_bounds(minutes, missed):
    start = at("2026-01-01")
    now = start + timedelta(minutes=minutes, seconds=1)
    found = due(every(60, start), next_at=start, now=now, missed=missed)
    assert len(found.run) <= MISSED_AT_MOST + LATE
    assert list(found.run) == sorted(set(found.run))
    assert all(start <= run <= now for run in found.run)
    assert found.next_at > now
    if minutes < 15_000:
        assert len(found.run) + found.skipped == minutes + 1


def test_a_series_ends_with_its_last_occurrence():
    start = at("2026-01-01")
    found = due(
        every(60, start, start + timedelta(seconds=60)), next_at=start, now=start + timedelta(seconds=61), missed="all"
    )
    assert (len(found.run), found.next_at) == (2, None)


@pytest.mark.parametrize("expression", ["", "@daily", "* * *", "61 * * * *", "* * * * * *", "0 0 31 2 *", "a b c d e"])
def test_what_is_no_cron_expression_is_refused(expression):
    with pytest.raises(ValueError, match=r"."):
        check_cron(expression)


@pytest.mark.parametrize("name", ["", "Mars/Base", "../etc/passwd", "/etc/localtime"])
def test_what_is_no_time_zone_is_refused(name):
    with pytest.raises(ValueError, match=r"no IANA time zone"):
        check_timezone(name)


@pytest.mark.parametrize(
    ("cron", "zone", "start", "runs"),
    [
        # Lord Howe moves by half an hour: forward at 2:00, back at 2:00
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["2026-10-03T15:30", "2026-10-04T15:15"]),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["2026-04-04T14:45", "2026-04-05T15:15"]),
        # Samoa had no 30 December 2011
        (
            "0 12 * * *",
            "Pacific/Apia",
            "2011-12-29T12:00",
            ["2011-12-29T22:00", "2011-12-30T10:00", "2011-12-30T22:00"],
        ),
        # an hourly run goes on through the repeated hour
        (
            "0 * * * *",
            "Europe/Berlin",
            "2026-10-24T23:30",
            ["2026-10-25T00:00", "2026-10-25T01:00", "2026-10-25T02:00"],
        ),
        ("0 0 L * *", "UTC", "2026-01-15", ["2026-01-31", "2026-02-28"]),
        ("0 9 * * MON#1", "UTC", "2026-01-01", ["2026-01-05T09:00", "2026-02-02T09:00"]),
    ],
)
def test_calendars_of_all_kinds(cron, zone, start, runs):
    rhythm = Rhythm(cron=cron, interval_seconds=None, timezone=zone, start_at=at(start))
    assert list(islice(rhythm.after(at(start)), len(runs))) == [at(run) for run in runs]
    for before, following in pairwise(runs):  # as a dispatcher goes on, from what it made last
        assert next(rhythm.after(at(before))) == at(following)


@pytest.mark.parametrize(("missed", "runs"), [("skip", 1), ("once", 1), ("all", 11)])
def test_five_minutes_over_a_series_of_thirty_seconds(missed, runs):
    """The occurrence that is due just now is not missed; what is older is."""
    start = at("2026-01-01")
    found = due(every(30, start), next_at=start, now=start + timedelta(minutes=5, seconds=3), missed=missed)
    assert (len(found.run), found.skipped) == (runs, 11 - runs)
    late = due(every(30, start), next_at=start, now=start + timedelta(minutes=5, seconds=20), missed=missed)
    assert len(late.run) == {"skip": 0, "once": 1, "all": 11}[missed]
