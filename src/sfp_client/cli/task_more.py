"""`sfp-server task retry|explain|preview|stop-recurring|instances`: what comes after a task, and before it runs."""

import json
from typing import Annotated, Any

import typer

from sfp_client.cli import output, parse
from sfp_client.cli.command import Session, command
from sfp_client.cli.task_run import Cron, Every, Timezone

app = typer.Typer(rich_markup_mode=None, add_completion=False)

OperationId = Annotated[str, typer.Argument(metavar="OPERATION_ID", help="Id of the task.", show_default=False)]


@command(app, "retry", examples=["sfp-server task retry 0198f2d0-…"])
def retry(session: Session, *, operation_id: OperationId) -> None:
    """Run a finished task again: a new task with the same input."""
    with session.client() as client:
        made = client.tasks.retry(operation_id)
    session.show(made, made["operationId"])


@command(app, "receipt", examples=["sfp-server task receipt 0198f2d0-… > receipt.json"])
def receipt(session: Session, *, operation_id: OperationId) -> None:
    """Print the signed record of a finished task; `sfp-server receipt verify` checks it, also offline."""
    with session.client() as client:
        document = client.tasks.receipt(operation_id)
    session.show(document, json.dumps(document, ensure_ascii=False, indent=2))


@command(app, "explain", examples=["sfp-server task explain 0198f2d0-…"])
def explain(session: Session, *, operation_id: OperationId) -> None:
    """Say why a task is not running, where it stands, and when it will probably start."""
    with session.client() as client:
        found = client.tasks.explain(operation_id)
    session.show(found, _told(found))


def _told(found: dict[str, Any]) -> str:
    if found["status"] != "pending":
        return f"the task is {found['status']}; it waits for nothing"
    lines = [f"{item['reason']}: {item['detail']}" if item["detail"] else item["reason"] for item in found["reasons"]]
    if found["position"] is not None:
        lines.append(f"position {found['position']} of {found['queuePending']} waiting")
    wait = found["estimatedWaitSeconds"]
    if wait is not None:
        lines.append(f"probably starts in {wait['p50']:.0f} s (9 of 10 times within {wait['p90']:.0f} s)")
    return "\n".join(lines)


@command(app, "preview", examples=["sfp-server task preview --cron '30 2 * * 1-5' --timezone Europe/Berlin"])
def preview(
    session: Session,
    *,
    cron: Cron = None,
    every: Every = None,
    timezone: Timezone = None,
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="So many.")] = 10,
) -> None:
    """Say when a recurring task would run, without submitting it."""
    rhythm = parse.recurrence(cron=cron, every=every, timezone=timezone)
    if rhythm is None:
        raise parse.wrong("--cron, --every", "one of them is needed")
    with session.client() as client:
        runs = client.tasks.preview(rhythm, count=count)
    session.show({"nextRuns": runs}, "\n".join(runs))


@command(app, "stop-recurring", examples=["sfp-server task stop-recurring 0198f2d0-…"])
def stop_recurring(session: Session, *, operation_id: OperationId) -> None:
    """End a recurring task; a run under way goes on."""
    with session.client() as client:
        done = client.tasks.stop_recurring(operation_id)
    session.show({"operationId": operation_id, **done}, str(done.get("message", "the series has ended")))


@command(app, "instances", examples=["sfp-server task instances 0198f2d0-…"])
def instances(
    session: Session,
    *,
    operation_id: OperationId,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="So many.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="nextCursor of the page before.")] = None,
) -> None:
    """List the runs of a recurring task, newest first."""
    with session.client() as client:
        page = client.tasks.instances(operation_id, limit=limit, cursor=cursor)
    columns = ("operationId", "status", "attempt", "createdAt", "finishedAt")
    rows = [[item.get(column) for column in columns] for item in page["items"]]
    session.show(page, lambda: output.table(columns, rows, empty="it has not run yet"))
