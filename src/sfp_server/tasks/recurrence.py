"""When a recurring task runs: pure rules, with time passed in.

A cron expression is read in its time zone. Where the clock jumps forward, an occurrence inside the gap runs right after
it; where it is set back, an occurrence runs once (Debian's cron; `cronsim` has the same rules). An interval counts from
its start, whatever happened in between.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

#: occurrences that `missed: all` makes up for at most
MISSED_AT_MOST = 100
#: occurrences that one look at the clock walks through; after a longer downtime the oldest are let go uncounted
_WALK_AT_MOST = 20_000
#: seconds; an occurrence that is later than this was missed (the instance was down). Where occurrences are close
#: together, half of the time to the next one counts, but at least ABOUT_NOW.
LATE = 60.0
ABOUT_NOW = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """The times of a series. Exactly one of `cron` and `interval_seconds` is set."""

    cron: str | None
    interval_seconds: float | None
    timezone: str
    start_at: datetime
    end_at: datetime | None = None

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Occurrences later than `moment`, in UTC, until the end."""
        for at in self._cron(moment) if self.cron is not None else self._interval(moment):
            if self.end_at is not None and at > self.end_at:
                return
            yield at

    def _cron(self, moment: datetime) -> Iterator[datetime]:
        assert self.cron is not None
        # From just before the start, so that a start which is itself an occurrence counts.
        begin = max(moment, self.start_at - timedelta(seconds=1))
        for at in CronSim(self.cron, begin.astimezone(ZoneInfo(self.timezone))):
            found = at.astimezone(UTC)
            if found > moment:
                yield found

    def _interval(self, moment: datetime) -> Iterator[datetime]:
        assert self.interval_seconds is not None
        step = timedelta(seconds=self.interval_seconds)
        number = max(0, (moment - self.start_at) // step + 1)
        while True:
            yield self.start_at + number * step
            number += 1


def rhythm_of(config: Mapping[str, Any], created_at: datetime) -> Rhythm:
    """The stored `recurrenceConfig` as times; an interval without a start begins with the task."""
    start, end = config.get("startAt"), config.get("endAt")
    return Rhythm(
        cron=config.get("cron"),
        interval_seconds=config.get("intervalSeconds"),
        timezone=config.get("timezone") or "UTC",
        start_at=datetime.fromisoformat(start) if start else created_at,
        end_at=datetime.fromisoformat(end) if end else None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What a look at the clock finds: occurrences to run now, how many are let go, and when to look again."""

    run: tuple[datetime, ...]
    skipped: int
    next_at: datetime | None


def due(rhythm: Rhythm, *, next_at: datetime, now: datetime, missed: str) -> Due:
    """Decide about the occurrences from `next_at` up to `now`.

    Args:
        missed: what becomes of those that are late: `skip` none runs, `once` one run makes up for all of them (the
            timely one, if there is one), `all` each (the last MISSED_AT_MOST).
    """
    found: list[datetime] = []
    upcoming: datetime | None = None
    for at in _from(rhythm, next_at):
        if at > now:
            upcoming = at
            break
        if len(found) == _WALK_AT_MOST:
            upcoming = next(rhythm.after(now), None)
            break
        found.append(at)
    successors = [*found[1:], upcoming]
    late = [at for at, successor in zip(found, successors, strict=False) if _is_late(at, successor, now)]
    timely = found[len(late) :]
    kept = min(len(late), {"skip": 0, "once": 0 if timely else 1, "all": MISSED_AT_MOST}[missed])
    run = [*late[len(late) - kept :], *timely]
    return Due(run=tuple(run), skipped=len(found) - len(run), next_at=upcoming)


def _is_late(at: datetime, successor: datetime | None, now: datetime) -> bool:
    gap = (successor - at).total_seconds() / 2 if successor is not None else LATE
    return (now - at).total_seconds() > max(ABOUT_NOW, min(LATE, gap))


def _from(rhythm: Rhythm, first: datetime) -> Iterator[datetime]:
    yield first
    yield from rhythm.after(first)


def check_cron(expression: str) -> None:
    """Raises ValueError, with a text for whoever wrote it, unless it is a cron expression of five fields."""
    if (fields := len(expression.split())) != 5:
        raise ValueError(f"five fields are needed, as in 0 2 * * 1-5; this has {fields}")
    try:
        next(CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration) as error:
        raise ValueError(str(error) or "it never happens") from error


def check_timezone(name: str) -> None:
    """Raises ValueError unless `name` is an IANA time zone."""
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ValueError(f"{name[:60]!r} is no IANA time zone, as in Europe/Berlin") from error
