"""The command-line skin of this package: `register` adds the instance commands to the root program.

Imports happen inside the commands: the CLI must start quickly for the commands that need none of this.
"""

import os
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from sfp_client.cli import output
from sfp_server.instance.audit_commands import register as register_audit
from sfp_server.instance.dispatcher_commands import register as register_dispatchers
from sfp_server.instance.key_commands import register as register_keys
from sfp_server.instance.told import BASE, BaseDir, Json, Tenant, told


def register(app: typer.Typer) -> None:
    """Add init, start, stop, status, logs, scale, list, migrate, doctor and demo to `app`."""
    for command in (init, start, stop, status, logs, scale, migrate, doctor, demo):
        app.command()(command)
    app.command("list")(list_instances)
    register_dispatchers(app)
    register_keys(app)
    register_audit(app)


def init(
    tenant: Annotated[str, typer.Option("--tenant", "-t", help="Name of the organization: a-z, 0-9, hyphen.")],
    *,
    mode: Annotated[Literal["dev", "prod"] | None, typer.Option(help="dev listens on 127.0.0.1 only.")] = None,
    domain: Annotated[str | None, typer.Option(help="Host name that clients use.")] = None,
    worker_counts: Annotated[str | None, typer.Option(help="Slots: critical,normal,batch, as in 1,2,1.")] = None,
    base_dir: BaseDir = BASE,
    driver: Annotated[Literal["local", "compose"], typer.Option(help="How services are run.")] = "local",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="HTTPS port of the edge.")] = None,
    api_port: Annotated[int | None, typer.Option(min=1, max=65535, help="Loopback port of the API.")] = None,
    secrets_provider: Annotated[
        Literal["file", "environment", "vault", "aws", "infisical"] | None,
        typer.Option(help="Where the vault's private keys are kept."),
    ] = None,
    config_file: Annotated[Path | None, typer.Option(help="config.json to begin with; the older form too.")] = None,
    no_caddy: Annotated[bool, typer.Option("--no-caddy", help="No edge of our own (behind another proxy).")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an instance; the old one is kept aside.")] = False,
    as_json: Json = False,
) -> None:
    """Make an instance: its directory, keys, database and first owner.

    Example: sfp-server init --tenant acme && sfp-server start -t acme
    """
    from sfp_server.instance import configuration, create

    with told():
        if driver == "compose":
            output.fail("the driver 'compose' is not in this release: use --driver local")
        flags = {
            "mode": mode,
            "domain": domain,
            "workerCounts": worker_counts,
            "port": port,
            "apiPort": api_port,
            "secrets.masterKey.source": secrets_provider,
            "caddy": False if no_caddy else None,
        }
        wish = configuration.wanted(flags, config_file, os.environ)
        made = create.create(base_dir, tenant, wish, force=force, environ=os.environ, say=output.note)
    if made.replaced:
        output.note(f"the instance that was there is now {made.replaced}")
    output.show(
        {
            "tenant": made.tenant,
            "url": made.url,
            "apiUrl": made.api_url,
            "admin": {"email": made.email, "password": made.password},
            "directory": str(made.directory),
        },
        as_json=as_json,
        text=f"{made.directory}\n\nurl       {made.url}\nemail     {made.email}\npassword  {made.password}\n\n"
        f"The password is shown this once. Next: sfp-server start -t {made.tenant}{_base_flag(base_dir)}",
    )


def start(
    tenant: Tenant,
    *,
    daemon: Annotated[bool, typer.Option("--daemon", help="Accepted; services always run in the background.")] = False,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Start an instance and wait until it is healthy."""
    from sfp_server.instance import place
    from sfp_server.instance import start as starting

    del daemon
    with told():
        done = starting.start(place.existing(base_dir, tenant), base_dir, os.environ, output.note)
    output.show(
        {
            "tenant": done.tenant,
            "status": "running",
            "url": done.url,
            "apiUrl": done.api_url,
            "alreadyRunning": done.already,
            "seconds": done.seconds,
            "services": done.services,
        },
        as_json=as_json,
        text=f"{tenant} was running already: {done.url}"
        if done.already
        else f"{tenant} is running: {done.url}  ({done.seconds:.1f} s)",
    )


def stop(
    tenant: Tenant,
    *,
    cut: Annotated[bool, typer.Option("--force", "-f", help="Do not wait for running tasks.")] = False,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Stop an instance: running tasks end first (up to 30 s), then the services. Twice is fine."""
    from sfp_server.instance import place
    from sfp_server.instance import stop as stopping

    with told():
        ran = stopping.stop(place.existing(base_dir, tenant), cut=cut)
    output.show(
        {"tenant": tenant, "status": "stopped", "wasRunning": ran},
        as_json=as_json,
        text=f"{tenant} is stopped" if ran else f"{tenant} was not running",
    )


def status(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """What runs, how well, and which walls stand between tasks and this machine."""
    from sfp_server.instance import place
    from sfp_server.instance import status as reporting

    with told():
        report = reporting.status(place.existing(base_dir, tenant), os.environ)
    if as_json:
        output.show(report, as_json=True)
    else:
        reporting.show(report)


def logs(
    tenant: Tenant,
    *,
    service: Annotated[str | None, typer.Option("--service", "-s", help="One service only.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    tail: Annotated[int, typer.Option(min=0, help="So many last lines of each service.")] = 100,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Show the services' logs. With --json one array; with --follow --json one object a line, without end."""
    from sfp_server.instance import logs as reading
    from sfp_server.instance import place

    with told():
        at = place.existing(base_dir, tenant)
        reading.show(at, service, tail=tail, follow=follow, as_json=as_json)


def scale(
    tenant: Tenant,
    *,
    critical_workers: Annotated[int | None, typer.Option(min=0, max=10, help="Slots of the critical queue.")] = None,
    normal_workers: Annotated[int | None, typer.Option(min=0, max=10, help="Slots of the normal queue.")] = None,
    batch_workers: Annotated[int | None, typer.Option(min=0, max=10, help="Slots of the batch queue.")] = None,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Change how many tasks run at once, at once; 0 pauses a queue. Running tasks finish.

    Example: sfp-server scale -t acme --normal-workers 4
    """
    from sfp_server.instance import place, supervisor
    from sfp_server.instance import scale as scaling

    wanted = {"critical": critical_workers, "normal": normal_workers, "batch": batch_workers}
    if all(number is None for number in wanted.values()):
        output.fail("say what to change: --critical-workers, --normal-workers, --batch-workers", code=2)
    with told():
        at = place.existing(base_dir, tenant)
        done = scaling.scale(at, wanted, running=supervisor.Supervisor(at).is_alive())
    slots = ", ".join(f"{queue} {number}" for queue, number in done["current"].items())
    output.show(done, as_json=as_json, text=f"{tenant}: {slots}")


def list_instances(*, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """List the instances below the base directory."""
    from sfp_server.instance import status as reporting

    with told():
        found = reporting.overview(base_dir, os.environ)
    lines = [f"{item['tenant']:<20} {item['status']:<8} {item['url']}" for item in found]
    text = "\n".join(lines) or "no instance here: run `sfp-server init --tenant NAME`"
    output.show(found, as_json=as_json, text=text)


def migrate(tenant: Tenant, *, base_dir: BaseDir = BASE, as_json: Json = False) -> None:
    """Bring the database schema of a running instance to this release; `start` does so by itself."""
    from sfp_server.instance import place, schema, supervisor

    with told():
        at = place.existing(base_dir, tenant)
        if not supervisor.Supervisor(at).is_alive():
            output.fail(f"{tenant} is not running: `sfp-server start -t {tenant}` migrates by itself")
        schema.migrate(at)
    value = {"tenant": tenant, "status": "current"}
    output.show(value, as_json=as_json, text=f"the schema of {tenant} is current")


def doctor(
    tenant: Tenant,
    *,
    security: Annotated[bool, typer.Option("--security", help="What is weaker than recommended instead.")] = False,
    base_dir: BaseDir = BASE,
    as_json: Json = False,
) -> None:
    """Find what is wrong with this machine or instance, and say how to mend it. Exit 1: something is.

    Example: sfp-server doctor -t acme --security
    """
    from sfp_server.instance import doctor as examining
    from sfp_server.instance import place, weaknesses

    with told():
        look = weaknesses.examine if security else examining.examine
        findings = look(place.existing(base_dir, tenant), os.environ)
    if as_json:
        output.show([finding.as_json() for finding in findings], as_json=True)
    else:
        examining.show(findings)
    wrong = {"broken", "warning"} if security else {"broken"}
    if any(finding.state in wrong for finding in findings):
        raise typer.Exit(1)


def demo(*, keep: Annotated[bool, typer.Option(help="Keep the directory for a look.")] = False) -> None:
    """See it work: a throw-away instance runs a real job on a real repository in a sandbox, and is removed."""
    from sfp_server.instance import demo as showing

    with told():
        worked = showing.run(keep=keep)
    if not worked:
        raise typer.Exit(1)


def _base_flag(base: Path) -> str:
    return "" if base == BASE else f" --base-dir {shlex.quote(str(base))}"
