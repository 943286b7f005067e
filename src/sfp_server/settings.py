"""Every setting: one typed, frozen object; each field has a default, a unit and a line of documentation.

Order: environment, then `<instance directory>/config.json`, then the default. Command-line flags are written
to `config.json` by `init`. Unknown keys in `config.json` are refused. Secrets are files in
`<instance directory>/secrets/`, one per file, readable by the owner only; they are read by the process
that needs them, when it starts, and are never part of this object.
"""

import json
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, Union, cast, get_args, get_origin
from urllib.parse import quote, urlsplit, urlunsplit


class SettingsError(Exception):
    """A setting is missing, unknown or malformed. The text says which, and what is expected."""


def _setting(default: Any, key: str, env: str, doc: str) -> Any:
    return field(default=default, metadata={"key": key, "env": env, "doc": doc})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of one instance. Build it with `Settings.load`."""

    #: the instance's own directory (0700): configuration, secrets, data, logs, sockets
    directory: Path

    tenant: str = _setting("default", "tenant", "SFP_TENANT", "name of the organization this instance serves")
    mode: Literal["dev", "prod"] = _setting("dev", "mode", "SFP_MODE", "dev listens on 127.0.0.1 only")
    domain: str = _setting("localhost", "domain", "SFP_DOMAIN", "host name that clients use")
    worker_counts: str = _setting(
        "1,2,1", "workerCounts", "SFP_WORKER_COUNTS", "slots: critical,normal,batch; 0-10 each"
    )
    port: int = _setting(8443, "port", "SFP_PORT", "HTTPS port of the edge")
    api_port: int = _setting(3029, "apiPort", "SFP_API_PORT", "plain-HTTP port of the API, loopback only")
    auto_ports: bool = _setting(
        False,
        "autoPorts",
        "SFP_AUTO_PORTS",
        "true: `init` chose the ports; `start` may choose others when they are taken",
    )
    auto_api_port: bool = _setting(
        False, "autoApiPort", "SFP_AUTO_API_PORT", "true: `init` chose apiPort (and not port); `start` may change it"
    )
    public_url: str | None = _setting(
        None,
        "publicUrl",
        "SFP_PUBLIC_URL",
        "origin that clients use, as https://sfp.example; unless set, https:// with domain and port",
    )
    caddy: bool = _setting(True, "caddy", "SFP_CADDY", "false: no edge of our own (behind another proxy)")
    api_processes: int = _setting(1, "apiProcesses", "SFP_API_PROCESSES", "API processes behind the edge")

    database_url: str | None = _setting(
        None,
        "database.url",
        "DATABASE_URL",
        "an external PostgreSQL/Supabase instead of the embedded one (role that may create roles)",
    )
    cache_url: str | None = _setting(
        None, "cache.url", "VALKEY_URL", "an external Valkey/Redis instead of the embedded one"
    )
    egress_allow: str = _setting(
        "",
        "egress.allow",
        "SFP_EGRESS_ALLOW",
        "comma list of host, host:port or CIDR that may be reached although private",
    )
    extra_ca_file: str | None = _setting(None, "tls.extraCaFile", "SFP_EXTRA_CA_FILE", "PEM bundle trusted in addition")

    cors_allow_origins: str = _setting(
        "",
        "cors.allowOrigins",
        "SFP_CORS_ALLOW_ORIGINS",
        "comma list of exact origins (https://console.example) whose pages may call the API; no patterns",
    )

    access_token_minutes: int = _setting(
        60,
        "auth.accessTokenMinutes",
        "SFP_AUTH_ACCESS_TOKEN_MINUTES",
        "life of a user token, minutes, the expiry buffer included",
    )
    expiry_buffer_seconds: int = _setting(
        300,
        "auth.expiryBufferSeconds",
        "SFP_AUTH_EXPIRY_BUFFER_SECONDS",
        "seconds before `exp` from which a token opens nothing",
    )
    refresh_token_days: int = _setting(
        30, "auth.refreshTokenDays", "SFP_AUTH_REFRESH_TOKEN_DAYS", "life of an unused refresh token, days"
    )

    password_login: Literal["auto", "everyone", "owners", "off"] = _setting(
        "auto",
        "auth.passwordLogin",
        "SFP_AUTH_PASSWORD_LOGIN",
        "who may sign in with a password; auto: owners only once an identity provider is enabled, everyone before",
    )
    redirect_allow: str = _setting(
        "",
        "auth.redirectAllow",
        "SFP_AUTH_REDIRECT_ALLOW",
        "comma list of URLs, compared whole, that sign-ins may come back to beside loopback and this server's pages",
    )
    auth_issuer: str | None = _setting(
        None,
        "auth.issuer",
        "SFP_AUTH_ISSUER",
        "`iss` of user tokens of another service that open the API, as https://PROJECT.supabase.co/auth/v1",
    )
    auth_audience: str = _setting(
        "authenticated", "auth.audience", "SFP_AUTH_AUDIENCE", "`aud` that such tokens must have"
    )
    supabase_jwt_secret: Literal["supabase-jwt-secret"] | None = _setting(
        None,
        "auth.supabaseJwtSecret",
        "SFP_AUTH_SUPABASE_JWT_SECRET_FILE",
        "such tokens are HS256: the file in secrets/ with their secret (`init --config-file` puts it there)",
    )
    auth_jwks_url: str | None = _setting(
        None, "auth.jwksUrl", "SFP_AUTH_JWKS_URL", "such tokens are signed with one of the keys at this URL"
    )
    auth_jwks_algorithm: Literal["ES256", "RS256"] = _setting(
        "ES256", "auth.jwksAlgorithm", "SFP_AUTH_JWKS_ALGORITHM", "the algorithm of auth.jwksUrl; no token chooses it"
    )
    auth_trust_email: bool = _setting(
        False,
        "auth.trustEmail",
        "SFP_AUTH_TRUST_EMAIL",
        "true: auth.issuer confirms e-mail addresses, so a user whose id is another one is found by address",
    )

    actor_rate_limit: int = _setting(
        30_000,
        "api.actorRateLimit",
        "SFP_API_ACTOR_RATE_LIMIT",
        "requests of one user or application, per minute; 0: unlimited",
    )
    address_rate_limit: int = _setting(
        60_000,
        "api.addressRateLimit",
        "SFP_API_ADDRESS_RATE_LIMIT",
        "requests of one address, per minute; 0: unlimited",
    )

    lease_seconds: int = _setting(
        10, "tasks.leaseSeconds", "SFP_TASKS_LEASE_SECONDS", "an attempt not renewed for so long is lost"
    )
    grace_seconds: int = _setting(
        10, "tasks.graceSeconds", "SFP_TASKS_GRACE_SECONDS", "seconds between SIGTERM and SIGKILL"
    )
    default_timeout_seconds: int = _setting(
        3600,
        "tasks.defaultTimeoutSeconds",
        "SFP_TASKS_DEFAULT_TIMEOUT_SECONDS",
        "of a task that names none, seconds",
    )
    team_active_max: int = _setting(
        0,
        "tasks.teamActiveMax",
        "SFP_TASKS_TEAM_ACTIVE_MAX",
        "tasks that one team may have running at once, 0: any number",
    )
    team_pending_max: int = _setting(
        0, "tasks.teamPendingMax", "SFP_TASKS_TEAM_PENDING_MAX", "tasks that one team may have waiting, 0: any number"
    )
    preemptions_max: int = _setting(
        3,
        "tasks.preemptionsMax",
        "SFP_TASKS_PREEMPTIONS_MAX",
        "how often one batch task makes room for more urgent work",
    )
    retention_days: int = _setting(
        90, "tasks.retentionDays", "SFP_TASKS_RETENTION_DAYS", "finished tasks, and uploads, are kept so long, days"
    )

    worker_memory_mb: int = _setting(2048, "worker.memoryMb", "SFP_WORKER_MEMORY_MB", "memory of one worker, MiB")
    worker_processes: int = _setting(
        256, "worker.processes", "SFP_WORKER_PROCESSES", "processes and threads of one worker"
    )
    worker_disk_mb: int = _setting(1024, "worker.diskMb", "SFP_WORKER_DISK_MB", "workspace of one worker (tmpfs), MiB")
    worker_cpu_seconds: int | None = _setting(
        None, "worker.cpuSeconds", "SFP_WORKER_CPU_SECONDS", "CPU time of one process, seconds"
    )
    worker_output_mb: int = _setting(
        16, "worker.outputMb", "SFP_WORKER_OUTPUT_MB", "log output of one attempt, MiB; more fails it"
    )
    worker_artifact_mb: int = _setting(
        512, "worker.artifactMb", "SFP_WORKER_ARTIFACT_MB", "kept files of one attempt together, MiB"
    )
    worker_runtime: Literal["auto", "sandbox", "process", "container"] = _setting(
        "auto",
        "worker.runtime",
        "SFP_WORKER_RUNTIME",
        "of tasks that name none; auto: sandbox where it works, else process",
    )
    worker_warm: int = _setting(4, "worker.warm", "SFP_WORKER_WARM", "pre-started workers that wait for a task")

    dispatchers_listen: str | None = _setting(
        None,
        "dispatchers.listen",
        "SFP_DISPATCHERS_LISTEN",
        "host:port where dispatchers on other machines reach the instance (TLS); off unless set",
    )
    dispatcher_slots: int | None = _setting(
        None,
        "dispatcher.slots",
        "SFP_DISPATCHER_SLOTS",
        "tasks that this machine runs at once; as many as the queues have slots unless set",
    )
    dispatcher_toolchains: str = _setting(
        "",
        "dispatcher.toolchains",
        "SFP_DISPATCHER_TOOLCHAINS",
        "comma list of name=version: what is installed on this machine for tasks that need it",
    )
    toolchains_directory: str | None = _setting(
        None,
        "dispatcher.toolchainsDirectory",
        "SFP_TOOLCHAINS_DIRECTORY",
        "a folder per toolchain; unless set, the instance's toolchains/ (for root /opt/sfp-server/toolchains)",
    )

    container_engine: str | None = _setting(
        None,
        "worker.container.engine",
        "SFP_WORKER_CONTAINER_ENGINE",
        "unix socket of Docker or Podman; with it tasks may ask for the runtime container",
    )
    container_image: str | None = _setting(
        None,
        "worker.container.image",
        "SFP_WORKER_CONTAINER_IMAGE",
        "image of tasks whose type has none of its own; it needs Python 3.11 or newer, and git for git workspaces",
    )
    container_images: str = _setting(
        "", "worker.container.images", "SFP_WORKER_CONTAINER_IMAGES", "comma list of task-type=image"
    )
    container_pull: bool = _setting(
        False,
        "worker.container.pull",
        "SFP_WORKER_CONTAINER_PULL",
        "true: fetch an image that is not on this machine when a task needs it",
    )
    container_python: str = _setting(
        "python3", "worker.container.python", "SFP_WORKER_CONTAINER_PYTHON", "the interpreter, as the images know it"
    )
    container_mounts: str = _setting(
        "",
        "worker.container.mounts",
        "SFP_WORKER_CONTAINER_MOUNTS",
        "comma list of directories of this machine that containers see read-only, at the same place",
    )
    container_warm: int = _setting(
        0,
        "worker.container.warm",
        "SFP_WORKER_CONTAINER_WARM",
        "pre-started containers of worker.container.image that wait for a task",
    )

    master_key_source: Literal["file", "environment", "vault", "aws", "infisical"] = _setting(
        "file",
        "secrets.masterKey.source",
        "SFP_SECRETS_MASTER_KEY_SOURCE",
        "where the private keys of the secrets' vault are: its own directory, or vault (HashiCorp), aws, infisical",
    )
    master_key_path: str = _setting(
        "sfp-server/master-keys",
        "secrets.masterKey.path",
        "SFP_SECRETS_MASTER_KEY_PATH",
        "their name at vault, aws or infisical; one per instance",
    )
    references: str = _setting(
        "",
        "secrets.references",
        "SFP_SECRETS_REFERENCES",
        "comma list of source=prefix that secrets may refer below; {team} is the slug, as in vault=sfp/{team}/",
    )
    vault_url: str | None = _setting(
        None,
        "secrets.vault.url",
        "SFP_SECRETS_VAULT_URL",
        "HashiCorp Vault; secret files vault-token, or vault-role-id",
    )
    vault_mount: str = _setting("secret", "secrets.vault.mount", "SFP_SECRETS_VAULT_MOUNT", "its KV version 2 engine")
    vault_namespace: str | None = _setting(
        None, "secrets.vault.namespace", "SFP_SECRETS_VAULT_NAMESPACE", "its namespace, where it has any"
    )
    aws_region: str | None = _setting(
        None, "secrets.aws.region", "SFP_SECRETS_AWS_REGION", "of AWS Secrets Manager; secret file aws-credentials"
    )
    aws_endpoint: str | None = _setting(
        None, "secrets.aws.endpoint", "SFP_SECRETS_AWS_ENDPOINT", "another address of it than the region's own"
    )
    infisical_url: str = _setting(
        "https://app.infisical.com",
        "secrets.infisical.url",
        "SFP_SECRETS_INFISICAL_URL",
        "Infisical; secret files infisical-client-id and infisical-client-secret",
    )
    infisical_project: str | None = _setting(
        None, "secrets.infisical.project", "SFP_SECRETS_INFISICAL_PROJECT", "id of its project"
    )
    infisical_environment: str = _setting(
        "prod", "secrets.infisical.environment", "SFP_SECRETS_INFISICAL_ENVIRONMENT", "slug of its environment"
    )

    upload_max_mb: int = _setting(1024, "artifacts.maxMb", "SFP_ARTIFACTS_MAX_MB", "largest upload, MiB")
    logs_retention_days: int = _setting(
        30, "logs.retentionDays", "SFP_LOGS_RETENTION_DAYS", "task logs and service logs, days"
    )
    audit_checkpoint_dir: str | None = _setting(
        None,
        "audit.checkpointDir",
        "SFP_AUDIT_CHECKPOINT_DIR",
        "where signed checkpoints of the audit trail are appended, a file a month; unless set, the instance's audit/",
    )
    audit_checkpoint_seconds: int = _setting(
        15,
        "audit.checkpointSeconds",
        "SFP_AUDIT_CHECKPOINT_SECONDS",
        "at least so long between two checkpoints, seconds; none while nothing happens",
    )
    audit_checkpoint_months: int = _setting(
        0, "audit.checkpointMonths", "SFP_AUDIT_CHECKPOINT_MONTHS", "files of so many months are kept; 0: all"
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "logs.level", "SFP_LOG_LEVEL", "of the services' own logs"
    )

    def __post_init__(self) -> None:
        self.slots()
        self.images()
        self.toolchains()
        self.listen_address()
        self._check_public_url()
        self.allowed_origins()
        if self.dispatcher_slots is not None and not 0 <= self.dispatcher_slots <= 1000:
            raise SettingsError("dispatcher.slots must be between 0 and 1000")
        if self.worker_runtime == "container" and self.container_engine is None:
            raise SettingsError("worker.runtime container needs worker.container.engine")
        if any(not path.startswith("/") for path in _listed(self.container_mounts)):
            raise SettingsError("worker.container.mounts must be absolute paths")
        for name in ("port", "api_port"):
            if not 0 < getattr(self, name) < 65536:
                raise SettingsError(f"{name} must be between 1 and 65535")
        if self.access_token_minutes * 60 <= self.expiry_buffer_seconds:
            raise SettingsError("auth.accessTokenMinutes must be longer than auth.expiryBufferSeconds")
        if self.audit_checkpoint_dir is not None and not self.audit_checkpoint_dir.startswith("/"):
            raise SettingsError("audit.checkpointDir must be an absolute path")
        if (self.auth_issuer is None) != (self.supabase_jwt_secret is None and self.auth_jwks_url is None):
            raise SettingsError("auth.issuer needs auth.supabaseJwtSecret or auth.jwksUrl, and they need it")
        if self.supabase_jwt_secret is not None and self.auth_jwks_url is not None:
            raise SettingsError("auth.supabaseJwtSecret and auth.jwksUrl exclude each other")
        if self.lease_seconds < 3:
            raise SettingsError("tasks.leaseSeconds must be at least 3")

    @classmethod
    def load(cls, directory: Path, environ: Mapping[str, str]) -> Self:
        """Read `config.json` of `directory`, overlaid by `environ`. Raises SettingsError."""
        known = {setting.metadata["key"]: setting for setting in fields(cls) if setting.metadata}
        values = dict(_from_file(directory / "config.json", known))
        for setting in known.values():
            text = environ.get(setting.metadata["env"])
            if text:
                values[setting.name] = _parse(setting, text)
        return cls(directory=directory, **values)

    def slots(self) -> dict[str, int]:
        """Slots per queue. Raises SettingsError unless workerCounts is `c,n,b` with numbers from 0 to 10."""
        parts = self.worker_counts.split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() and int(part) <= 10 for part in parts):
            raise SettingsError("workerCounts must be three numbers from 0 to 10: critical,normal,batch, as in 1,2,1")
        return dict(zip(("critical", "normal", "batch"), map(int, parts), strict=True))

    def images(self) -> dict[str, str]:
        """Container image by task type. Raises SettingsError unless container_images is `type=image,…`."""
        pairs = [entry.partition("=") for entry in _listed(self.container_images)]
        if not all(kind.strip() and image.strip() for kind, _, image in pairs):
            raise SettingsError("worker.container.images must be a list of task-type=image, separated by commas")
        return {kind.strip(): image.strip() for kind, _, image in pairs}

    def toolchains(self) -> dict[str, str]:
        """Version by name of toolchain. Raises SettingsError unless dispatcher_toolchains is `name=version,…`."""
        pairs = [entry.partition("=") for entry in _listed(self.dispatcher_toolchains)]
        if not all(name.strip() and version.strip() for name, _, version in pairs):
            raise SettingsError("dispatcher.toolchains must be a list of name=version, separated by commas")
        return {name.strip(): version.strip() for name, _, version in pairs}

    def reference_sources(self) -> dict[str, tuple[str, ...]]:
        """Prefixes of what secrets may refer to, by source. Raises SettingsError unless `source=prefix,…`."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in _listed(self.references):
            source, _, prefix = entry.partition("=")
            if source not in {"vault", "aws", "infisical"} or not _OF_TEAM.search(prefix):
                raise SettingsError(
                    "secrets.references must be a list of vault|aws|infisical=prefix with {team}/ in it "
                    "(or {team}. {team}_ {team}: — a slug may have a hyphen, so that would end nothing)"
                )
            found[source] = (*found.get(source, ()), prefix)
        return found

    def listen_address(self) -> tuple[str, int] | None:
        """Where the courier listens; None: nowhere. Raises SettingsError unless dispatchers_listen is `host:port`."""
        if self.dispatchers_listen is None:
            return None
        host, colon, port = self.dispatchers_listen.rpartition(":")
        if not colon or not port.isdigit() or not 0 < int(port) < 65536:
            raise SettingsError("dispatchers.listen must look like 0.0.0.0:9443")
        return host.strip("[]"), int(port)

    def _check_public_url(self) -> None:
        if self.public_url is None:
            return
        parts = urlsplit(self.public_url)
        plain = parts.scheme == "http" and parts.hostname in {"localhost", "127.0.0.1", "::1"}
        extra = parts.path.rstrip("/") or parts.query or parts.fragment or parts.username
        if not (parts.scheme == "https" or plain) or not parts.hostname or extra:
            raise SettingsError("publicUrl must look like https://sfp.example, without a path")

    def allowed_origins(self) -> tuple[str, ...]:
        """Origins of pages that may call the API. Raises SettingsError for what is no exact origin."""
        found = tuple(_listed(self.cors_allow_origins))
        for origin in found:
            parts = urlsplit(origin)
            exact = f"{parts.scheme}://{parts.netloc}".lower()
            if (
                parts.scheme not in {"http", "https"}
                or not parts.hostname
                or origin != exact
                or set(origin) & set("*@")
            ):
                raise SettingsError(
                    "cors.allowOrigins must be exact origins as browsers send them, as in https://console.example: "
                    "no *, no path, small letters"
                )
        return found

    def mounts(self) -> tuple[Path, ...]:
        """Directories of this machine that containers see."""
        return tuple(Path(path) for path in _listed(self.container_mounts))

    def secret(self, name: str) -> str:
        """The text of a secret file. Raises SettingsError when it is missing."""
        try:
            return (self.directory / "secrets" / name).read_text().strip()
        except OSError as error:
            raise SettingsError(f"the secret file {name} cannot be read: {error.strerror}") from error

    @property
    def origin(self) -> str:
        """Scheme, host and port that clients use."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        if not self.caddy:
            return f"http://127.0.0.1:{self.api_port}"
        return f"https://{self.domain}" + ("" if self.port == 443 else f":{self.port}")

    def redirects(self) -> frozenset[str]:
        """URLs that sign-ins may come back to, beside loopback and our own pages."""
        return frozenset(_listed(self.redirect_allow))

    @property
    def run_directory(self) -> Path:
        """Where sockets and pid files are. Socket paths are short enough for the kernel (`init` sees to it)."""
        return (self.directory / "run").resolve()

    @property
    def broker_socket(self) -> Path:
        return self.run_directory / "broker.sock"

    @property
    def broker_desk(self) -> Path:
        """Where the API asks the broker."""
        return self.run_directory / "broker-desk.sock"

    @property
    def vault_directory(self) -> Path:
        """The broker's own: where the private keys are, unless their source is another."""
        return self.directory / "vault"

    @property
    def remote_broker_socket(self) -> Path:
        """Where the courier hands workers of other machines through."""
        return self.run_directory / "broker-tls.sock"

    @property
    def auditor_socket(self) -> Path:
        return self.run_directory / "auditor.sock"

    @property
    def checkpoint_directory(self) -> Path:
        """Where the auditor writes how far the audit trail has come."""
        return Path(self.audit_checkpoint_dir) if self.audit_checkpoint_dir else self.directory / "audit"

    def audit_key(self) -> bytes:
        """With which our processes vouch for the audit entries that they write. Raises SettingsError."""
        return self.secret("audit-key").encode()

    def secret_file(self, name: str) -> Path:
        """The file of a secret, for what reads files itself."""
        return self.directory / "secrets" / name

    def role_url(self, role: str) -> str:
        """Connection URL of a database role (`sfp_api`, …): the embedded server, or `database.url` with that role."""
        password = quote(self.secret(f"db-{role}"), safe="")
        if self.database_url is None:
            return f"postgresql://{role}:{password}@/sfp?host={quote(str(self.run_directory / 'postgres'), safe='')}"
        parts = urlsplit(self.database_url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{role}:{password}@{host}"))

    def admin_url(self) -> str:
        """Connection URL for migrations: the embedded server's superuser, or `database.url` as it was given.

        `init` keeps an external URL's password out of config.json: the whole URL is the secret `database-url`.
        """
        if self.database_url is None:
            return self.role_url("postgres")
        return self._whole("database-url", self.database_url)

    def cache_connection_url(self) -> str:
        """URL of Valkey: the embedded one's unix socket with its password, or `cache.url` (secret `cache-url`)."""
        if self.cache_url is not None:
            return self._whole("cache-url", self.cache_url)
        return f"unix://:{quote(self.secret('valkey'), safe='')}@{self.run_directory / 'valkey.sock'}"

    def _whole(self, name: str, url: str) -> str:
        """The secret file's URL where there is one: the same URL with its password."""
        return self.secret(name) if (self.directory / "secrets" / name).is_file() else url


#: a team in a prefix, ended by what no slug has
_OF_TEAM = re.compile(r"\{team\}[/._:]")


def _listed(text: str) -> list[str]:
    return [entry.strip() for entry in text.split(",") if entry.strip()]


def _from_file(path: Path, known: Mapping[str, "Field[Any]"]) -> Iterator[tuple[str, Any]]:
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise SettingsError(f"config.json cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError("config.json must be a JSON object")
    for key, value in flatten(cast("dict[str, Any]", document)):  # JSON objects have text keys
        if key not in known:
            raise SettingsError(f"config.json has an unknown key: {key}")
        yield known[key].name, _check(known[key], value)


def flatten(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"a": {"b": 1}}` → `("a.b", 1)`."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType] (plain JSON)
        else:
            yield f"{prefix}{key}", value


def _allowed(setting: "Field[Any]") -> tuple[Any, ...]:
    kind = setting.type
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def _check(setting: "Field[Any]", value: Any) -> Any:
    for kind in _allowed(setting):
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if isinstance(kind, type) and type(value) is kind:
            return value
    expected = " or ".join(str(getattr(kind, "__name__", kind)) for kind in _allowed(setting))
    raise SettingsError(f"{setting.metadata['key']} must be {expected}: {setting.metadata['doc']}")


def _parse(setting: "Field[Any]", text: str) -> Any:
    kinds = _allowed(setting)
    if bool in kinds and text.lower() in {"true", "false", "1", "0"}:
        return text.lower() in {"true", "1"}
    if int in kinds and text.lstrip("-").isdigit():
        return int(text)
    return _check(setting, text)


def documentation() -> list[tuple[str, str, str, str]]:
    """Rows of (key, environment variable, default, meaning) for docs/configuration.md."""
    return [
        (item.metadata["key"], item.metadata["env"], json.dumps(item.default), item.metadata["doc"])
        for item in fields(Settings)
        if item.metadata
    ]
