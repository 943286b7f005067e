"""Why a task is not running: all reasons that hold, where it stands, and when it will probably start."""

from datetime import UTC, datetime, timedelta

from sfp_server.db.database import Row, Tx
from sfp_server.tasks.answers import Estimate, ExplainAnswer, ExplainReason
from sfp_server.tasks.model import Status
from sfp_server.tasks.service import SQL


async def explain(tx: Tx, task: Row) -> ExplainAnswer:
    """Explain `task`, a row of `get`. Raises Unavailable."""
    place = await tx.one(SQL["place"], task["id"]) if task["status"] == Status.PENDING else None
    wait = _wait(task, place)
    now = datetime.now(UTC)
    start = {name: now + timedelta(seconds=getattr(wait, name)) for name in ("p50", "p90")} if wait else None
    in_line = place is not None and task["due_at"] <= now and task["schedule_type"] != "recurring"
    return ExplainAnswer(
        operation_id=task["id"],
        status=Status(task["status"]),
        reasons=_reasons(task, place),
        position=place["ahead"] + 1 if place is not None and in_line else None,
        queue_pending=place["queue_pending"] if place else None,
        queue_active=place["queue_active"] if place else None,
        queue_slots=place["queue_slots"] if place else None,
        estimated_wait_seconds=wait,
        estimated_start=start,
        sample=place["sample"] if place else 0,
    )


def _reasons(task: Row, place: Row | None) -> list[ExplainReason]:
    if place is None:
        return []
    reasons: list[ExplainReason] = []
    if task["nobody_runs"]:
        reasons.append(ExplainReason(reason="no_runtime", detail="no dispatcher is running"))
    if task["reason"] == "scheduled":
        reasons.append(ExplainReason(reason="scheduled", detail=f"due at {task['due_at'].isoformat()}"))
    elif task["reason"] == "retry":
        text = f"{task['reason_detail']}; the next attempt is due at {task['due_at'].isoformat()}"
        reasons.append(ExplainReason(reason="retry", detail=text))
    elif task["reason"] != "queued":
        reasons.append(ExplainReason(reason=task["reason"], detail=task["reason_detail"]))
    elif not task["nobody_runs"]:
        text = task["reason_detail"] or (
            f"{place['queue_active']} of {place['queue_slots']} slots are busy; {place['ahead']} tasks come first"
        )
        reasons.append(ExplainReason(reason="queued", detail=text))
    return reasons


def _wait(task: Row, place: Row | None) -> Estimate | None:
    """Seconds until the start, from how long tasks of this queue took lately; None: unknown, or it is stuck."""
    if place is None or task["nobody_runs"] or task["reason"] in {"paused", "no_runtime"}:
        return None
    until_due = max(0.0, (task["due_at"] - datetime.now(UTC)).total_seconds())
    free = max(0, place["queue_slots"] - place["queue_active"])
    rounds = max(0, place["ahead"] + 1 - free) / max(1, place["queue_slots"])
    if rounds > 0 and not place["sample"]:
        return None
    return Estimate(
        p50=round(until_due + rounds * (place["p50_seconds"] or 0.0), 3),
        p90=round(until_due + rounds * (place["p90_seconds"] or 0.0), 3),
    )
