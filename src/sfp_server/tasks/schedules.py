"""Recurring tasks, the dispatcher's half: make the runs that are due.

The database's clock decides what is due; a series' row is held while its occurrences are made, and each occurrence is a
row of its own, so that several dispatchers never make one twice.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from cronsim import CronSimError

from sfp_server.db.database import Database, Row, Tx
from sfp_server.tasks.recurrence import Due, due, rhythm_of
from sfp_server.tasks.reports import SQL

log = structlog.get_logger()

_BROKEN = {"code": "internal", "message": "its recurrenceConfig cannot be read by this release", "retryable": False}


async def fire(database: Database) -> bool:
    """Make the runs of one series that is due. False: none is. Raises Unavailable."""
    async with database.serving() as tx:
        row = await tx.one(SQL["due_schedule"])
        if row is None:
            return False
        await tx.serve(row["team_id"])
        try:
            found = _due(row)
        except (CronSimError, ValueError, LookupError, OverflowError):
            log.exception("a series cannot be continued", task=str(row["task_id"]))
            await tx.all(SQL["break_series"], row["task_id"], _BROKEN)
        else:
            await _fire(tx, row, found)
        return True


def _due(row: Row) -> Due:
    config: Mapping[str, Any] = row["config"]
    return due(rhythm_of(config, row["created_at"]), next_at=row["next_at"], now=row["now"], missed=config["missed"])


async def _fire(tx: Tx, row: Row, found: Due) -> None:
    config: Mapping[str, Any] = row["config"]
    left: int | None = config["maxRuns"] - row["runs"] if config.get("maxRuns") is not None else None
    # Runs that are all made up for would overlap with each other: they line up instead.
    makes_up = config["missed"] == "all" and len(found.run) > 1 and config["overlap"] == "skip"
    overlap = "queue" if makes_up else config["overlap"]
    runs: list[UUID] = []
    for at in found.run:
        if left is not None and len(runs) >= left:
            break
        run = await _run(tx, row["task_id"], at, overlap)
        runs.extend([run] if run is not None else [])
    skipped = found.skipped + len(found.run) - len(runs)
    next_at = None if left is not None and len(runs) >= left else found.next_at
    await tx.execute(SQL["move_schedule"], row["task_id"], next_at, len(runs), skipped, runs[-1] if runs else None)
    if next_at is not None:
        await tx.execute(SQL["plan_next"], row["task_id"], next_at)
    else:
        await tx.all(SQL["end_series"], row["task_id"])
    if skipped:
        log.info("occurrences skipped", task=str(row["task_id"]), count=skipped)


async def _run(tx: Tx, series: UUID, at: datetime, overlap: str) -> UUID | None:
    """The task of one occurrence. None: it overlaps with an earlier one, or was made already."""
    if overlap == "skip" and await tx.value(SQL["is_running"], series):
        return None
    if await tx.one(SQL["add_occurrence"], series, at) is None:
        return None
    key = f"series:{series}" if overlap == "queue" else None
    row = await tx.one(SQL["run_occurrence"], series, key)
    return row["id"] if row else None
