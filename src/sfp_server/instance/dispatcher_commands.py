"""`dispatch`, and `dispatcher add | list | remove`: machines elsewhere that run an instance's tasks."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from sfp_client.cli import output
from sfp_server.instance.told import BASE, BaseDir, Json, Tenant, told

Name = Annotated[str, typer.Argument(help="Of the machine: a-z, 0-9, hyphen.")]


def register(app: typer.Typer) -> None:
    """Add `dispatch` and the group `dispatcher` to `app`."""
    app.command()(dispatch)
    group = typer.Typer(help="Machines elsewhere that run an instance's tasks.", no_args_is_help=True)
    group.command()(add)
    group.command("list")(list_dispatchers)
    group.command()(remove)
    app.add_typer(group, name="dispatcher")


def dispatch(
    *,
    database_url: Annotated[str | None, typer.Option(help="The instance's database.")] = None,
    broker: Annotated[str | None, typer.Option(help="tls://host:port of the instance.")] = None,
    token_file: Annotated[Path | None, typer.Option(help="File with the token; or set SFP_DISPATCHER_TOKEN.")] = None,
    work_dir: Annotated[Path | None, typer.Option(help="A directory of its own, with room for files.")] = None,
    slots: Annotated[int | None, typer.Option(min=0, max=1000, help="Tasks that run here at once.")] = None,
    runtime: Annotated[str | None, typer.Option(help="auto, sandbox, process or container.")] = None,
    toolchain: Annotated[list[str] | None, typer.Option(help="name=version of what is installed here.")] = None,
) -> None:
    """Run an instance's tasks on this machine, in the foreground, until SIGTERM.

    Example: sfp-server dispatch --database-url … --broker tls://sfp.example:9443 --token-file token
    """
    from sfp_server import cli

    options = {
        "--database-url": database_url,
        "--broker": broker,
        "--token-file": token_file,
        "--work-dir": work_dir,
        "--slots": slots,
        "--runtime": runtime,
    }
    arguments = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    arguments += [part for entry in toolchain or [] for part in ("--toolchain", entry)]
    raise typer.Exit(cli.main(["dispatch", *arguments]))


def add(
    name: Name,
    tenant: Tenant,
    *,
    slots: Annotated[int, typer.Option(min=0, max=1000, help="Tasks that it may run at once.")] = 2,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Let another machine run tasks; prints its token, once, and what to type there.

    Example: sfp-server dispatcher add -t acme builder --slots 4
    """
    from sfp_server.instance import dispatchers, place

    with told():
        made = dispatchers.add(place.existing(base_dir, tenant), name, slots=slots, environ=os.environ)
    output.show(
        {
            "name": made.name,
            "slots": made.slots,
            "token": made.token,
            "databaseUrl": made.database_url,
            "broker": made.broker,
        },
        as_json=as_json,
        text=f"token     {made.token}\n\n"
        f"The token is shown this once. Put it into a file that only the dispatcher's user can read, and run there:\n\n"
        f"  sfp-server dispatch --database-url '{made.database_url}' --broker {made.broker} --token-file FILE\n"
        + (f"\n{made.remark}" if made.remark else ""),
    )


def list_dispatchers(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """List the machines that were added, and how they are."""
    from sfp_server.instance import dispatchers, place

    with told():
        found = dispatchers.listed(place.existing(base_dir, tenant), os.environ)
    text = (
        "\n".join(_line(item) for item in found) or "no machine was added: `sfp-server dispatcher add -t TENANT NAME`"
    )
    output.show(found, as_json=as_json, text=text)


def remove(name: Name, tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """Take the right to run tasks away from a machine, at once: its token is dead, what it runs is lost."""
    from sfp_server.instance import dispatchers, place

    with told():
        dispatchers.remove(place.existing(base_dir, tenant), name, os.environ)
    output.show({"name": name, "status": "removed"}, as_json=as_json, text=f"{name} is removed")


def _line(item: dict[str, Any]) -> str:
    state = "running" if item["alive"] else "away"
    seen = f"last seen {item['lastSeen']}" if item["lastSeen"] else "never seen"
    return f"{item['name']:<24} {state:<8} {item['active']}/{item['slots']} slots  {item['host'] or '-'}  {seen}"
