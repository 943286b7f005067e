"""`sfp-server integration …`: connected providers; their credentials are sealed and leased to tasks."""

from pathlib import Path
from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group
from sfp_client.cli.secret import value_from

app = group("Providers that tasks and pipelines sign in at; owners only.")


@command(
    app,
    "create",
    examples=[
        "pass show github | sfp-server integration create github",
        "sfp-server integration create gitlab --project acme/core --url https://git.acme.example --value-file token",
        "sfp-server integration create jira --username ann@acme.example --entry password",
    ],
)
def create(
    session: Session,
    *,
    provider: Annotated[
        str, typer.Argument(help="github, gitlab, azure-devops, bitbucket, jira, …", show_default=False)
    ],
    entry: Annotated[str, typer.Option("--entry", help="What the secret value is: token or password.")] = "token",
    username: Annotated[str | None, typer.Option("--username", help="Who it belongs to, where that is needed.")] = None,
    project: Annotated[list[str] | None, typer.Option("--project", help="Only for this project; repeat.")] = None,
    at_url: Annotated[
        str | None, typer.Option("--url", help="Where the provider is, when it is not its cloud.")
    ] = None,
    value_file: Annotated[Path | None, typer.Option("--value-file", help="File whose text is the value.")] = None,
) -> None:
    """Connect a provider. The secret value comes from a file, stdin or a prompt, never from an argument."""
    value = value_from(value_file).strip()
    if not value:
        output.fail("the value is empty: nothing was stored", code=output.USAGE)
    credentials = {entry: value} | ({"username": username} if username else {})
    kind = {"token": "token", "password": "basic"}.get(entry, "custom")
    with session.client() as client:
        made = client.integrations.create(provider, credentials, auth_type=kind, projects=project or [], url=at_url)
    session.show(made, f"{provider} is connected ({made['id']})")


@command(app, "list", examples=["sfp-server integration list"])
def list_integrations(session: Session) -> None:
    """List the connected providers, without their credentials."""
    with session.client() as client:
        items = client.integrations.list()
    columns = ("id", "provider", "authType", "isGlobal", "projects", "createdAt")
    rows = [
        [", ".join(item[column]) if column == "projects" else item.get(column) for column in columns] for item in items
    ]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="no provider is connected"))


@command(app, "delete", examples=["sfp-server integration delete 0198f2d0-…"])
def delete(session: Session, *, integration_id: Annotated[str, typer.Argument(help="As list shows it.")]) -> None:
    """Disconnect a provider: its credentials are forgotten."""
    with session.client() as client:
        client.integrations.delete(integration_id)
    session.show({"id": integration_id, "deleted": True}, f"integration {integration_id} is deleted")


@command(app, "credentials", examples=["sfp-server integration credentials github --project acme/core --json"])
def credentials(
    session: Session,
    *,
    provider: Annotated[str, typer.Argument(help="As list shows it.")],
    project: Annotated[str | None, typer.Option("--project", help="Its own, if it has any.")] = None,
) -> None:
    """Print the credentials of a provider; each look is in the audit trail."""
    with session.client() as client:
        told = client.integrations.credentials(provider, project=project)
    session.show(told, lambda: "\n".join(f"{name}={value}" for name, value in told["credentials"].items()))
