"""`sfp-server task submit` and `sfp-server task run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sfp_client.cli import output, parse
from sfp_client.cli.command import Session, command

if TYPE_CHECKING:
    from sfp_client.client import Client
    from sfp_client.shapes import TaskResult

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Priority = Literal["critical", "normal", "batch"]
Queue = Annotated[Priority | None, typer.Option("--priority", help="Which queue.")]
Network = Annotated[bool, typer.Option("--network", help="Let the task reach outside addresses.")]
Timeout = Annotated[float | None, typer.Option("--timeout", min=0.001, help="Seconds the task may run.")]
Label = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Repeat.")]
Runtime = Annotated[str | None, typer.Option("--runtime", help="How its worker is made: sandbox, process, container.")]
Toolchain = Annotated[str | None, typer.Option("--toolchain", metavar="NAME", help="What its worker must have.")]
Cron = Annotated[str | None, typer.Option("--cron", help="Run again and again: '0 2 * * 1-5'.")]
Every = Annotated[str | None, typer.Option("--every", metavar="5m", help="The same in steps of s, m, h, d.")]
Timezone = Annotated[str | None, typer.Option("--timezone", help="Of --cron; default UTC.")]
WaitTimeout = Annotated[
    float | None, typer.Option("--wait-timeout", min=0, help="Seconds to wait; then exit status 5, the task goes on.")
]


@command(
    app,
    "submit",
    examples=[
        """sfp-server task submit command --data '{"argv":["git","--version"]}' --wait""",
        "sfp-server task submit command --arg npm --arg test --credential secret:NPM_TOKEN --follow",
        "sfp-server task submit command --data @task.json --priority critical --label pr=12 --json",
        "sfp-server task submit command --arg ./nightly.sh --cron '0 2 * * 1-5' --timezone Europe/Berlin",
    ],
)
def submit(
    session: Session,
    *,
    kind: Annotated[str, typer.Argument(metavar="TYPE", help="See sfp-server task types.", show_default=False)],
    data: Annotated[str | None, typer.Option("--data", metavar="JSON|@FILE|@-", help="Input of the task.")] = None,
    arg: Annotated[
        list[str] | None, typer.Option("--arg", help="Appended to argv of a command, args of other types; repeat.")
    ] = None,
    priority: Queue = None,
    credential: Annotated[
        list[str] | None, typer.Option("--credential", metavar="secret:NAME[=VARIABLE]", help="Repeat.")
    ] = None,
    network: Network = False,
    timeout: Timeout = None,
    label: Label = None,
    runtime: Runtime = None,
    toolchain: Toolchain = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="ISO", help="Run once, then: 2026-12-24T02:00:00+01:00.")
    ] = None,
    cron: Cron = None,
    every: Every = None,
    timezone: Timezone = None,
    overlap: Annotated[
        Literal["skip", "queue", "allow"] | None,
        typer.Option("--overlap", help="When an earlier run is not over: let it go, line up, run both; default skip."),
    ] = None,
    missed: Annotated[
        Literal["skip", "once", "all"] | None,
        typer.Option("--missed", help="Runs that nobody was there for: none, one for all, each; default once."),
    ] = None,
    max_runs: Annotated[int | None, typer.Option("--max-runs", min=1, help="End the series after so many.")] = None,
    attempts: Annotated[
        int | None, typer.Option("--attempts", min=1, max=100, help="Tries, the first included.")
    ] = None,
    concurrency_key: Annotated[
        str | None, typer.Option("--concurrency-key", help="Tasks with the same key run one after another.")
    ] = None,
    queue_timeout: Annotated[
        float | None, typer.Option("--queue-timeout", min=0.001, help="Seconds in line after which it fails.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; exit status 1 unless it completed.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="As --wait, with its log live.")] = False,
    wait_timeout: WaitTimeout = None,
) -> None:
    """Submit a task and print its id."""
    values = parse.data(data)
    if arg:
        field = "argv" if kind == "command" else "args"
        values[field] = [*values.get(field, []), *arg]
    with session.client() as client:
        submitted = client.tasks.submit(
            kind,
            values,
            priority=priority,
            credentials=parse.credentials(credential),
            labels=parse.pairs("--label", label),
            timeout_seconds=timeout,
            network="egress" if network else None,
            runtime=runtime,
            toolchain=toolchain,
            retry={"maxAttempts": attempts} if attempts else None,
            concurrency_key=concurrency_key,
            queue_timeout_seconds=queue_timeout,
            scheduled_for=schedule,
            recurrence=parse.recurrence(
                cron=cron,
                every=every,
                timezone=timezone,
                schedule=schedule,
                overlap=overlap,
                missed=missed,
                maxRuns=max_runs,
            ),
        )
        if not (wait or follow or wait_timeout is not None):
            session.show(submitted, submitted["operationId"])
            return
        output.note(f"task {submitted['operationId']}")
        ended = _to_the_end(session, client, submitted["operationId"], follow=follow, timeout=wait_timeout)
    _report(session, ended)


def _to_the_end(
    session: Session, client: "Client", operation_id: str, *, follow: bool, timeout: float | None
) -> "TaskResult":
    if not follow:
        return client.tasks.wait(operation_id, timeout=timeout)
    from sfp_client.cli.watch import watch

    return watch(client, operation_id, as_json=session.as_json, timeout=timeout, cancels=False)


def _report(session: Session, ended: "TaskResult") -> None:
    from sfp_client.cli.watch import explain

    session.show(ended, explain(ended))
    if ended["status"] != "completed":
        raise typer.Exit(output.FAILED)


@command(
    app,
    "run",
    context_settings={"allow_interspersed_args": False},
    examples=[
        "sfp-server task run -- python3 --version",
        "sfp-server task run --git https://git.example/acme/core.git@main --secret NPM_TOKEN --network -- npm test",
        "sfp-server task run --dir . --artifact 'reports/*.xml' -- ./test.sh > out.log",
    ],
)
def run(
    session: Session,
    *,
    argv: Annotated[list[str], typer.Argument(metavar="CMD", help="Never given to a shell.")],
    env: Annotated[
        list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="Not for secrets; repeat.")
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--file", "--files", help="Text file for the workspace; repeat.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Directory that becomes the workspace, without .git.")
    ] = None,
    repository: Annotated[
        str | None, typer.Option("--git", metavar="URL[@REF]", help="Repository that becomes the workspace.")
    ] = None,
    workdir: Annotated[str | None, typer.Option("--workdir", help="Where in the workspace to run.")] = None,
    artifact: Annotated[
        list[str] | None, typer.Option("--artifact", metavar="GLOB", help="Files to keep; repeat.")
    ] = None,
    secret: Annotated[
        list[str] | None, typer.Option("--secret", metavar="NAME[=VARIABLE]", help="Secret to give it; repeat.")
    ] = None,
    priority: Queue = None,
    network: Network = False,
    timeout: Timeout = None,
    label: Label = None,
    runtime: Runtime = None,
    toolchain: Toolchain = None,
) -> None:
    """Run a program in a fresh worker, follow it live, and exit with its exit code.

    Ctrl-C cancels the task; a second one leaves at once.
    """
    from sfp_client.cli.watch import exit_status, explain, terminated_like_interrupted, watch
    from sfp_client.cli.workspace import workspace

    credentials = [parse.secret(item) for item in secret or ()]
    variables = parse.pairs("--env", env)
    with session.client() as client, terminated_like_interrupted():
        place = workspace(client, files=file or [], directory=directory, repository=repository)
        given: dict[str, Any] = {"env": variables, "workspace": place, "workdir": workdir, "artifacts": artifact}
        submitted = client.tasks.submit(
            "command",
            {"argv": argv, **{name: value for name, value in given.items() if value}},
            priority=priority,
            credentials=credentials,
            labels=parse.pairs("--label", label),
            timeout_seconds=timeout,
            network="egress" if network else None,
            runtime=runtime,
            toolchain=toolchain,
        )
        ended = watch(client, submitted["operationId"], as_json=session.as_json)
    if session.as_json:
        session.show(ended)
    if ended["status"] != "completed":
        output.note(explain(ended))
    for kept in _kept(ended):
        output.note(f"kept {output.one_line(kept.get('name'))} ({kept.get('size')} bytes)")
    raise typer.Exit(exit_status(ended))


def _kept(ended: "TaskResult") -> list[dict[str, Any]]:
    own: Any = ended.get("result")
    return own.get("artifacts", []) if isinstance(own, dict) else []  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] (JSON)
