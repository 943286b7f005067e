"""`sfp-server user …`: the people of a team."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group

app = group("People of a team; owners only.")


class Role(StrEnum):
    MEMBER = "member"
    OWNER = "owner"


# Not `--email`: that says as whom the command acts.
Address = Annotated[str, typer.Argument(metavar="EMAIL", help="E-mail address.", show_default=False)]
COLUMNS = ("email", "firstName", "lastName", "role", "createdAt")


@command(
    app,
    "add",
    examples=[
        "sfp-server user add max@acme.example",
        "sfp-server user add max@acme.example --first-name Max --role owner --team core",
        "pass show max | sfp-server user add max@acme.example --password-stdin",
    ],
)
def add(
    session: Session,
    *,
    address: Address,
    first_name: Annotated[str | None, typer.Option("--first-name", help="For a new user.")] = None,
    last_name: Annotated[str | None, typer.Option("--last-name", help="For a new user.")] = None,
    role: Annotated[Role | None, typer.Option("--role", help="Default for a new member: member.")] = None,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read a new user's password from stdin; else sign-in is by SSO.")
    ] = False,
) -> None:
    """Make somebody a member of the team (`--team`). Repeating it is fine."""
    password = sys.stdin.readline().rstrip("\r\n") if password_stdin else None
    if password_stdin and not password:
        output.fail("there is no password on stdin: nothing was changed", code=output.USAGE)
    with session.client() as client:
        added = client.users.add(
            address,
            first_name=first_name,
            last_name=last_name,
            role=role,
            password=password,
            team=client.transport.team,
        )
    session.show(added, f"{added['email']} is {added['role']} of {added['teams'][0]['slug']}")


@command(app, "list", examples=["sfp-server user list", "sfp-server user list --role owner --team core --json"])
def list_users(
    session: Session, *, role: Annotated[Role | None, typer.Option("--role", help="Only those with this role.")] = None
) -> None:
    """List the users of the team (`--team`)."""
    with session.client() as client:
        users = client.users.list(role=role)
    rows = [[user.get(column) for column in COLUMNS] for user in users]
    session.show(
        {"users": users, "total": len(users)}, lambda: output.table(COLUMNS, rows, empty="there are no such users")
    )


@command(app, "delete", examples=["sfp-server user delete max@acme.example"])
def delete(session: Session, *, address: Address) -> None:
    """Take somebody out of the team, and away altogether when that was the last one: at once."""
    with session.client() as client:
        client.users.delete(address)
    session.show({"email": address, "deleted": True}, f"{address} is out of the team")
