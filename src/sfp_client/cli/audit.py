"""`sfp-server audit …`: read the trail, and have it checked, by the server or here."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group

if TYPE_CHECKING:
    from sfp_proof.checkpoint import Checkpoints
    from sfp_proof.keys import KeyRing

app = group("Who did what, and whether the trail is whole; owners only.")


@command(
    app,
    "list",
    examples=[
        "sfp-server audit list --action session.refused --from 2026-11-01T00:00:00Z",
        "sfp-server audit list --subject secret:NPM_TOKEN --json",
    ],
)
def list_audit(
    session: Session,
    *,
    actor: Annotated[str | None, typer.Option("--actor", help="E-mail address, token name, or user:<id>.")] = None,
    action: Annotated[str | None, typer.Option("--action", help="secret.set, or all of secret. with the stop.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="As in secret:NPM_TOKEN.")] = None,
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Not before; with a time zone.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="Before.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="So many.")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="nextCursor of the page before.")] = None,
) -> None:
    """List what was done in the team, newest first."""
    with session.client() as client:
        page = client.audit.list(
            actor=actor, action=action, subject=subject, since=since, until=until, limit=limit, cursor=cursor
        )
    columns = ("at", "actor", "action", "subject", "detail", "entry")
    named = [item | {"actor": item.get("actorName") or item["actor"]} for item in page["items"]]
    rows = [[item.get(column) for column in columns] for item in named]
    session.show(page, lambda: output.table(columns, rows, empty="there are no such entries"))
    if page.get("nextCursor") and not session.as_json:
        output.note(f"there are more: --cursor {page['nextCursor']}")


@command(app, "export", examples=["sfp-server audit export --out audit.jsonl"])
def export(
    session: Session, *, out: Annotated[Path, typer.Option("--out", help="File to write.", show_default=False)]
) -> None:
    """Write every sealed entry of the team, with its seal, to a file that `audit verify --offline` can check."""
    size = 0
    descriptor, temporary = tempfile.mkstemp(prefix=f".{out.name[:100]}.", dir=out.absolute().parent)
    try:
        with os.fdopen(descriptor, "wb") as file, session.client() as client:
            for piece in client.audit.export():
                size += file.write(piece)
        Path(temporary).replace(out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    session.show({"file": str(out), "bytes": size}, f"{out}: {size} bytes")


@command(app, "keys", examples=["sfp-server audit keys > keys.json"])
def keys(session: Session) -> None:
    """Print the public keys that check the trail and receipts. Keep them where the server's admins cannot write."""
    with session.client_of(session.target(), None) as client:
        document = client.audit.keys()
    session.show(document, json.dumps(document, indent=2))


@command(
    app,
    "verify",
    examples=[
        "sfp-server audit verify",
        "sfp-server audit verify --offline --export audit.jsonl --checkpoints ./checkpoints --key keys.json",
    ],
)
def verify(
    session: Session,
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no server: check an export.")] = False,
    export: Annotated[Path | None, typer.Option("--export", help="What `audit export` wrote.")] = None,
    checkpoints: Annotated[
        list[Path] | None, typer.Option("--checkpoints", help="Checkpoint file or directory; repeatable.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Public keys: what `audit keys` printed, or PEM.")] = None,
) -> None:
    """Check that no entry was changed, deleted, exchanged or cut off. Exit status 1, and the place, when one was.

    The server checks the team's chain against its checkpoints; offline, this program does, with files alone. The whole
    trail of all teams: `sfp-server audit verify-database`, on the server's machine.
    """
    if offline:
        if export is None or key is None:
            output.fail("--offline needs --export and --key", code=output.USAGE)
        report = _checked(export, key, checkpoints or [])
    elif export or checkpoints or key:
        output.fail("--export, --checkpoints and --key are for --offline", code=output.USAGE)
    else:
        with session.client() as client:
            report = client.audit.verify(told=told)
    session.show(report, summary(report))
    if not report["ok"]:
        raise typer.Exit(output.FAILED)


def told(entries: int) -> None:
    """Progress of a check that takes long."""
    output.note(f"{entries} entries so far")


def summary(report: dict[str, Any]) -> str:
    """A report for a person."""
    last = report.get("checkedTo")
    where = f", up to entry {last['entry']} of {last['at']} UTC" if last else ""
    waiting = f"; {report['unsealed']} wait for their seal" if report.get("unsealed") else ""
    seen = f"{report['entries']} entries{where}, {report['checkpoints']} checkpoints{waiting}"
    if report["ok"]:
        return f"the trail is whole: {seen}"
    lines = [_problem(problem) for problem in report["problems"]]
    more = [f"and {report['moreProblems']} more"] if report.get("moreProblems") else []
    return "\n".join([f"the trail is NOT whole: {seen}", *lines, *more])


def _problem(problem: dict[str, Any]) -> str:
    place = problem["place"]
    number = place.get("entry")
    entries = "" if number is None else f" entry {number}" + (f" to {place['last']}" if place.get("last") else "")
    facts = [f"{name} {place[name]}" for name in ("id", "at", "team") if place.get(name) is not None]
    return f"  {problem['kind']}{entries}" + (f" ({', '.join(facts)})" if facts else "") + f": {problem['detail']}"


def _checked(export: Path, key: Path, checkpoints: Sequence[Path]) -> dict[str, Any]:
    from sfp_proof.trail import check_export

    ring = read_keys(key)
    return check_export(export, ring, _read_checkpoints(checkpoints, ring), told=told).as_json()


def _read_checkpoints(paths: Sequence[Path], ring: "KeyRing") -> "Checkpoints":
    from sfp_proof.checkpoint import Checkpoints, files_at, read

    files = [file for path in paths for file in files_at(path)]
    if paths and not files:
        output.fail(f"there are no checkpoint files in {paths[0]}", code=output.NOT_FOUND)
    return read(files, ring) if files else Checkpoints()


def read_keys(path: Path) -> "KeyRing":
    """The public keys in a file. Ends the command when there are none."""
    from sfp_proof.keys import BadKeys, KeyRing

    try:
        return KeyRing.read(path.read_text())
    except (BadKeys, UnicodeDecodeError) as error:
        output.fail(f"{path}: {error}", code=output.USAGE)
