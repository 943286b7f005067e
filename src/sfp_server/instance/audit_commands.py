"""`audit verify-database | rotate-key`: the whole trail of an instance, and the key that seals it."""

import os
from typing import TYPE_CHECKING, Any

import typer

from sfp_client.cli import output
from sfp_client.cli.audit import summary
from sfp_client.cli.audit import told as progress
from sfp_server.instance.told import BASE, BaseDir, Json, Tenant, told

if TYPE_CHECKING:
    from sfp_server.settings import Settings


def register(app: typer.Typer) -> None:
    """Add our commands to the group `audit`."""
    group = typer.Typer(help="Who did what, and whether the trail is whole.", no_args_is_help=True)
    group.command("verify-database")(verify_database)
    group.command("rotate-key")(rotate_key)
    app.add_typer(group, name="audit")


def verify_database(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """Check the trail of all teams in the database of an instance; its API and auditor need not run.

    Example: sfp-server audit verify-database -t acme
    """
    import asyncio

    from sfp_server.errors import SfpError
    from sfp_server.instance import configuration, place
    from sfp_server.instance.problem import InstanceError

    with told():
        settings = configuration.settings(place.existing(base_dir, tenant), os.environ)
        try:
            report = asyncio.run(_verified(settings))
        except SfpError as error:
            raise InstanceError(f"{error} (the instance's database must be running)") from error
    output.show(report, as_json=as_json, text=summary(report))
    if not report["ok"]:
        raise typer.Exit(output.FAILED)


def rotate_key(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """Give the auditor a new key; what the old ones signed stays valid, and the chain goes on.

    Example: sfp-server audit rotate-key -t acme
    """
    from sfp_proof.keys import KeyRing
    from sfp_server.instance import keys, place, supervisor

    with told():
        at = place.existing(base_dir, tenant)
        keys.replace_audit_key(at)
        if (running := supervisor.Supervisor(at)).is_alive():
            for service in ("auditor", "api"):  # each has seen its own copy of the files only
                running.restart(service)
    ids = KeyRing.read((at.secrets / "audit-public.pem").read_text()).ids
    output.show({"tenant": tenant, "keys": ids}, as_json=as_json, text=f"the auditor now signs with {ids[-1]}")


async def _verified(settings: "Settings") -> dict[str, Any]:
    from sfp_proof.checkpoint import files_at, read
    from sfp_proof.keys import KeyRing
    from sfp_server.audit.verifying import verify
    from sfp_server.db.database import Database

    keys = KeyRing.read(settings.secret("audit-public.pem"))
    checkpoints = read(files_at(settings.checkpoint_directory), keys)
    async with Database(settings.role_url("sfp_auditor"), application="sfp audit", size=1) as database:
        return (await verify(database, keys, checkpoints, told=_every_hundred_thousand)).as_json()


def _every_hundred_thousand(entries: int) -> None:
    if entries % 100_000 == 0:
        progress(entries)
