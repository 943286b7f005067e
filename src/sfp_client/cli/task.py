"""`sfp-server task …`: look at tasks and cancel them. `task_run.py` has submit and run, `task_more.py` the rest."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sfp_client.cli import artifacts, output, task_more, task_run
from sfp_client.cli.command import Session, command, group
from sfp_client.cli.task_run import Priority

if TYPE_CHECKING:
    from sfp_client.client import Client

app = group("Submit, follow and inspect tasks.")
app.add_typer(task_run.app)  # without a name: its commands are here
app.add_typer(task_more.app)

OperationId = Annotated[str, typer.Argument(metavar="OPERATION_ID", help="Id of the task.", show_default=False)]
Status = Literal["pending", "active", "completed", "failed", "cancelled"]


@command(app, "list", examples=["sfp-server task list", "sfp-server task list --status failed --label pr=12 --json"])
def list_tasks(
    session: Session,
    *,
    status: Annotated[Status | None, typer.Option("--status", help="Only tasks in this state.")] = None,
    kind: Annotated[str | None, typer.Option("--type", help="Only tasks of this type.")] = None,
    priority: Annotated[Priority | None, typer.Option("--priority", help="Only this queue.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Only with this label, as key=value.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="So many.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="nextCursor of the page before.")] = None,
) -> None:
    """List tasks of the team, newest first."""
    wanted = label.replace("=", ":", 1) if label and ":" not in label.partition("=")[0] else label
    with session.client() as client:
        page = client.tasks.list(status=status, kind=kind, priority=priority, label=wanted, limit=limit, cursor=cursor)
    columns = ("operationId", "type", "status", "progress", "priority", "createdAt", "reason")
    rows = [[item.get(column) for column in columns] for item in page["items"]]
    session.show(page, lambda: output.table(columns, rows, empty="there are no such tasks"))
    if page.get("nextCursor") and not session.as_json:
        output.note(f"there are more: --cursor {page['nextCursor']}")


@command(app, "get", examples=["sfp-server task get 0198f2d0-…", "sfp-server task get 0198f2d0-… --json"])
def get(session: Session, *, operation_id: OperationId) -> None:
    """Show everything that is known of a task."""
    with session.client() as client:
        found = client.tasks.get(operation_id)
    shown = [
        (name, value) for name, value in found.items() if name not in {"links", "channel"} and value not in ({}, [])
    ]
    session.show(found, output.facts(shown))


@command(app, "status", examples=["sfp-server task status 0198f2d0-…"])
def status(session: Session, *, operation_id: OperationId) -> None:
    """Show where a task is."""
    with session.client() as client:
        found = client.tasks.status(operation_id)
    session.show(found, output.facts(list(found.items())))


@command(
    app,
    "result",
    examples=[
        "sfp-server task result 0198f2d0-… --json",
        "sfp-server task result 0198f2d0-… --wait --wait-timeout 600",
    ],
)
def result(
    session: Session,
    *,
    operation_id: OperationId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task has ended.")] = False,
    wait_timeout: Annotated[
        float | None, typer.Option("--wait-timeout", min=0, help="Seconds to wait; then exit status 5.")
    ] = None,
) -> None:
    """Show how a task ended. Exit status 1 while it has not."""
    from sfp_client.cli.watch import explain
    from sfp_client.errors import ApiError

    with session.client() as client:
        try:
            found = (
                client.tasks.wait(operation_id, timeout=wait_timeout)
                if wait or wait_timeout is not None
                else client.tasks.result(operation_id)
            )
        except ApiError as error:
            if error.code != "not_finished":
                raise
            raise output.Failure(f"{error.detail}: use --wait", detail={"code": error.code}) from error
    own = found.get("result")
    session.show(found, explain(found) + (f"\n{json.dumps(own, ensure_ascii=False, indent=2)}" if own else ""))


@command(app, "logs", examples=["sfp-server task logs 0198f2d0-…", "sfp-server task logs 0198f2d0-… -f"])
def logs(
    session: Session,
    *,
    operation_id: OperationId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task has ended.")] = False,
    after: Annotated[int, typer.Option("--after", min=0, help="Only lines after this number.")] = 0,
) -> None:
    """Print the log of a task; with -f live. Ctrl-C leaves, the task goes on."""
    from sfp_client.cli.view import View, print_entry

    with session.client() as client:
        if session.as_json:
            output.show_array(_entries(client, operation_id, follow=follow, after=after))
        elif follow:
            with View(as_json=False) as view:
                for event in client.tasks.follow(operation_id, after=after):
                    view.tell(event)
        else:
            for entry in client.tasks.logs(operation_id, after=after):
                print_entry(entry, sys.stdout)


def _entries(client: "Client", operation_id: str, *, follow: bool, after: int) -> Any:  # an iterator of LogEntry
    if not follow:
        yield from client.tasks.logs(operation_id, after=after)
        return
    for event in client.tasks.follow(operation_id, after=after):
        if event.event == "task.log":
            yield {"seq": event.seq, "at": event.at, **event.data}


@command(app, "events", examples=["sfp-server task events 0198f2d0-… --json"])
def events(
    session: Session,
    *,
    operation_id: OperationId,
    after: Annotated[int, typer.Option("--after", min=0, help="Only events after this number.")] = 0,
) -> None:
    """List the events of a task, its log lines left out (they are in --json)."""
    from dataclasses import asdict

    with session.client() as client:
        found = client.tasks.events(operation_id, after=after)
    rows = [
        (
            event.seq,
            event.at,
            event.event,
            event.data.get("attempt"),
            event.data.get("progress"),
            event.data.get("step"),
        )
        for event in found
        if event.event != "task.log"
    ]
    columns = ("seq", "at", "event", "attempt", "progress", "step")
    items = [asdict(event) for event in found]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="there are no events"))


@command(app, "cancel", examples=["sfp-server task cancel 0198f2d0-…"])
def cancel(session: Session, *, operation_id: OperationId) -> None:
    """Cancel a task: SIGTERM, a grace period, then SIGKILL of all its processes."""
    with session.client() as client:
        done = client.tasks.cancel(operation_id)
    session.show({"operationId": operation_id, **done}, str(done.get("message", "cancelled")))


@command(app, "types", examples=["sfp-server task types", "sfp-server task types --json"])
def types(session: Session) -> None:
    """List the task types; --json has the JSON Schema of each one's data."""
    with session.client() as client:
        items = client.tasks.types()
    rows = [
        (
            item["type"],
            item.get("description"),
            ", ".join(item.get("credentials", [])),
            item.get("defaultTimeoutSeconds"),
        )
        for item in items
    ]
    columns = ("type", "does", "credentials", "timeout, s")
    session.show({"items": items}, lambda: output.table(columns, rows, empty="there are no task types"))


app.add_typer(artifacts.app, name="artifacts")
