"""`doctor --security`: what is weaker than recommended on this machine and instance, and what to do about it.

Each check is one function of what was looked at (`Look`), and yields findings: `fine`, or `warning` with what to do.
They change nothing, and never show a secret. What a check knows of the machine it reads below `look.machine`.
"""

import asyncio
import ctypes
import ipaddress
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfp_server.actor import Role
from sfp_server.db.database import fetch
from sfp_server.db.queries import load
from sfp_server.errors import Unavailable
from sfp_server.identity.model import BY_NAME_ONLY, SCOPES
from sfp_server.instance import configuration, schema, supervisor
from sfp_server.instance.doctor import Finding, exposed
from sfp_server.instance.edge import has_own_authority
from sfp_server.instance.guard import user_of
from sfp_server.instance.place import Place
from sfp_server.settings import Settings, flatten

#: tokens should not outlive this, keys should be renewed by then, owners should have been here since, days
LONG_TOKEN, OLD_KEY, ABSENT = 90, 365, 90
#: these build sandboxes, and start the instance again: they need root where the instance has it
NEED_ROOT = {"dispatcher", "guard"}
#: adjtimex(2)
TIME_ERROR = 5
_SECRETIVE = re.compile(r"(password|secret|token|private|apikey|api_key|credential)", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the checks may look at."""

    at: Place
    settings: Settings
    environ: Mapping[str, str]
    now: datetime
    #: where /proc and /sys are
    machine: Path
    #: number of the user that looks
    user: int
    #: service → number of the user that it runs as; empty while the instance is stopped
    users: Mapping[str, int]
    #: False: the kernel says that nobody keeps its clock right; None: it could not be asked
    clock_is_kept: bool | None
    #: one row of `security.sql`; None: the database could not be asked
    facts: Mapping[str, Any] | None


def examine(at: Place, environ: Mapping[str, str]) -> list[Finding]:
    """All findings. Raises InstanceError when not even the settings can be read."""
    settings = configuration.settings(at, environ)
    running = [process for process in supervisor.Supervisor(at).processes() if process.is_running]
    look = Look(
        at=at,
        settings=settings,
        environ=environ,
        now=datetime.now(UTC),
        machine=Path("/"),
        user=os.geteuid(),
        users={process.service: user_of(process.pid) for process in running},
        clock_is_kept=_clock_is_kept(),
        facts=_facts(settings) if schema.is_current(at) else None,
    )
    return [finding for check in CHECKS for finding in check(look)]


def _facts(settings: Settings) -> Mapping[str, Any] | None:
    statement = load(__package__ or "", "security.sql")["facts"]
    every = len(SCOPES[Role.APPLICATION] - BY_NAME_ONLY)
    asking = fetch(settings.admin_url(), statement, LONG_TOKEN, ABSENT, every, settings.password_login)
    try:
        rows = asyncio.run(asyncio.wait_for(asking, 10))
    except (Unavailable, OSError, TimeoutError):
        return None
    return rows[0]


def _clock_is_kept() -> bool | None:
    """What the kernel says of its clock. None: it may not be asked here."""
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(256))  # modes 0: only look
    return None if state < 0 else state != TIME_ERROR


def _judged(what: str, weak: str, *, mend: str, fine: str) -> Finding:
    """`weak`: why it is weaker than recommended; empty: it is not."""
    if weak:
        return Finding(what=what, state="warning", detail=weak, mend=mend)
    return Finding(what=what, state="fine", detail=fine)


def _text(look: Look, path: str) -> str:
    try:
        return (look.machine / path).read_text().strip()
    except OSError:
        return ""


# ---------------------------------------------------------------------------------------------------- the machine


def user_namespaces(look: Look) -> Iterator[Finding]:
    off = _text(look, "proc/sys/user/max_user_namespaces") == "0"
    off = off or _text(look, "proc/sys/kernel/unprivileged_userns_clone") == "0"
    yield _judged(
        "user namespaces",
        "switched off: no sandboxes for ordinary users" if off else "",
        mend="sysctl user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1",
        fine="allowed",
    )


def tracing(look: Look) -> Iterator[Finding]:
    """Yama: whether one process of a user may read another one's memory."""
    scope = _text(look, "proc/sys/kernel/yama/ptrace_scope")
    yield _judged(
        "tracing",
        "" if scope.isdigit() and int(scope) >= 1 else "a user's processes may read each other's memory",
        mend="sysctl kernel.yama.ptrace_scope=1 (a kernel with Yama)",
        fine=f"ptrace_scope {scope}",
    )


def control_groups(look: Look) -> Iterator[Finding]:
    there = (look.machine / "sys/fs/cgroup/cgroup.controllers").exists()
    yield _judged(
        "control groups",
        "" if there else "no cgroup v2: limits of memory and processes are weaker",
        mend="boot with systemd.unified_cgroup_hierarchy=1, or give the container a cgroup v2",
        fine="cgroup v2",
    )


def swap(look: Look) -> Iterator[Finding]:
    """What is swapped out lies on a disk."""
    lines = _text(look, "proc/swaps").splitlines()[1:]
    plain = [line.split()[0] for line in lines if line.split() and not _is_safe_swap(look, line.split()[0])]
    yield _judged(
        "swap",
        f"not encrypted: {', '.join(plain)}" if plain else "",
        mend="swapoff, or encrypt it (crypttab: swap /dev/… /dev/urandom swap)",
        fine="none, or in memory, or encrypted",
    )


def _is_safe_swap(look: Look, device: str) -> bool:
    name = os.path.basename(device)  # noqa: PTH119 (no path of this machine is asked)
    return name.startswith("zram") or _text(look, f"sys/block/{name}/dm/uuid").startswith("CRYPT")


def core_dumps(look: Look) -> Iterator[Finding]:
    """Our limits hold for files; a program that takes core dumps is not bound by them."""
    pattern = _text(look, "proc/sys/kernel/core_pattern")
    yield _judged(
        "core dumps",
        f"handed to {pattern[1:].split()[0]}, whatever our limits say" if pattern.startswith("|") else "",
        mend="sysctl kernel.core_pattern=core",
        fine="limited to nothing",
    )


def kernel_programs(look: Look) -> Iterator[Finding]:
    value = _text(look, "proc/sys/kernel/unprivileged_bpf_disabled")
    yield _judged(
        "eBPF",
        "" if value in {"1", "2"} else "open to ordinary users (our sandboxes refuse it)",
        mend="sysctl kernel.unprivileged_bpf_disabled=1",
        fine="closed to ordinary users",
    )


def security_modules(look: Look) -> Iterator[Finding]:
    found = set(_text(look, "sys/kernel/security/lsm").split(",")) & {"apparmor", "selinux", "landlock", "smack"}
    yield _judged(
        "security modules",
        "" if found else "none besides the kernel's own rights",
        mend="boot with lsm=landlock,yama,apparmor (or SELinux), as distributions do",
        fine=", ".join(sorted(found)),
    )


def clock(look: Look) -> Iterator[Finding]:
    """Tokens of identity providers and CI are judged by their times."""
    yield _judged(
        "clock",
        "nobody keeps it right" if look.clock_is_kept is False else "",
        mend="run chrony or systemd-timesyncd (timedatectl set-ntp true)",
        fine="kept right" if look.clock_is_kept else "could not be asked",
    )


# --------------------------------------------------------------------------------------------------- the instance


def users(look: Look) -> Iterator[Finding]:
    """Whether services are users of their own (launch.py)."""
    if not look.users:
        yield Finding(what="users", state="fine", detail="the instance is stopped")
        return
    separate = {name: user for name, user in look.users.items() if name not in NEED_ROOT}
    together = sorted(name for name, user in separate.items() if list(separate.values()).count(user) > 1)
    as_root = sorted(name for name, user in separate.items() if user == 0)
    yield _judged(
        "users",
        f"root: {', '.join(as_root)}" if as_root else f"the same user: {', '.join(together)}" if together else "",
        mend="start it as root on a kernel from 5.12 on, with its directory on ext4, xfs or btrfs; or trust that user",
        fine="each service is a user of its own",
    )


def files(look: Look) -> Iterator[Finding]:
    """Who else may touch the instance's files, or put others in their place."""
    at = look.at
    opened = [str(path.relative_to(at.directory)) for path in exposed(at.directory)]
    yield _judged(
        "file modes",
        f"open to others: {', '.join(opened[:5])}" if opened else "",
        mend=f"chmod -R go= '{at.directory}'",
        fine="private",
    )
    foreign = [path.name for path in at.directory.iterdir() if path.lstat().st_uid != look.user]
    yield _judged(
        "file owners",
        f"of other users: {', '.join(sorted(foreign)[:5])}" if foreign else "",
        mend=f"chown -R {look.user} '{at.directory}'",
        fine="one owner",
    )
    parents = [above for above in at.directory.parents if above.stat().st_mode & 0o022 and not _is_sticky(above)]
    yield _judged(
        "directories above",
        f"others may put another directory in its place: {parents[0]}" if parents else "",
        mend=f"chmod go-w '{parents[0]}'" if parents else "",
        fine="nobody else may write there",
    )


def _is_sticky(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o1000)


def plain_secrets(look: Look) -> Iterator[Finding]:
    """Secrets where everybody looks: the environment, and config.json."""
    found = [name for name, value in look.environ.items() if name.startswith("SFP_") and _is_secret(name, value)]
    found += [name for name in ("DATABASE_URL", "VALKEY_URL") if _PASSWORD_IN_URL.match(look.environ.get(name, ""))]
    yield _judged(
        "secrets in the environment",
        ", ".join(sorted(found)),
        mend="put them into files, and remove them from the environment",
        fine="none of ours",
    )
    saved = flatten(configuration.saved(look.at))
    found = [key for key, value in saved if isinstance(value, str) and _PASSWORD_IN_URL.match(value)]
    yield _judged(
        "secrets in config.json",
        ", ".join(found),
        mend=f"init keeps them as files in {look.at.secrets}: move them there",
        fine="none",
    )


def _is_secret(name: str, value: str) -> bool:
    is_path = name.endswith(("_FILE", "_PATH", "_DIR")) or value.startswith("/")
    return bool(value) and not is_path and not value.isdigit() and bool(_SECRETIVE.search(name))


def transport(look: Look) -> Iterator[Finding]:
    settings = look.settings
    weak = "TLS is ended by another proxy: its rules hold" if not settings.caddy else ""
    if settings.caddy and has_own_authority(settings):
        weak = "certificates are of the instance's own authority"
    yield _judged(
        "TLS",
        weak,
        mend="mode prod with a public domain gets public certificates; until then give clients ca.crt",
        fine="public certificates",
    )
    listen = settings.listen_address()
    wide = settings.mode == "dev" and listen is not None and not _is_loopback(listen[0])
    yield _judged(
        "listening",
        f"mode dev, and machines elsewhere are let in at {settings.dispatchers_listen}" if wide else "",
        mend="mode prod, and a firewall before dispatchers.listen",
        fine="as the mode says",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def openings(look: Look) -> Iterator[Finding]:
    """What an admin opened on purpose: each is worth a second look."""
    settings = look.settings
    yield _judged(
        "egress.allow",
        f"tasks may reach these private addresses: {settings.egress_allow}" if settings.egress_allow.strip() else "",
        mend="name single hosts with ports, and only those that tasks need",
        fine="no private address may be reached",
    )
    origins = settings.allowed_origins()
    yield _judged(
        "cors.allowOrigins",
        f"pages of these origins may call the API: {', '.join(origins)}" if origins else "",
        mend="name only origins whose pages you trust like the API itself; https only",
        fine="no page of another origin may call the API",
    )


def workers(look: Look) -> Iterator[Finding]:
    in_force = look.settings.worker_runtime
    if in_force == "auto":
        in_force = _runtime_found(look) or in_force
    yield _judged(
        "workers",
        "plain processes, without a sandbox" if in_force == "process" else "",
        mend="install bubblewrap, allow user namespaces, worker.runtime auto",
        fine=f"runtime {in_force}",
    )
    engine = look.settings.container_engine
    yield _judged(
        "container engine",
        "who may use its socket is root on this machine, the dispatcher too" if engine else "",
        mend="a rootless engine, or none",
        fine="not used",
    )


def _runtime_found(look: Look) -> str:
    try:
        return str(json.loads((look.at.run / "dispatcher.json").read_text()).get("runtime", ""))
    except (OSError, ValueError):
        return ""


def audit_checkpoints(look: Look) -> Iterator[Finding]:
    target = look.settings.audit_checkpoint_dir
    inside = target is None or Path(target).is_relative_to(look.at.directory)
    yield _judged(
        "audit checkpoints",
        "they lie beside what they vouch for: who replaces one can replace both" if inside else "",
        mend="audit.checkpointDir on another disk or machine, append-only",
        fine=str(target),
    )


def keys(look: Look) -> Iterator[Finding]:
    """By the age of their files: rotating a key makes a new one."""
    for what, path in (("signing key", _newest(look.at.signing)), ("master key", look.at.vault / "keys")):
        if path is None or not path.is_file():
            continue  # it is kept elsewhere
        days = (look.now.timestamp() - path.stat().st_mtime) / 86400
        yield _judged(
            what,
            f"{days:.0f} days old" if days > OLD_KEY else "",
            mend="sfp-server keys rotate" if what == "signing key" else "rotate the vault's key (docs/secrets.md)",
            fine=f"{max(days, 0):.0f} days old",
        )


def _newest(directory: Path) -> Path | None:
    """Of the keys that sign; their names are the times of their making."""
    return max(directory.glob("*.pem"), key=lambda path: path.stat().st_mtime, default=None)


# ------------------------------------------------------------------------------------------- who is let in, and how


def credentials(look: Look) -> Iterator[Finding]:
    """What the database knows of tokens, owners and ways to sign in."""
    if look.facts is None:
        yield Finding(
            what="credentials",
            state="warning",
            detail="the database could not be asked: it is away, or of another release",
            mend=f"sfp-server start -t {look.at.tenant}",
        )
        return
    for what, column, weak, mend in _CREDENTIALS:
        count = int(look.facts[column])
        yield _judged(what, f"{count} {weak}" if count else "", mend=mend, fine="none")


#: (what, column of the facts, what so many of them are, what to do)
_CREDENTIALS = [
    ("long tokens", "long_tokens", f"application tokens live for more than {LONG_TOKEN} days yet", "make shorter ones"),
    ("mighty tokens", "mighty_tokens", "application tokens have every scope", "give each only what it needs"),
    ("roaming tokens", "roaming_tokens", "application tokens work from any address", "name allowed addresses"),
    ("absent owners", "absent_owners", f"owners were not here for {ABSENT} days", "end their membership"),
    (
        "passwords beside SSO",
        "passwords",
        "people may sign in by password although SSO is there",
        "switch passwords off",
    ),
]

CHECKS: list[Callable[[Look], Iterator[Finding]]] = [
    *(user_namespaces, tracing, control_groups, swap, core_dumps, kernel_programs, security_modules, clock),
    *(users, files, plain_secrets, transport, openings, workers, audit_checkpoints, keys, credentials),
]
