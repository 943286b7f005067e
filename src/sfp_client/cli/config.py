"""Which server, and who asks: flag, environment, project file, user configuration, in this order.

Project file: `.sfp-pro/config.json` with `server-url`, `server-email`, `pool-tag`, searched from the current
directory upwards. User configuration: `$XDG_CONFIG_HOME/sfp-server/config.json`, the same keys, written by
`auth login`. When nothing names a server and exactly one local instance runs below `./sfp-server`, it is that one.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from sfp_client.cli.output import USAGE, Failure, fail

KEYS = ("server-url", "server-email", "pool-tag")
PROJECT_FILE = Path(".sfp-pro") / "config.json"
LOCAL_BASE = Path("sfp-server")
#: seconds in which a local port must answer
PROBE = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """The common options of a command; None: not given."""

    url: str | None = None
    token: str | None = None
    email: str | None = None
    team: str | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which server to ask, and as whom; `token` beats `email`, None: whoever signed in last."""

    url: str
    token: str | None
    email: str | None
    team: str | None
    ca_file: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalInstance:
    """An instance on this machine, as its directory tells."""

    tenant: str
    directory: Path
    url: str
    port: int

    @property
    def ca_file(self) -> Path | None:
        """The authority of its edge, once it has been started."""
        file = self.directory / "ca.crt"
        return file if file.is_file() else None

    def is_running(self) -> bool:
        """Whether something answers on its port."""
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=PROBE).close()
        except OSError:
            return False
        return True


def resolve(flags: Flags, environ: Mapping[str, str], cwd: Path) -> Target:
    """Decide; ends the command when no server is named or a file cannot be read."""
    project = project_settings(cwd)
    user = user_settings(environ)
    instances = local_instances(cwd)
    url = _first(flags.url, environ.get("SFP_SERVER_URL"), project.get("server-url"), user.get("server-url"))
    if url is None:
        url = _only_running(instances)
    token, email = _who(flags, environ)
    return Target(
        url=url,
        token=token,
        email=None if token else _first(email, project.get("server-email"), user.get("server-email")),
        team=flags.team,
        ca_file=flags.ca_file or _extra_ca(environ) or _local_ca(url, instances),
    )


def _who(flags: Flags, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    """(token, e-mail): any flag beats any variable; within a rank the token is the more exact wish."""
    for token, email in ((flags.token, flags.email), (environ.get("SFP_SERVER_TOKEN"), environ.get("SFP_SERVER_USER"))):
        if token:
            return token, None
        if email:
            return None, email
    return None, None


def project_settings(cwd: Path) -> dict[str, str]:
    """The nearest project file at or above `cwd`; empty when there is none."""
    for directory in (cwd, *cwd.parents):
        file = directory / PROJECT_FILE
        if file.is_file():
            return _read(file)
    return {}


def user_directory(environ: Mapping[str, str]) -> Path:
    """Where this program keeps what belongs to the user."""
    base = environ.get("XDG_CONFIG_HOME") or ""
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".config") / "sfp-server"


def user_settings(environ: Mapping[str, str]) -> dict[str, str]:
    file = user_directory(environ) / "config.json"
    return _read(file) if file.is_file() else {}


def remember(environ: Mapping[str, str], **values: str | None) -> None:
    """Write keys of the user configuration (`server_url=…`); None removes one."""
    from sfp_client.cli.keep import write_private

    known = user_settings(environ)
    for name, value in values.items():
        key = name.replace("_", "-")
        known.pop(key, None)
        if value is not None:
            known[key] = value
    write_private(user_directory(environ) / "config.json", json.dumps(known, indent=2) + "\n")


def local_instances(cwd: Path) -> list[LocalInstance]:
    """The instances below `./sfp-server`, by name; unreadable ones are left out."""
    found = [_local(file) for file in sorted((cwd / LOCAL_BASE / "tenants").glob("*/config.json"))]
    return [instance for instance in found if instance is not None]


def _local(file: Path) -> LocalInstance | None:
    try:
        known = json.loads(file.read_text())
        edge = known.get("caddy", True)
        port = int(known["port"] if edge else known["apiPort"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    host = str(known.get("domain", "localhost"))
    url = f"https://{host}{'' if port == 443 else f':{port}'}" if edge else f"http://127.0.0.1:{port}"
    return LocalInstance(tenant=file.parent.name, directory=file.parent, url=url, port=port)


def _only_running(instances: list[LocalInstance]) -> str:
    running = [instance for instance in instances if instance.is_running()]
    if len(running) == 1:
        return running[0].url
    if running:
        urls = ", ".join(f"{instance.tenant}: {instance.url}" for instance in running)
        fail(f"several local instances are running ({urls}): choose one with --sfp-server-url", code=USAGE)
    if instances:
        fail(f"the local instance is not running: sfp-server start -t {instances[0].tenant}")
    raise Failure(
        "no server is named: give --sfp-server-url or set SFP_SERVER_URL (or run sfp-server auth login)", code=USAGE
    )


def _local_ca(url: str, instances: list[LocalInstance]) -> Path | None:
    """The authority of the local instance that `url` names."""
    wanted = urlsplit(url)
    if wanted.scheme != "https":
        return None
    for instance in instances:
        own = urlsplit(instance.url)
        if (wanted.port or 443) == instance.port and wanted.hostname in {own.hostname, "localhost", "127.0.0.1"}:
            return instance.ca_file
    return None


def _extra_ca(environ: Mapping[str, str]) -> Path | None:
    named = environ.get("SFP_EXTRA_CA_FILE")
    return Path(named) if named else None


def _read(file: Path) -> dict[str, str]:
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        fail(f"{file} cannot be read: {error}")
    if not isinstance(known, dict):
        fail(f"{file} must hold a JSON object with {', '.join(KEYS)}")
    values = cast("dict[str, Any]", known)
    return {key: value for key, value in values.items() if key in KEYS and isinstance(value, str) and value}


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value), None)


def from_process(flags: Flags) -> Target:
    """Resolve with this process's environment and current directory."""
    return resolve(flags, os.environ, Path.cwd())
