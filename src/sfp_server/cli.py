"""Process entry points: `python -m sfp_server.cli COMMAND --directory DIR`.

    serve         the API, on 127.0.0.1 and the configured port
    dispatch      claims tasks and starts workers; with --broker on another machine than the instance
    broker        hands leased credentials to workers
    deliver       carries events from the log to the API processes
    audit         seals the audit trail, writes checkpoints, signs receipts
    courier       the port for dispatchers on other machines, where dispatchers.listen is set
    migrate       brings the database to this release, once
    create-owner  makes or recovers the first owner; the password comes on stdin

Everything secret is read from files below the directory. Exit status: 0 done, 1 failed with one sentence on stderr.
"""

import argparse
import asyncio
import ctypes
import importlib
import os
import sys
from pathlib import Path

from sfp_server.alive import alive
from sfp_server.errors import SfpError
from sfp_server.settings import Settings, SettingsError

_PR_SET_DUMPABLE = 4


def main(arguments: list[str] | None = None) -> int:
    """Run one command; answers its exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "dispatch" and parsed.directory is None:
            return _dispatch_elsewhere(parsed)
        settings = Settings.load(parsed.directory, os.environ)
        return _run(parsed, settings)
    except (SettingsError, SfpError) as error:
        print(f"sfp-server {parsed.command}: {error}", file=sys.stderr)  # noqa: T201 (a command's own output)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sfp_server.cli", description="Processes of an sfp instance.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("serve", "dispatch", "broker", "deliver", "audit", "courier", "migrate", "create-owner"):
        command = commands.add_parser(name)
        here = name != "dispatch"
        command.add_argument("--directory", type=Path, required=here, help="the instance's directory")
        if name == "dispatch":
            _add_elsewhere(command)
        if name == "create-owner":
            command.add_argument("--email", required=True)
    return parser


def _add_elsewhere(command: argparse.ArgumentParser) -> None:
    """What `dispatch` takes on another machine, instead of --directory; names and meanings: docs/dispatchers.md."""
    command.add_argument("--database-url", help="environment: SFP_DISPATCH_DATABASE_URL")
    command.add_argument("--broker", help="tls://host:port; environment: SFP_BROKER")
    command.add_argument("--token-file", type=Path, help="environment: SFP_DISPATCHER_TOKEN, the token itself")
    command.add_argument("--work-dir", type=Path, help="of its own; default: below ~/.local/state/sfp-dispatcher")
    command.add_argument("--slots", type=int, help="tasks at once; never more than the instance allows")
    command.add_argument("--runtime", choices=("auto", "sandbox", "process", "container"))
    command.add_argument("--toolchain", action="append", default=[], metavar="NAME=VERSION")


def _dispatch_elsewhere(parsed: argparse.Namespace) -> int:
    from sfp_server.processes.elsewhere import agreed, run
    from sfp_server.web import logs

    flags = {
        "SFP_DISPATCH_DATABASE_URL": parsed.database_url,
        "SFP_BROKER": parsed.broker,
        "SFP_DISPATCHER_SLOTS": None if parsed.slots is None else str(parsed.slots),
        "SFP_WORKER_RUNTIME": parsed.runtime,
        "SFP_DISPATCHER_TOOLCHAINS": ",".join(parsed.toolchain),
    }
    os.umask(0o077)
    environ = {**os.environ, **{name: value for name, value in flags.items() if value}}
    settings, contract = agreed(environ, token_file=parsed.token_file, directory=parsed.work_dir)
    os.environ.pop("SFP_DISPATCHER_TOKEN", None)  # nothing that we start inherits it
    logs.configure("dispatch", settings.log_level)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(settings, contract))
    return 0


def _run(parsed: argparse.Namespace, settings: Settings) -> int:
    match parsed.command:
        case "migrate":
            return _migrate(settings)
        case "create-owner":
            return _create_owner(settings, parsed.email)
        case service:
            _service(service, settings)
            return 0


def _service(name: str, settings: Settings) -> None:
    # structlog loads rich, 5 MB, when it can be had; a service never prints for a person.
    sys.modules["rich"] = None  # pyright: ignore[reportArgumentType] (None means: not to be had)
    from sfp_server.web import logs

    logs.configure("api" if name == "serve" else name, settings.log_level)
    if name != "dispatch":  # its sandboxes' namespaces are written through /proc, which is ours only while dumpable
        _close_memory()
    if name == "serve":
        from sfp_server.serve import serve

        serve(settings)
        return
    # Imported by name, and only this one: no process pays for another's libraries.
    process = importlib.import_module(f"sfp_server.processes.{name}")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(alive(settings.run_directory, os.getpid(), process.run(settings)))


def _close_memory() -> None:
    """Neither another process of this user nor a core dump may show what this process knows."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _migrate(settings: Settings) -> int:
    from sfp_server.db.migrate import SERVICE_ROLES, ensure_database, migrate

    async def work() -> list[str]:
        await ensure_database(settings.admin_url())
        passwords = {role: settings.secret(f"db-{role}") for role in SERVICE_ROLES}
        return await migrate(settings.admin_url(), passwords)

    for name in asyncio.run(work()):
        print(name)  # noqa: T201 (what was applied)
    return 0


def _create_owner(settings: Settings, email: str) -> int:
    from sfp_server.identity.bootstrap import create_owner

    password = sys.stdin.readline().rstrip("\r\n")
    work = create_owner(
        settings.role_url("sfp_api"),
        email,
        password,
        team_slug=_slug(settings.tenant),
        team_name=settings.tenant,
        audit_key=settings.audit_key(),
    )
    asyncio.run(work)
    return 0


def _slug(tenant: str) -> str:
    """A team slug from a tenant name: lower case, everything else a hyphen, 63 characters at most."""
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in tenant.lower())
    return letters.strip("-")[:63].strip("-") or "default"


if __name__ == "__main__":
    sys.exit(main())
