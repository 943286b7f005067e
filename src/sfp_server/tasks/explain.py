"""Why a task is not running: all reasons that hold, where it stands, and when it will probably start."""

import math
from datetime import timedelta

from sfp_server.db.database import Row, Tx
from sfp_server.tasks.answers import Estimate, ExplainAnswer, ExplainReason, reason
from sfp_server.tasks.model import Status
from sfp_server.tasks.service import SQL

#: standard deviations between the median and the 90th percentile of a sum of many durations
_P90 = 1.2816


async def explain(tx: Tx, task: Row) -> ExplainAnswer:
    """Explain `task`, a row of `get`. Raises Unavailable."""
    place = await tx.one(SQL["place"], task["id"]) if task["status"] == Status.PENDING else None
    wait = _wait(task, place) if place is not None else None
    start = None
    if wait is not None and place is not None:
        start = {name: place["at"] + timedelta(seconds=getattr(wait, name)) for name in ("p50", "p90")}
    in_line = place is not None and task["due_at"] <= place["at"] and task["schedule_type"] != "recurring"
    return ExplainAnswer(
        operation_id=task["id"],
        status=Status(task["status"]),
        reasons=_reasons(task, place) if place is not None else [],
        position=place["ahead"] + 1 if place is not None and in_line else None,
        queue_pending=place["queue_pending"] if place else None,
        queue_active=place["queue_active"] if place else None,
        queue_slots=place["queue_slots"] if place else None,
        estimated_wait_seconds=wait,
        estimated_start=start,
        sample=place["sample"] if place else 0,
    )


def _reasons(task: Row, place: Row) -> list[ExplainReason]:
    """Nobody there to run it comes first; then what its row says."""
    why, detail = reason(task)
    if why == "queued" and detail is None:
        detail = f"{place['queue_active']} of {place['queue_slots']} slots are busy; {place['ahead']} tasks come first"
    reasons = [ExplainReason(reason=why or "queued", detail=detail)]
    if task["nobody_runs"] and task["reason"] not in {"queued", "no_runtime"}:
        why, detail = reason({**task, "nobody_runs": False})
        reasons.append(ExplainReason(reason=why or "queued", detail=detail))
    return reasons


def _wait(task: Row, place: Row) -> Estimate | None:
    """Seconds until the start, from how long tasks of this queue took lately; None: unknown, or it is stuck.

    What comes first, one after another on each slot, takes a sum of durations: its median and 90th percentile are those
    of a normal distribution with the mean and the spread of the sample.
    """
    if task["nobody_runs"] or task["reason"] in {"paused", "no_runtime"}:
        return None
    until_due = max(0.0, (task["due_at"] - place["at"]).total_seconds())
    if reason(task)[0] == "concurrency":
        ends, at_once = place["key_ahead"], 1
    else:
        free = max(0, place["queue_slots"] - place["queue_active"])
        ends, at_once = max(0, place["ahead"] + 1 - free), max(1, place["queue_slots"])
    if ends and not place["sample"]:
        return None
    p50 = ends * (place["mean_seconds"] or 0.0) / at_once
    p90 = p50 + _P90 * math.sqrt(ends) * (place["spread_seconds"] or 0.0) / at_once
    return Estimate(p50=round(max(until_due, p50), 3), p90=round(max(until_due, p90), 3))
