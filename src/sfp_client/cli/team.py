"""`sfp-server team …`: teams, and who is in them."""

from typing import Annotated

import typer

from sfp_client.cli import output
from sfp_client.cli.command import Session, command, group
from sfp_client.cli.user import Address, Role

app = group("Teams, and who is in them.")

Slug = Annotated[str, typer.Argument(metavar="SLUG", help="The team's slug.", show_default=False)]


@command(app, "list", examples=["sfp-server team list"])
def list_teams(session: Session) -> None:
    """List your teams and what you are in each."""
    with session.client() as client:
        teams = client.teams.list()
    columns = ("slug", "name", "role")
    rows = [[team.get(column) for column in columns] for team in teams]
    session.show({"items": teams}, lambda: output.table(columns, rows, empty="you belong to no team"))


@command(app, "create", examples=["sfp-server team create core", 'sfp-server team create core --name "Core team"'])
def create(
    session: Session,
    *,
    slug: Slug,
    name: Annotated[str | None, typer.Option("--name", help="For people; default: the slug.")] = None,
    description: Annotated[str, typer.Option("--description", help="What it is for.")] = "",
) -> None:
    """Make a team and own it; whoever owns any team may."""
    with session.client() as client:
        made = client.teams.create(slug, name or slug, description=description)
    session.show(made, f"team {made['slug']} is made; you own it")


@command(app, "delete", examples=["sfp-server team delete core"])
def delete(session: Session, *, slug: Slug) -> None:
    """End a team that has nothing and nobody else any more."""
    with session.client() as client:
        client.teams.delete(slug)
    session.show({"slug": slug, "deleted": True}, f"team {slug} is deleted")


@command(app, "members", examples=["sfp-server team members core", "sfp-server team members core --role owner --json"])
def members(
    session: Session,
    *,
    slug: Slug,
    role: Annotated[Role | None, typer.Option("--role", help="Only those with this role.")] = None,
) -> None:
    """List the members of a team."""
    with session.client() as client:
        found = client.teams.members(slug, role=role)
    columns = ("email", "first_name", "last_name", "role", "created_at")
    rows = [[member.get(column) for column in columns] for member in found]
    session.show(
        {"members": found, "total": len(found)}, lambda: output.table(columns, rows, empty="there are no such members")
    )


@command(
    app,
    "add-member",
    examples=[
        "sfp-server team add-member core max@acme.example",
        "sfp-server team add-member core ann@x.example --role owner",
    ],
)
def add_member(
    session: Session,
    *,
    slug: Slug,
    address: Address,
    role: Annotated[Role, typer.Option("--role", help="What it may do.")] = Role.MEMBER,
) -> None:
    """Make a user who exists a member; `user add` makes users."""
    with session.client() as client:
        member = client.teams.add_member(slug, address, role=role)
    session.show(member, f"{member['email']} is {member['role']} of {slug}")


@command(app, "remove-member", examples=["sfp-server team remove-member core max@acme.example"])
def remove_member(session: Session, *, slug: Slug, address: Address) -> None:
    """Take somebody out of a team, at once; anybody may leave, but the last owner."""
    with session.client() as client:
        client.teams.remove_member(slug, address)
    session.show({"slug": slug, "email": address, "removed": True}, f"{address} is out of {slug}")


@command(app, "set-role", examples=["sfp-server team set-role core max@acme.example owner"])
def set_role(
    session: Session,
    *,
    slug: Slug,
    address: Address,
    role: Annotated[Role, typer.Argument(help="member or owner", show_default=False)],
) -> None:
    """Give a member a role, at once."""
    with session.client() as client:
        member = client.teams.set_role(slug, address, role)
    session.show(member, f"{member['email']} is {member['role']} of {slug}")
