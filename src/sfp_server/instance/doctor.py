"""`doctor`: look at everything an instance needs, and say how to mend what is wrong.

Each check is one function that yields findings; it never changes anything.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from sfp_server.instance import binaries, configuration, edge, keys, ports, status, supervisor
from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.settings import Settings

#: names of the directories from which the sandbox runtime makes a worker's root
IMAGE = "image-"
#: bytes
LOW_SPACE = 1024**3
NO_SPACE = 100 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `mend` says what to do unless it is fine."""

    what: str
    state: Literal["fine", "warning", "broken"]
    detail: str
    mend: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def examine(at: Place, environ: Mapping[str, str]) -> list[Finding]:
    """All findings. Raises InstanceError when not even the settings can be read."""
    settings = configuration.settings(at, environ)
    checks: list[Callable[[Place, Settings], Iterator[Finding]]] = [
        *(_versions, _secrets, _permissions, _disk, _data, _ports, _services),
        *(_sandbox, _isolation, _separation, _clock, _certificate),
    ]
    return [finding for check in checks for finding in check(at, settings)]


def _versions(_at: Place, settings: Settings) -> Iterator[Finding]:
    yield Finding(what="python", state="fine", detail=sys.version.split()[0])
    programs: list[tuple[str, Callable[[], Path], list[str]]] = []
    if settings.database_url is None:
        programs.append(("postgresql", lambda: binaries.postgres("postgres"), ["--version"]))
    if settings.cache_url is None:
        programs.append(("valkey", binaries.valkey, ["--version"]))
    if settings.caddy:
        programs.append(("caddy", binaries.caddy, ["version"]))
    for name, find, arguments in programs:
        try:
            program = find()
        except InstanceError as error:
            yield Finding(what=name, state="broken", detail=str(error), mend="install sfp-server again")
            continue
        answer = _output([str(program), *arguments])
        mend = "" if answer else f"try `{program.name} {arguments[0]}` by hand; install sfp-server again"
        yield Finding(what=name, state="fine" if answer else "broken", detail=answer or "does not run", mend=mend)


def _secrets(at: Place, _settings: Settings) -> Iterator[Finding]:
    missing = keys.missing(at)
    if missing:
        mend = f"restore them from a backup into {at.secrets}"
        yield Finding(what="secrets", state="broken", detail="missing: " + ", ".join(missing), mend=mend)
    else:
        yield Finding(what="secrets", state="fine", detail="complete")


def _permissions(at: Place, _settings: Settings) -> Iterator[Finding]:
    """Nothing below the instance's directory may be open to others."""
    opened = [str(path.relative_to(at.directory)) for path in exposed(at.directory)]
    if opened:
        some = ", ".join(opened[:5]) + (" …" if len(opened) > 5 else "")
        yield Finding(
            what="file permissions",
            state="broken",
            detail=f"open to others: {some}",
            mend=f"chmod -R go= '{at.directory}'",
        )
    else:
        yield Finding(what="file permissions", state="fine", detail="private")


def exposed(directory: Path) -> Iterator[Path]:
    """Files, directories and sockets that anybody but the owner may touch; links are only names.

    Not what sandboxes are made from: copies of public system files, in a directory that only the owner enters.
    """
    for folder, folders, files in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(IMAGE)]
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # a running service removed it meanwhile
                continue
            if not path.is_symlink() and mode & 0o077:
                yield path


def _disk(at: Place, _settings: Settings) -> Iterator[Finding]:
    free = shutil.disk_usage(at.directory).free
    state = "broken" if free < NO_SPACE else "warning" if free < LOW_SPACE else "fine"
    mend = "" if state == "fine" else "free some: old artifacts and logs go first"
    yield Finding(what="disk", state=state, detail=f"{free / 2**30:.1f} GiB free", mend=mend)


def _data(at: Place, settings: Settings) -> Iterator[Finding]:
    from sfp_server.instance import postgres

    if settings.database_url is not None:
        yield Finding(what="database", state="fine", detail="external")
        return
    try:
        postgres.check_version(at)
    except InstanceError as error:
        yield Finding(what="database", state="broken", detail=str(error), mend="see there")
    else:
        yield Finding(what="database", state="fine", detail=f"made by PostgreSQL {binaries.POSTGRES_MAJOR}")


def _ports(at: Place, settings: Settings) -> Iterator[Finding]:
    if supervisor.Supervisor(at).is_alive():
        yield Finding(what="ports", state="fine", detail=f"api {settings.api_port}, edge {settings.port}")
        return
    for key, port in {"apiPort": settings.api_port, **({"port": settings.port} if settings.caddy else {})}.items():
        if ports.is_free(port):
            yield Finding(what=f"port {port}", state="fine", detail="free")
            continue
        by = ports.holder(port) or "another process"
        detail, mend = f"taken by {by}", f"stop it, or name another {key} in {at.config}"
        if settings.auto_ports or (key == "apiPort" and settings.auto_api_port):
            yield Finding(what=f"port {port}", state="warning", detail=detail, mend="`start` will choose another one")
        else:
            yield Finding(what=f"port {port}", state="broken", detail=detail, mend=mend)


def _services(at: Place, _settings: Settings) -> Iterator[Finding]:
    report = status.status(at, {})
    if report["status"] == "stopped":
        mend = f"sfp-server start -t {at.tenant}"
        yield Finding(what="services", state="warning", detail="the instance is stopped", mend=mend)
        return
    for name, service in report["services"].items():
        if service["status"] == "external" or name.endswith("-worker"):
            continue
        good = service["status"] == "running" and service["health"] == "healthy"
        mend = "" if good else f"see `sfp-server logs -t {at.tenant} -s {name}`"
        detail = f"{service['status']}, {service['health']}"
        yield Finding(what=name, state="fine" if good else "broken", detail=detail, mend=mend)


def _sandbox(_at: Place, settings: Settings) -> Iterator[Finding]:
    """What the sandbox runtime needs from this machine."""
    serious: Literal["warning", "broken"] = "broken" if settings.worker_runtime == "sandbox" else "warning"
    bubblewrap = shutil.which("bwrap")
    answer = _output([bubblewrap, "--version"]) if bubblewrap else ""
    mend = "" if answer else "install bubblewrap 0.8 or newer (Debian: apt-get install bubblewrap)"
    yield Finding(
        what="bubblewrap", state="fine" if answer else serious, detail=answer or "is not installed", mend=mend
    )
    spaces = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True, check=False)
    good = spaces.returncode == 0
    yield Finding(
        what="user namespaces",
        state="fine" if good else serious,
        detail="allowed" if good else "refused by this machine",
        mend="" if good else "allow them: sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, AppArmor",
    )
    version = _cgroups()
    mend = "" if version else "mount cgroup v2; until then limits of memory and processes are rlimits only"
    yield Finding(what="cgroups", state="fine" if version else "warning", detail=version or "not there", mend=mend)


def _cgroups() -> str:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return "v2"
    if Path("/sys/fs/cgroup/unified/cgroup.controllers").exists():
        return "hybrid"
    return "v1" if Path("/sys/fs/cgroup/memory").is_dir() else ""


def _isolation(at: Place, _settings: Settings) -> Iterator[Finding]:
    """The walls that the dispatcher found to be in force, in its own words."""
    try:
        document = json.loads((at.run / "dispatcher.json").read_text())
    except (OSError, ValueError):
        return
    if document.get("runtime") == "process":
        yield Finding(
            what="isolation",
            state="warning",
            detail="tasks run as plain processes, without a sandbox",
            mend="install bubblewrap, allow user namespaces, and start again",
        )
    for wall, how in document.get("isolation", {}).items():
        yield Finding(what=f"isolation: {wall}", state="fine", detail=str(how))


def _separation(at: Place, _settings: Settings) -> Iterator[Finding]:
    """Whether each service sees only its own secrets (launch.py), by comparing mount namespaces."""
    ours = Path("/proc/self/ns/mnt").readlink()
    processes = [process for process in supervisor.Supervisor(at).processes() if process.is_running]
    together = [item.name for item in processes if _mount_namespace(item.pid) == ours and item.service != "guard"]
    if not processes:
        return
    if together:
        yield Finding(
            what="separation",
            state="warning",
            detail=f"can read every service's secrets: {', '.join(together)}",
            mend="run as root with CAP_SYS_ADMIN, or allow user namespaces; the dispatcher needs root",
        )
    else:
        yield Finding(what="separation", state="fine", detail="each service sees only its own secrets")


def _mount_namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/mnt").readlink()
    except OSError:  # ended meanwhile, or hidden from us because it is in a namespace of its own
        return None


def _clock(at: Place, _settings: Settings) -> Iterator[Finding]:
    """Tokens and leases need a clock that goes forward: no file of ours may come from the future."""
    newest = max((path.stat().st_mtime for path in at.directory.iterdir()), default=0.0)
    ahead = newest - datetime.now(UTC).timestamp()
    good = ahead < 60
    detail = "plausible" if good else f"files of this instance are {ahead:.0f} s in the future"
    mend = "" if good else "set the clock (timedatectl set-ntp true)"
    yield Finding(what="clock", state="fine" if good else "broken", detail=detail, mend=mend)


def _certificate(at: Place, settings: Settings) -> Iterator[Finding]:
    if not settings.caddy:
        return
    leaf = next(iter(sorted((at.directory / "caddy" / "certificates").glob(f"*/{settings.domain}/*.crt"))), None)
    if leaf is None:
        yield Finding(what="certificate", state="warning", detail="none yet", mend="it is made at the first start")
        return
    from cryptography.x509 import load_pem_x509_certificate

    expires = load_pem_x509_certificate(leaf.read_bytes()).not_valid_after_utc
    days = (expires - datetime.now(UTC)).total_seconds() / 86400
    running = edge.health(settings.api_port) is not None
    expired = days < 0 and running
    mend = f"see `sfp-server logs -t {at.tenant} -s caddy`; start again to renew" if expired else ""
    yield Finding(
        what="certificate", state="broken" if expired else "fine", detail=f"valid for {days:.1f} days", mend=mend
    )


def _output(argv: list[str]) -> str:
    """First line of what a program says; empty when it cannot run."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else ""


def show(findings: list[Finding]) -> None:
    """The same for a person."""
    from rich.console import Console

    signs = {"fine": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "broken": "[red]broken[/] "}
    console = Console(soft_wrap=True)
    for finding in findings:
        console.print(f"{signs[finding.state]}  {finding.what:<24} ", end="")
        console.print(finding.detail, markup=False, highlight=False)
        if finding.mend:
            console.print(f"{'':<35}{finding.mend}", markup=False, highlight=False)
