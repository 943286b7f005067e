"""`init`: make an instance, or nothing at all.

Everything is made in a staging directory beside the final one and moved into place by one rename, so that
a failure (or a power cut) never leaves half an instance. `--force` replaces an instance that is not
running; the old one is kept beside it under another name, because its database may be the only copy.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfp_server.instance import configuration, keys, ports, postgres, schema, supervisor
from sfp_server.instance.configuration import Wanted
from sfp_server.instance.place import Place, ensure_run_directory, make_directory, names_in_use, place, write
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.services import services
from sfp_server.settings import Settings, SettingsError

#: free space below which a database directory should not be begun, bytes
NEEDED_SPACE = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """What `init` tells, once: the password is stored nowhere."""

    tenant: str
    url: str
    api_url: str
    email: str
    password: str
    directory: Path
    #: where `--force` left the instance that was there before
    replaced: Path | None


def create(
    base: Path, tenant: str, wish: Wanted, *, force: bool, environ: Mapping[str, str], say: Callable[[str], None]
) -> Created:
    """Make the instance `tenant` below `base`. Raises InstanceError; then nothing has been left behind."""
    final = place(base, tenant)
    if not final.directory.parent.exists():
        make_directory(final.directory.parent)
    _refuse_overwriting(final, force=force)
    _check_space(final.directory.parent)
    with _staging(final) as staged:
        settings = _prepare(staged, base, wish, environ)
        password = keys.owner_password()
        email = f"admin@{tenant}.local"
        say("making the database")
        _make_database(staged, settings, email, password)
        replaced = _move_into_place(staged, final)
    return Created(
        tenant=tenant,
        url=settings.origin,
        api_url=f"http://127.0.0.1:{settings.api_port}",
        email=email,
        password=password,
        directory=final.directory,
        replaced=replaced,
    )


def choose_ports(base: Path, tenant: str, values: dict[str, Any]) -> dict[str, Any]:
    """Complete `port`, `apiPort` and which of them were chosen: named ports stay, the others are free ones."""
    prod = values.get("mode") == "prod"
    taken = {other.get(key) for other in names_in_use(base, tenant) for key in ("port", "apiPort")}
    taken |= {values.get(key) for key in ("port", "apiPort")}
    avoid = {port for port in taken if isinstance(port, int)}
    chooses_edge, chooses_api = not prod and "port" not in values, "apiPort" not in values
    chosen: dict[str, Any] = {"autoPorts": chooses_edge and chooses_api}
    if chooses_api and not chooses_edge:
        chosen["autoApiPort"] = True
    if "port" not in values:
        chosen["port"] = 443 if prod else ports.pick(8443, avoid=avoid)
    if "apiPort" not in values:
        chosen["apiPort"] = ports.pick(3029, avoid=avoid | {chosen.get("port", 0)})
    return {**values, **chosen}


def _refuse_overwriting(final: Place, *, force: bool) -> None:
    if not final.directory.exists():
        return
    if supervisor.Supervisor(final).is_alive() or supervisor.leftovers(final):
        raise InstanceError(
            f"the instance '{final.tenant}' is running: run `sfp-server stop -t {final.tenant}` before replacing it"
        )
    if not force:
        raise InstanceError(
            f"{final.directory} exists: choose another tenant name, start it with `sfp-server start -t "
            f"{final.tenant}`, or replace it with --force (the old one is kept beside it)"
        )


def _check_space(parent: Path) -> None:
    free = shutil.disk_usage(parent).free
    if free < NEEDED_SPACE:
        raise InstanceError(
            f"only {free // 2**20} MiB are free on the disk of {parent}, and an instance needs "
            f"{NEEDED_SPACE // 2**20} MiB to begin with: free some or choose another --base-dir"
        )


@contextmanager
def _staging(final: Place) -> Generator[Place]:
    """A private directory beside the final one; whatever is left in it when the block ends is removed."""
    for abandoned in final.directory.parent.glob(f".staging-{final.tenant}-*"):
        if not Path("/proc", abandoned.name.rpartition("-")[2]).exists():  # its `init` was killed
            shutil.rmtree(abandoned, ignore_errors=True)
    directory = final.directory.parent / f".staging-{final.tenant}-{os.getpid()}"
    previous = signal.signal(signal.SIGTERM, _end)  # so that the cleaning below runs
    try:
        make_directory(directory)
        yield replace(final, directory=directory)
    finally:
        signal.signal(signal.SIGTERM, previous)
        run = directory / "run"
        if run.is_symlink():
            shutil.rmtree(run.resolve(), ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


def _end(_number: int, _frame: object) -> None:
    sys.exit(143)


def _prepare(staged: Place, base: Path, wish: Wanted, environ: Mapping[str, str]) -> Settings:
    """Directories, config.json and secrets. Raises InstanceError for settings that cannot be."""
    values = choose_ports(base, staged.tenant, {"tenant": staged.tenant, **wish.values})
    for name in ("logs", "tmp", "caddy", "audit"):
        make_directory(staged.directory / name)
    ensure_run_directory(staged)
    configuration.save(staged, values)
    try:
        settings = configuration.settings(staged, environ)
    except SettingsError as error:
        raise InstanceError(str(error)) from error
    keys.make_secrets(staged, with_vault=settings.master_key_source == "file")
    for name, text in wish.secrets.items():
        write(staged.secrets / name, text)
    return settings


def _make_database(staged: Place, settings: Settings, email: str, password: str) -> None:
    """The cluster (unless an external server is used), the schema, the first owner."""
    if settings.database_url is not None:
        schema.migrate(staged)
        create_owner(staged, email, password)
        return
    postgres.create_cluster(staged)
    server = next(service for service in services(staged, settings, {}) if service.name == "postgres")
    with postgres.running_alone(staged, server):
        schema.migrate(staged)
        create_owner(staged, email, password)


def create_owner(at: Place, email: str, password: str) -> None:
    """The first user; the password goes over stdin, so that no process list shows it. Raises InstanceError."""
    schema.helper(at, ["create-owner", "--email", email], text=password + "\n", what="the first owner cannot be made")


def _move_into_place(staged: Place, final: Place) -> Path | None:
    """One rename; what was there before is kept under a name that is no tenant's."""
    (staged.directory / "services.json").unlink(missing_ok=True)
    run = staged.directory / "run"
    if run.is_symlink():
        shutil.rmtree(run.resolve(), ignore_errors=True)
        run.unlink()
    replaced: Path | None = None
    if final.directory.exists():
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        replaced = Path(tempfile.mkdtemp(prefix=f"{final.tenant}.replaced-{stamp}-", dir=final.directory.parent))
        final.directory.rename(replaced)
    try:
        staged.directory.rename(final.directory)
    except OSError:
        if replaced is not None:
            replaced.rename(final.directory)
        raise
    return replaced
