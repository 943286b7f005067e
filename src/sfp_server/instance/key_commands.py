"""`keys rotate | list`: the keys that sign user tokens, replaced while everything runs."""

import os
import time
from typing import Annotated, Any

import typer

from sfp_client.cli import output
from sfp_server.instance.told import BASE, BaseDir, Json, Tenant, told


def register(app: typer.Typer) -> None:
    """Add the group `keys` to `app`."""
    group = typer.Typer(help="The keys that sign an instance's user tokens.", no_args_is_help=True)
    group.command()(rotate)
    group.command("list")(list_keys)
    app.add_typer(group, name="keys")


def rotate(
    tenant: Tenant,
    *,
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Old keys are void at once: for a key that somebody else may have.")
    ] = False,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Make a new signing key, which is in use within a second; no restart, and nobody is signed out.

    The key before goes on verifying until the last token that it signed has died; then the next `rotate` or `start`
    removes it. With --drop-old clients renew their access token at once.

    Example: sfp-server keys rotate -t acme
    """
    from sfp_server.instance import configuration, keys, place

    with told():
        at = place.existing(base_dir, tenant)
        life = configuration.settings(at, os.environ).access_token_minutes * 60
        made = keys.add_signing_key(at)
        removed = keys.drop_signing_keys(at, life=life, now=time.time(), all_old=drop_old)
    value = {"tenant": tenant, "made": made.name, "removed": [path.name for path in removed]}
    output.show(value, as_json=as_json, text=f"{tenant} signs with {made.name} from now on; removed: {len(removed)}")


def list_keys(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """Show the signing keys: when each was made, and what it is good for now."""
    from sfp_server.identity.keyset import files, needed
    from sfp_server.instance import configuration, place

    with told():
        at = place.existing(base_dir, tenant)
        life = configuration.settings(at, os.environ).access_token_minutes * 60
        found = files(at.signing)
        counts = needed([int(path.stem) for path in found], life, time.time())
    uses = [
        "signs" if path == found[-1] else "verifies" if counted else "nothing"
        for path, counted in zip(found, counts, strict=True)
    ]
    items: list[dict[str, Any]] = [
        {"key": path.name, "madeAt": _time(int(path.stem)), "use": use} for path, use in zip(found, uses, strict=True)
    ]
    rows = [(item["key"], item["madeAt"], item["use"]) for item in items]
    if as_json:
        output.show({"items": items}, as_json=True)
    else:
        for row in rows:
            typer.echo("  ".join(row))


def _time(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
