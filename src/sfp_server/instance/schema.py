"""The database schema of an instance: is it this release's, and bring it there.

Which release's schema a database has is known to the database itself; the file `schema` in the instance's
directory only remembers it, so that `start` need not ask before it starts everything at once.
"""

import json
import subprocess
import sys
from pathlib import Path

from sfp_server.instance.place import Place, write
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.services import python_environment


def is_current(at: Place) -> bool:
    """True when the last migration of this release was applied by an earlier `init`, `start` or `migrate`."""
    try:
        return (at.directory / "schema").read_text().strip() == _newest()
    except OSError:
        return False


def migrate(at: Place) -> None:
    """Apply what is missing. The database must be up. Raises InstanceError."""
    helper(at, ["migrate"], text="", what="the database schema cannot be brought up to date")
    write(at.directory / "schema", _newest() + "\n")


def helper(at: Place, arguments: list[str], *, text: str, what: str) -> None:
    """Run one of our own short-lived process entry points. Raises InstanceError with its last words."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "sfp_server.cli", arguments[0], "--directory", str(at.directory), *arguments[1:]],
        input=text,
        capture_output=True,
        text=True,
        env=python_environment(at),
        check=False,
        timeout=600,
        cwd=at.directory,
    )
    if done.returncode != 0:
        lines = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise InstanceError(f"{what}: {_sentence(lines[-1])}")


def _sentence(line: str) -> str:
    """The message of a structured log line, or the line itself, shortened."""
    try:
        document = json.loads(line)
        line = str(document.get("detail") or document.get("error") or document.get("event") or line)
    except (ValueError, AttributeError):
        pass
    return line.strip()[-300:]


def _newest() -> str:
    migrations = Path(__file__).parent.parent / "db" / "migrations"
    return max(entry.name for entry in migrations.glob("*.sql"))
