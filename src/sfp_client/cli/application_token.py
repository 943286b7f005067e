"""`sfp-server application-token …`: machine identities of a team."""

from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group

app = group("Tokens for pipelines and other machines; owners only.")


@command(
    app,
    "create",
    examples=[
        "sfp-server application-token create -n ci",
        "sfp-server application-token create -n ci --allow-address 192.0.2.0/24 --allow-address 2001:db8::7",
        "sfp-server application-token create -n nightly -x 7 --scope tasks:read --scope tasks:write --json",
    ],
)
def create(
    session: Session,
    *,
    name: Annotated[str, typer.Option("--name", "-n", help="What the token is for.")],
    days: Annotated[
        int | None, typer.Option("--expires-in", "-x", min=1, max=365, help="Days until it expires (default 30).")
    ] = None,
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="What it may do; repeat. Default: all an application may.")
    ] = None,
    allow_address: Annotated[
        list[str] | None,
        typer.Option("--allow-address", help="Address or network it may be used from; repeat. Default: anywhere."),
    ] = None,
) -> None:
    """Make a token and print it, for the only time."""
    with session.client() as client:
        made = client.tokens.create(name, expires_in=days, scopes=scope, allowed_addresses=allow_address)
    if not session.as_json:
        output.note(f"token {made['id']} expires at {made['expiresAt']}; it is shown this once:")
    session.show(made, made.get("token", ""))


@command(app, "list", examples=["sfp-server application-token list"])
def list_tokens(session: Session) -> None:
    """List the tokens of the team, without their text."""
    with session.client() as client:
        items = client.tokens.list()
    columns = ("id", "name", "status", "expiresAt", "lastUsedAt", "createdBy")
    rows = [[item.get(column) for column in columns] for item in items]
    session.show({"items": items}, lambda: output.table(columns, rows, empty="there are no application tokens"))


@command(app, "revoke", examples=["sfp-server application-token revoke -i 0198f2d0-…"])
def revoke(session: Session, *, token_id: Annotated[str, typer.Option("--id", "-i", help="As list shows it.")]) -> None:
    """Revoke a token: at once, everywhere."""
    with session.client() as client:
        client.tokens.revoke(token_id)
    session.show({"id": token_id, "revoked": True}, f"token {token_id} is revoked")
