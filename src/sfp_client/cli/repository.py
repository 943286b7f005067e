"""`sfp-server repository …`: what git signs in with."""

from typing import Annotated

import typer

from sfp_client.cli.command import Session, command, group

app = group("Access to the repositories of projects.")


@command(app, "auth-token", examples=["sfp-server repository auth-token acme/core --json"])
def auth_token(
    session: Session, *, identifier: Annotated[str, typer.Argument(help="A project, or the end of its address.")]
) -> None:
    """Print the token for a project's repository; each look is in the audit trail."""
    with session.client() as client:
        told = client.integrations.repository_token(identifier)
    session.show(told, told["token"])
