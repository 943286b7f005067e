"""`keys …`: the keys that sign user tokens, and those of the vault, replaced while everything runs."""

import os
import sys
import time
from typing import Annotated, Any

import typer

from sfp_client.cli import output
from sfp_server.instance.told import BASE, BaseDir, Json, Tenant, told


def register(app: typer.Typer) -> None:
    """Add the group `keys` to `app`."""
    group = typer.Typer(help="The keys that sign user tokens, and those that seal secrets.", no_args_is_help=True)
    group.command()(rotate)
    group.command("list")(list_keys)
    group.command("rotate-vault")(rotate_vault)
    group.command("new-vault")(new_vault)
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


def rotate_vault(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """Give the vault a new key pair, as `sfp-server secret rotate-keys` does: in use at once, no restart.

    The broker seals what is stored anew in the background; each secret can be read all the time. The private key before
    is removed when nothing needs it any more. A backup made before then opens only with the keys of that time.

    Example: sfp-server keys rotate-vault -t acme
    """
    import asyncio

    from sfp_server.credentials.asking import Asking
    from sfp_server.errors import SfpError
    from sfp_server.instance import configuration, place

    with told():
        at = place.existing(base_dir, tenant)
        settings = configuration.settings(at, os.environ)
        asking = Asking(settings.broker_desk, settings.secret("broker-key"))
        try:
            version = asyncio.run(asking.rotate("admin", None))
        except SfpError as error:
            output.fail(f"{tenant}: {error}")
    output.show({"tenant": tenant, "version": version}, as_json=as_json, text=f"{tenant} seals with key pair {version}")


def new_vault(
    *,
    beside: Annotated[bool, typer.Option("--beside", help="One more pair beside those that come on stdin.")] = False,
) -> None:
    """Print fresh keys of a vault, for instances that have them in the environment: keep them where only it looks.

    Example: sfp-server keys new-vault | systemd-creds encrypt --name=sfp-vault-keys - vault.cred
    """
    from sfp_server.credentials.ring import BadRing, Ring

    try:
        ring = Ring.parse(sys.stdin.read()).with_next() if beside else Ring.fresh()
    except BadRing as error:
        output.fail(str(error), code=output.USAGE)
    print(ring.text())
