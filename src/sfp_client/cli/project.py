"""`sfp-server project …`: repositories that the team works on, by a name of their own."""

from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group

app = group("Repositories that the team works on.")

Identifier = Annotated[str, typer.Argument(help="Its name, as in acme/core.", show_default=False)]
Remote = Annotated[str, typer.Option("--remote-url", help="Address of the repository, without user or password.")]
_COLUMNS = ("identifier", "remoteUrl", "version", "createdAt")


@command(app, "register", examples=["sfp-server project register acme/core --remote-url https://github.com/acme/core"])
def register(session: Session, *, identifier: Identifier, remote_url: Remote) -> None:
    """Register a repository under a name; owners only."""
    with session.client() as client:
        made = client.projects.register(identifier, remote_url)
    session.show(made, f"project {identifier} is registered")


@command(app, "create", examples=["sfp-server project create acme/core --remote-url https://github.com/acme/core"])
def create(session: Session, *, identifier: Identifier, remote_url: Remote) -> None:
    """The same as register, as older guides call it."""
    register(session, identifier=identifier, remote_url=remote_url)


@command(app, "list", examples=["sfp-server project list"])
def list_projects(session: Session) -> None:
    """List the projects of the team."""
    with session.client() as client:
        items = client.projects.list()
    rows = [[item.get(column) for column in _COLUMNS] for item in items]
    session.show({"items": items}, lambda: output.table(_COLUMNS, rows, empty="there are no projects"))


@command(app, "get", examples=["sfp-server project get acme/core --json"])
def get(session: Session, *, identifier: Identifier) -> None:
    """Show one project."""
    with session.client() as client:
        found = client.projects.find(identifier)
    session.show(found, lambda: output.table(_COLUMNS, [[found.get(column) for column in _COLUMNS]], empty=""))


@command(app, "update", examples=["sfp-server project update acme/core --remote-url https://gitlab.com/acme/core"])
def update(session: Session, *, identifier: Identifier, remote_url: Remote) -> None:
    """Give a project another address; owners only."""
    with session.client() as client:
        changed = client.projects.move(identifier, remote_url)
    session.show(changed, f"project {identifier} is at {remote_url}")


@command(app, "delete", examples=["sfp-server project delete acme/core"])
def delete(session: Session, *, identifier: Identifier) -> None:
    """Forget a project; owners only."""
    with session.client() as client:
        client.projects.delete(identifier)
    session.show({"identifier": identifier, "deleted": True}, f"project {identifier} is deleted")
