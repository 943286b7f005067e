"""`sfp-server artifacts …`: files that tasks kept, and uploads for workspaces."""

from pathlib import Path
from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group

app = group("Files that tasks kept, and uploads for workspaces.")

OperationId = Annotated[str, typer.Argument(metavar="OPERATION_ID", help="Id of the task.", show_default=False)]


@command(app, "list", examples=["sfp-server artifacts list 0198f2d0-…"])
def list_artifacts(session: Session, *, operation_id: OperationId) -> None:
    """List the files that a task kept."""
    with session.client() as client:
        items = client.artifacts.of_task(operation_id)
    columns = ("name", "size", "sha256")
    rows = [[item.get(column) for column in columns] for item in items]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="the task kept no files"))


@command(
    app,
    "download",
    examples=[
        "sfp-server artifacts download 0198f2d0-…",
        "sfp-server artifacts download 0198f2d0-… report.xml --out build/",
    ],
)
def download(
    session: Session,
    *,
    operation_id: OperationId,
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Files; default: all.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Directory to write to.")] = Path(),
) -> None:
    """Download files that a task kept, checked against their SHA-256; never outside the directory."""
    from sfp_client.artifacts import inside

    with session.client() as client:
        known = {item.get("name", ""): item for item in client.artifacts.of_task(operation_id)}
        wanted = names or list(known)
        missing = [name for name in wanted if name not in known]
        if missing:
            output.fail(f"the task kept no file '{missing[0]}'", code=output.NOT_FOUND)
        targets = {name: inside(out, name) for name in wanted}
        for name, target in targets.items():
            client.artifacts.download(operation_id, name, target, sha256=known[name]["sha256"])
            output.note(f"{target} ({known[name]['size']} bytes)")
    session.show({"files": [{**known[name], "path": str(target)} for name, target in targets.items()]})


@command(app, "upload", examples=["sfp-server artifacts upload source.tar.gz"])
def upload(
    session: Session,
    *,
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="An archive becomes a workspace.")],
) -> None:
    """Upload a file and print its id, for `workspace.artifact` of a task."""
    with session.client() as client:
        made = client.artifacts.upload(file)
    session.show(made, made.get("id", ""))
