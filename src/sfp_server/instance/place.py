"""Where an instance keeps what: one private directory, `<base>/tenants/<tenant>`.

    config.json      settings, nothing secret          secrets/   one file per secret
    vault/           the broker's private keys         Caddyfile, supervisor.conf, services.json: generated
    postgres/        the database cluster
    caddy/           certificates of the edge          logs/      one file per service, rotated
    run/             sockets and pid files             artifacts, tmp: made by the services
    signing/         keys of user tokens

Directories are 0700, files 0600. `run` is a link to a short private directory when the path would be
too long for a unix socket.
"""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfp_server.instance.problem import InstanceError

TENANT = re.compile(r"[a-z0-9-]{1,40}")
#: what each of the configuration languages that name the directory can hold between quotes
SAFE_PATH = re.compile(r"[\w /.,@+=~-]+")
#: the kernel takes 107 bytes for a socket's path; the longest name below `run` is `postgres/.s.PGSQL.5432.lock`
LONGEST_RUN_PATH = 107 - 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The paths of one instance."""

    directory: Path
    tenant: str

    @property
    def config(self) -> Path:
        return self.directory / "config.json"

    @property
    def secrets(self) -> Path:
        return self.directory / "secrets"

    @property
    def vault(self) -> Path:
        """Only the broker sees it."""
        return self.directory / "vault"

    @property
    def signing(self) -> Path:
        """The keys of user tokens, one file each; changes while the API runs, so it is no part of `secrets`."""
        return self.directory / "signing"

    @property
    def database(self) -> Path:
        return self.directory / "postgres"

    @property
    def logs(self) -> Path:
        return self.directory / "logs"

    @property
    def run(self) -> Path:
        """The real directory behind `run`, short enough for sockets."""
        return (self.directory / "run").resolve()

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "control" / "sock"

    @property
    def valkey_conf(self) -> Path:
        """Holds the password, so it lies with the secrets."""
        return self.secrets / "valkey.conf"

    @property
    def edge_root(self) -> Path:
        """The edge's own root certificate, where Caddy's file storage keeps it."""
        return self.directory / "caddy" / "pki" / "authorities" / "local" / "root.crt"

    @property
    def edge_root_copy(self) -> Path:
        """The same, where clients look for it."""
        return self.directory / "ca.crt"

    def exists(self) -> bool:
        return self.config.is_file()


def place(base: Path, tenant: str) -> Place:
    """The place of `tenant` below `base`. Raises InstanceError (usage) for a name or path that cannot be."""
    if TENANT.fullmatch(tenant) is None:
        raise InstanceError(
            f"'{tenant[:60]}' cannot be a tenant name: use 1 to 40 of a-z, 0-9 and the hyphen", exit_code=2
        )
    root = base.expanduser().absolute()
    root = root.resolve() if root.exists() else root
    if SAFE_PATH.fullmatch(str(root)) is None:
        raise InstanceError(
            "the base directory's path holds characters that configuration files cannot: choose another --base-dir"
        )
    return Place(directory=root / "tenants" / tenant, tenant=tenant)


def existing(base: Path, tenant: str) -> Place:
    """The place of an instance that was made. Raises InstanceError (not found)."""
    found = place(base, tenant)
    if not found.exists():
        raise InstanceError(
            f"there is no instance '{tenant}' in {found.directory.parent}: "
            f"run `sfp-server init --tenant {tenant}` or name its --base-dir",
            exit_code=3,
        )
    return found


def all_places(base: Path) -> list[Place]:
    """Every instance below `base`, by name."""
    parent = base.expanduser().absolute() / "tenants"
    names = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    found = [Place(directory=parent / name, tenant=name) for name in names if TENANT.fullmatch(name)]
    return [candidate for candidate in found if candidate.exists()]


def make_directory(path: Path) -> Path:
    """A directory that only its owner can enter, also when it was there before."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)
    return path


def write(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace a file at once: readers see the old or the new text, and only the owner sees either."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Any) -> None:
    write(path, json.dumps(document, indent=2) + "\n")


def ensure_run_directory(at: Place) -> Path:
    """Make `run` (again): sockets do not survive a reboot that empties the temporary directory.

    Raises InstanceError when somebody else owns what the link names.
    """
    run = at.directory / "run"
    if not run.is_symlink() and len(os.fsencode(run)) <= LONGEST_RUN_PATH:
        real = make_directory(run)
    elif run.is_symlink() and run.is_dir():
        real = run.resolve()
    else:
        real = _short_directory(run)
    status = real.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise InstanceError(f"{real} is not private to this user: remove the link {run} and start again")
    make_directory(real / "postgres")
    make_directory(real / "starts")
    make_directory(real / "control")
    return real


def _short_directory(run: Path) -> Path:
    """A new private directory with a short, unguessable name; `run` becomes a link to it."""
    root = Path("/run") if os.access("/run", os.W_OK) and Path("/run").stat().st_uid == os.geteuid() else None
    real = Path(tempfile.mkdtemp(prefix="sfp-", dir=root or "/tmp"))  # noqa: S108 (mkdtemp: private, not guessable)
    run.unlink(missing_ok=True)
    run.symlink_to(real)
    return real


def names_in_use(base: Path, but: str) -> Iterator[dict[str, Any]]:
    """The parsed config.json of the other instances below `base`; unreadable ones are skipped."""
    for other in all_places(base):
        if other.tenant == but:
            continue
        try:
            document = json.loads(other.config.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict):
            yield document
