"""Process entry points: `python -m sfp_server.cli COMMAND --directory DIR`.

    serve         the API, on 127.0.0.1 and the configured port
    dispatch      claims tasks and starts workers
    broker        hands leased credentials to workers
    deliver       carries events from the log to the API processes
    migrate       brings the database to this release, once
    create-owner  makes or recovers the first owner; the password comes on stdin

Everything secret is read from files below the directory. Exit status: 0 done, 1 failed with one sentence on stderr.
"""

import argparse
import asyncio
import importlib
import os
import sys
from pathlib import Path

from sfp_server.alive import alive
from sfp_server.errors import SfpError
from sfp_server.settings import Settings, SettingsError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; answers its exit status."""
    parsed = _parser().parse_args(arguments)
    try:
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
    for name in ("serve", "dispatch", "broker", "deliver", "migrate", "create-owner"):
        command = commands.add_parser(name)
        command.add_argument("--directory", type=Path, required=True, help="the instance's directory")
        if name == "create-owner":
            command.add_argument("--email", required=True)
    return parser


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
    if name == "serve":
        from sfp_server.serve import serve

        serve(settings)
        return
    # Imported by name, and only this one: no process pays for another's libraries.
    process = importlib.import_module(f"sfp_server.processes.{name}")
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(alive(settings.run_directory, os.getpid(), process.run(settings)))


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
        settings.role_url("sfp_api"), email, password, team_slug=_slug(settings.tenant), team_name=settings.tenant
    )
    asyncio.run(work)
    return 0


def _slug(tenant: str) -> str:
    """A team slug from a tenant name: lower case, everything else a hyphen, 63 characters at most."""
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in tenant.lower())
    return letters.strip("-")[:63].strip("-") or "default"


if __name__ == "__main__":
    sys.exit(main())
