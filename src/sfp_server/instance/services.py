"""Which programs make up an instance, with which arguments, environment and rights.

`services(place, settings)` is the one list; supervisor.conf and services.json are written from it.
"""

import os
import sys
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from sfp_server.instance import binaries
from sfp_server.instance.keys import KEY_VARIABLES
from sfp_server.instance.place import Place
from sfp_server.settings import Settings

#: services that can do without root, in the order of their users' numbers: new ones go to the end
OWN_USERS = ["postgres", "cache", "caddy", "api", "broker", "deliverer", "courier", "auditor"]
#: numbers from 1,900,000,000 on are nobody's: above containers', below the sign bit
FIRST_USER, BLOCK, BLOCKS = 1_900_000_000, 16, 1_000_000
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: marks our processes, so that `start` after a crash of supervisord finds exactly them
MARK = "SFP_INSTANCE"
#: the dispatcher lets running tasks end for so long, seconds
DRAIN_SECONDS = 30
#: what the broker signs in with where the vault's keys, or values that secrets refer to, are kept elsewhere
_SOURCE_FILES = (
    "vault-token",
    "vault-role-id",
    "vault-secret-id",
    "aws-credentials",
    "infisical-client-id",
    "infisical-client-secret",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One supervised program."""

    name: str
    argv: list[str]
    env: dict[str, str]
    #: as root: the capabilities it keeps; None: all (the dispatcher builds sandboxes)
    capabilities: list[str] | None = field(default_factory=list[str])
    #: the files of `secrets/` that it sees
    secrets: list[str] = field(default_factory=list[str])
    #: directories that are empty to it; none: it sees everything, all secrets too
    hidden: list[str] = field(default_factory=list[str])
    #: variables of the operator's environment that it gets without their being written down
    inherit: list[str] = field(default_factory=list[str])
    #: as root: run in a user namespace in which we are nobody
    unprivileged_user: bool = False
    #: as root: the number of a user of its own, where the machine can do that; None: stay root
    user: int | None = None
    #: what that user must be able to read outside of the instance's directory
    reach: list[str] = field(default_factory=list[str])
    #: where it writes outside of the instance's directory
    writes: list[str] = field(default_factory=list[str])
    #: when memory is short the kernel ends the highest first; tasks have 0
    oom_score: int = -200
    stop_signal: str = "TERM"
    stop_seconds: int = 10
    processes: int = 1
    #: supervisord starts low numbers first and stops high numbers first
    priority: int = 500

    def launch(self) -> dict[str, object]:
        """What launch.py needs to know."""
        known = asdict(self)
        names = ("argv", "env", "capabilities", "unprivileged_user", "secrets", "hidden", "user", "oom_score")
        return {name: known[name] for name in (*names, "reach", "writes", "inherit")}


def services(at: Place, settings: Settings, environ: Mapping[str, str]) -> list[Service]:
    """Everything that `start` runs; `environ` is the operator's, from which only our own settings are taken."""
    base = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": str(at.directory), MARK: str(at.directory)}
    found: list[Service] = []
    if settings.database_url is None:
        found.append(_postgres(at, settings, base))
    if settings.cache_url is None:
        found.append(_valkey(at, settings, base))
    found += _ours(at, settings, {**base, **operator_settings(environ)})
    if settings.caddy:
        found.append(_caddy(at, settings, base))
    found.append(_guard(at, settings, {**base, **operator_settings(environ)}))
    return [as_own_user(at, service, _reach(settings)) for service in found]


def as_own_user(at: Place, service: Service, reach: list[str]) -> Service:
    """With a user's number of its own, unless it needs root; the same at every start, another for every instance.

    The numbers lie where neither accounts, containers nor services of the system have theirs.
    """
    if service.capabilities is None or service.name not in OWN_USERS:
        return service
    block = zlib.crc32(os.fsencode(at.directory)) % BLOCKS
    return replace(service, user=FIRST_USER + block * BLOCK + OWN_USERS.index(service.name), reach=reach)


def _reach(settings: Settings) -> list[str]:
    """The programs and libraries that services run, and the files that settings name for them."""
    code = [sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent), str(Path(__file__).parents[2])]
    return list(dict.fromkeys([*code, *([settings.extra_ca_file] if settings.extra_ca_file else [])]))


def operator_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Our settings in the operator's environment. URLs may hold passwords: `init` keeps those as secret files."""
    names = {item.metadata["env"] for item in fields(Settings) if item.metadata}
    return {name: environ[name] for name in sorted(names - {"DATABASE_URL", "VALKEY_URL"}) if environ.get(name)}


def _postgres(at: Place, settings: Settings, base: dict[str, str]) -> Service:
    return Service(
        name="postgres",
        argv=[str(binaries.postgres("postgres")), "-D", str(at.database), "-k", str(at.run / "postgres")],
        # its sessions are worth less than itself: without it every session ends
        env={**base, "PG_OOM_ADJUST_FILE": "/proc/self/oom_score_adj", "PG_OOM_ADJUST_VALUE": "0"},
        oom_score=-600,
        hidden=_others(at, settings, "postgres"),
        unprivileged_user=True,
        stop_signal="INT",  # fast shutdown: sessions are ended, the data is checkpointed
        stop_seconds=30,
        priority=100,
    )


def _valkey(at: Place, settings: Settings, base: dict[str, str]) -> Service:
    argv = [str(binaries.valkey()), str(at.valkey_conf)]
    return Service(
        name="cache",
        argv=argv,
        env=base,
        secrets=[at.valkey_conf.name],
        hidden=_others(at, settings, "cache"),
        priority=200,
    )


def _ours(at: Place, settings: Settings, base: dict[str, str]) -> list[Service]:
    env = {
        **base,
        "TMPDIR": str(at.directory / "tmp"),
        "MALLOC_ARENA_MAX": "2",  # threads share two heaps: a third less memory, nothing measurable in speed
    }

    def process(verb: str) -> list[str]:
        # isolated: neither PYTHONPATH nor the current directory nor user packages can add code
        return [sys.executable, "-I", "-m", "sfp_server.cli", verb, "--directory", str(at.directory)]

    hidden = _others(at, settings, "")
    courier = Service(
        name="courier",
        argv=process("courier"),
        env=env,
        capabilities=["NET_BIND_SERVICE"],
        secrets=["db-sfp_courier", "courier-tls.pem", "network-ca.crt"],
        hidden=hidden,
        priority=400,
    )
    return [
        *([courier] if settings.dispatchers_listen else []),
        Service(
            name="broker",
            argv=process("broker"),
            env=env,
            secrets=["db-sfp_broker", "broker-key", "audit-key", "broker-tls.pem", *_SOURCE_FILES],
            hidden=_others(at, settings, "broker"),
            inherit=list(KEY_VARIABLES) if settings.master_key_source == "environment" else [],
            priority=300,
        ),
        Service(
            name="api",
            argv=process("serve"),
            env=env,
            secrets=[
                "db-sfp_api",
                "valkey",
                "cache-url",
                "answer-key",
                "provider-key",
                "edge-key",
                "provider-key",
                "vault-public",
                "broker-key",
                "audit-key",
                "audit-public.pem",
                "supabase-jwt-secret",
            ],
            hidden=[path for path in hidden if path != str(at.signing)],
            processes=settings.api_processes,
            priority=400,
        ),
        Service(
            name="deliverer",
            argv=process("deliver"),
            env=env,
            secrets=["db-sfp_deliverer", "valkey", "cache-url"],
            hidden=hidden,
            priority=400,
        ),
        Service(
            name="auditor",
            argv=process("audit"),
            env=env,
            secrets=["db-sfp_auditor", "audit-key", "audit-signing.pem", "audit-public.pem"],
            hidden=_others(at, settings, "auditor"),
            writes=[settings.audit_checkpoint_dir] if settings.audit_checkpoint_dir else [],
            priority=250,  # stops after everybody who writes entries
        ),
        Service(
            name="dispatcher",
            argv=process("dispatch"),
            env=env,
            capabilities=None,
            oom_score=0,  # workers inherit it
            secrets=["db-sfp_dispatcher"],
            hidden=hidden,
            stop_seconds=DRAIN_SECONDS + 10,
            priority=900,  # stops first: running tasks end while everything they need is still there
        ),
    ]


def _caddy(at: Place, settings: Settings, base: dict[str, str]) -> Service:
    env = {
        **base,
        "XDG_DATA_HOME": str(at.directory / "caddy"),
        "XDG_CONFIG_HOME": str(at.directory / "caddy"),
        "GOMAXPROCS": "2",
        "GOMEMLIMIT": "96MiB",
    }
    argv = [str(binaries.caddy()), "run", "--config", str(at.directory / "Caddyfile"), "--adapter", "caddyfile"]
    keep = ["NET_BIND_SERVICE"] if settings.port < 1024 or settings.mode == "prod" else []
    return Service(
        name="caddy",
        argv=argv,
        env=env,
        capabilities=keep,
        secrets=["edge-key"],
        hidden=_others(at, settings, "caddy"),
        priority=800,
    )


def _others(at: Place, settings: Settings, mine: str) -> list[str]:
    """Directories that only one service, or nobody but supervisord and the operator, has business with."""
    owners = {
        "postgres": at.database,
        "broker": at.vault,
        "caddy": at.directory / "caddy",
        "auditor": at.directory / "audit",
        "api": at.signing,
        "": at.supervisor_socket.parent,
    }
    hidden = [str(path) for owner, path in owners.items() if owner != mine or not owner]
    if settings.audit_checkpoint_dir and mine != "auditor":
        hidden.append(settings.audit_checkpoint_dir)
    if mine in {"postgres", "cache", "caddy"}:  # what tasks were given and made
        hidden += [str(at.directory / name) for name in ("artifacts", "tmp")]
    return hidden


def _guard(at: Place, settings: Settings, env: dict[str, str]) -> Service:
    """It may have to start the whole instance again, so it keeps what that needs."""
    script = str(Path(__file__).with_name("guard.py"))
    argv = [sys.executable, "-I", "-S", script, str(at.directory), str(settings.port), str(settings.api_port)]
    return Service(name="guard", argv=argv, env=env, capabilities=None, oom_score=-600, priority=999)


def python_environment(at: Place) -> dict[str, str]:
    """For the short-lived helpers that `init` and `start` run themselves (migrate, create-owner, supervisord)."""
    return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": str(at.directory), "PYTHONWARNINGS": "ignore"}


def launcher() -> str:
    return str(Path(__file__).with_name("launch.py"))
