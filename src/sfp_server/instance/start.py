"""`start`: everything up and healthy, or a clear reason and nothing half-running.

The order: one `start` at a time → already running? → end what a crash left → can it work at all (data,
secrets, disk, ports)? → write the configuration → supervisord → migrate if the schema is behind → wait.
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfp_server.instance import configuration, edge, keys, ports, postgres, schema, supervisor, templates
from sfp_server.instance.create import choose_ports
from sfp_server.instance.place import Place, ensure_run_directory, make_directory, write, write_json
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.services import services
from sfp_server.instance.stop import stop
from sfp_server.settings import Settings

#: free space below which PostgreSQL would soon stop, bytes
NEEDED_SPACE = 50 * 1024 * 1024
#: an instance that is not healthy after so long (seconds) says why
PATIENCE = 60.0
PORT_VARIABLES = {"port": "SFP_PORT", "apiPort": "SFP_API_PORT"}
#: so many quick restarts of one service are a crash loop
CRASH_LOOP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    tenant: str
    url: str
    api_url: str
    #: it ran before; nothing was changed
    already: bool
    #: seconds from the call to healthy
    seconds: float
    services: dict[str, str]


def start(at: Place, base: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Started:
    """Start the instance and return once it is healthy. Raises InstanceError; then nothing of it runs."""
    began = time.monotonic()
    with _only_one(at):
        if supervisor.Supervisor(at).is_alive():
            settings = configuration.settings(at, environ)
            _wait(at, settings)
            return _report(at, settings, began, already=True)
        if supervisor.end_leftovers(at):
            say("ended what an earlier crash had left running")
        _preflight(at, configuration.settings(at, environ))
        try:
            with ports.choosing():
                settings = _claim_ports(at, base, environ, say)
                _launch(at, settings, environ, say)
                _wait(at, settings)
        except BaseException:
            stop(at, cut=True)
            raise
        return _report(at, settings, began, already=False)


@contextmanager
def _only_one(at: Place) -> Generator[None]:
    """Two `start`s of the same instance run one after the other."""
    with (at.directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _preflight(at: Place, settings: Settings) -> None:
    """What would otherwise fail later and less clearly. Raises InstanceError."""
    if missing := keys.missing(at):
        raise InstanceError(
            f"secrets are missing in {at.secrets}: {', '.join(missing)}: restore them from a backup "
            "(what was stored with them cannot be read without)"
        )
    free = shutil.disk_usage(at.directory).free
    if free < NEEDED_SPACE:
        raise InstanceError(
            f"the disk of {at.directory} is full ({free // 2**20} MiB free): free at least "
            f"{NEEDED_SPACE // 2**20} MiB and start again"
        )
    if settings.database_url is None:
        postgres.check_version(at)


def _claim_ports(at: Place, base: Path, environ: Mapping[str, str], say: Callable[[str], None]) -> Settings:
    """The settings with ports that are free now. Raises InstanceError when a port that was named is taken."""
    settings = configuration.settings(at, environ)
    address = ports.LOOPBACK if settings.mode == "dev" else ports.EVERYWHERE
    wanted = {"apiPort": (settings.api_port, ports.LOOPBACK)}
    if settings.caddy:
        wanted["port"] = (settings.port, address)
    taken = [key for key, (port, where) in wanted.items() if not ports.is_free(port, where)]
    if not taken:
        return settings
    for key in taken:
        by_environment = bool(environ.get(PORT_VARIABLES[key]))
        if by_environment or not (settings.auto_ports or (key == "apiPort" and settings.auto_api_port)):
            port = wanted[key][0]
            by = ports.holder(port) or "another process"
            where = f"in the environment ({PORT_VARIABLES[key]})" if by_environment else f"as {key!r} in {at.config}"
            raise InstanceError(f"port {port} is taken by {by}: stop it, or name another one {where}")
    kept = configuration.saved(at)
    values: dict[str, Any] = {key: value for key, value in kept.items() if key not in taken}
    # who chose which port is a fact of `init`: it stays as it was
    how = {key: kept.get(key, False) for key in ("autoPorts", "autoApiPort")}
    values = {**choose_ports(base, at.tenant, values), **how}
    configuration.save(at, values)
    say("a port was taken: using " + ", ".join(f"{key} {values[key]}" for key in taken))
    return configuration.settings(at, environ)


def _launch(at: Place, settings: Settings, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Write every configuration file, start supervisord, and migrate before the services when needed."""
    for name in ("logs", "tmp", "caddy", "artifacts", "audit"):
        make_directory(at.directory / name)
    if not settings.checkpoint_directory.exists():
        make_directory(settings.checkpoint_directory)
    run = ensure_run_directory(at)
    keys.drop_signing_keys(at, life=settings.access_token_minutes * 60, now=time.time())
    if settings.dispatchers_listen:
        keys.make_network_certificates(at)
    for marker in (run / "starts").iterdir():
        marker.unlink()
    programs = services(at, settings, environ)
    write_json(at.directory / "services.json", {service.name: service.launch() for service in programs})
    write(at.directory / "Caddyfile", templates.caddyfile(at, settings))
    if settings.cache_url is None:
        write(at.valkey_conf, templates.valkey_conf(at, settings.secret("valkey")))
    if settings.database_url is None:
        postgres.configure(at, remote=settings.dispatchers_listen is not None)
    current = schema.is_current(at)
    first = [service.name for service in programs if current or service.name in {"postgres", "cache"}]
    write(at.directory / "supervisor.conf", templates.supervisor_conf(at, programs, autostart=first))
    supervisor.spawn(at)
    if not current:
        say("bringing the database schema up to date")
        _wait_for_database(at, settings)
        schema.migrate(at)
        supervisor.Supervisor(at).start_all()


def _wait_for_database(at: Place, settings: Settings) -> None:
    deadline = time.monotonic() + PATIENCE
    while settings.database_url is None and not postgres.is_ready(at):
        _raise_if_crashing(at, settings)
        if time.monotonic() > deadline:
            raise InstanceError(f"PostgreSQL does not answer: {postgres.last_line(at.logs / 'postgres.log')}")
        time.sleep(0.05)


def _wait(at: Place, settings: Settings) -> None:
    """Until the API calls itself healthy and the edge passes requests on. Raises InstanceError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        answer = edge.health(settings.api_port)
        if answer == "healthy" and (not settings.caddy or edge.answers(at, settings)):
            break
        _raise_if_crashing(at, settings)
        if time.monotonic() > deadline:
            raise InstanceError(_why(at, settings, answer))
        time.sleep(0.05)
    edge.publish_root(at, settings)


def _raise_if_crashing(at: Place, settings: Settings) -> None:
    for marker in (at.run / "starts").glob("*"):
        text = marker.read_text() if marker.is_file() else "0"
        if text.isdigit() and int(text) >= CRASH_LOOP:
            log = at.logs / f"{marker.name}.log"
            words = edge.complaint(at) if marker.name == "caddy" else None
            raise InstanceError(explain(marker.name, words or postgres.last_line(log), log, settings))


def explain(service: str, words: str, log: Path, settings: Settings) -> str:
    """One sentence about a service that keeps dying, from its last words."""
    if "No space left" in words or "Disk quota" in words:
        return f"{service} cannot write, the disk is full: free some space and start again"
    if service == "caddy" and "permission denied" in words and settings.port < 1024:
        return (
            f"this user may not listen on port {settings.port}: choose a --port from 1024 on, or allow it with "
            f"`sysctl net.ipv4.ip_unprivileged_port_start={settings.port}`"
        )
    if "ddress already in use" in words:
        return f"{service} finds its port taken: {words}; stop what listens there and start again"
    return f"{service} keeps dying: {words} (see {log})"


def _why(at: Place, settings: Settings, answer: str | None) -> str:
    """What is known when nothing crashes and yet it does not become healthy."""
    if answer == "healthy":
        return f"the edge does not answer on port {settings.port}: {postgres.last_line(at.logs / 'caddy.log')}"
    dead = [process.name for process in supervisor.Supervisor(at).processes() if not process.is_running]
    if dead:
        return f"{', '.join(dead)} did not start: see {at.logs}"
    said = f"says it is {answer}" if answer else "does not answer"
    return f"the API {said} after {PATIENCE:.0f} s: {postgres.last_line(at.logs / 'api.log')} (see {at.logs})"


def _report(at: Place, settings: Settings, began: float, *, already: bool) -> Started:
    return Started(
        tenant=at.tenant,
        url=settings.origin,
        api_url=f"http://127.0.0.1:{settings.api_port}",
        already=already,
        seconds=round(time.monotonic() - began, 2),
        services={item.name: item.state.lower() for item in supervisor.Supervisor(at).processes()},
    )
