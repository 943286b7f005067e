"""From flags, environment and `--config-file` to config.json, and back to Settings.

config.json holds our own keys only and no secret: a URL that carries a password is kept there without it,
and whole in `secrets/`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from sfp_server.instance.place import Place, write_json
from sfp_server.instance.problem import InstanceError
from sfp_server.settings import Settings, SettingsError, flatten

#: `init` takes these from the environment, once; later they are read from the instance's own directory
TAKEN_AT_INIT = {"DATABASE_URL": ("database.url", "database-url"), "VALKEY_URL": ("cache.url", "cache-url")}
#: the shared secret of Supabase Auth: config.json names the file in `secrets/` that holds it
SUPABASE_KEY, SUPABASE_SECRET = "auth.supabaseJwtSecret", "supabase-jwt-secret"
QUEUES = ("critical", "normal", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What `init` was asked for: flat settings (`{"database.url": …}`) and the secrets among them."""

    values: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict[str, str])


def wanted(flags: Mapping[str, Any], config_file: Path | None, environ: Mapping[str, str]) -> Wanted:
    """Flags before environment before file. Raises InstanceError for a file that cannot be read or understood."""
    values, secrets = _read_config_file(config_file) if config_file else ({}, {})
    for variable, (key, _secret) in TAKEN_AT_INIT.items():
        if environ.get(variable):
            values[key] = environ[variable]
    values.update({key: value for key, value in flags.items() if value is not None})
    for key, secret in TAKEN_AT_INIT.values():
        url = values.get(key)
        if isinstance(url, str):
            values[key], whole = _without_password(url), url
            if whole != values[key]:
                secrets[secret] = whole
    shared = values.get(SUPABASE_KEY)
    if isinstance(shared, str) and shared != SUPABASE_SECRET:
        values[SUPABASE_KEY], secrets[SUPABASE_SECRET] = SUPABASE_SECRET, shared
    return Wanted(values=values, secrets=secrets)


def save(at: Place, values: Mapping[str, Any]) -> None:
    """Write config.json: flat keys become nested objects."""
    document: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        branch = document
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    write_json(at.config, document)


def saved(at: Place) -> dict[str, Any]:
    """config.json, flat. Raises InstanceError."""
    try:
        return dict(flatten(json.loads(at.config.read_text())))
    except (OSError, ValueError, AttributeError) as error:
        raise InstanceError(f"{at.config} cannot be read: {error}; correct it or restore it") from error


def settings(at: Place, environ: Mapping[str, str]) -> Settings:
    """The instance's settings as the operator's environment overlays them. Raises InstanceError."""
    _check_databases(at, environ)
    kept = {name: value for name, value in environ.items() if name not in (*TAKEN_AT_INIT, "SFP_TENANT")}
    try:
        return Settings.load(at.directory, kept)
    except SettingsError as error:
        staged = at.directory.name.startswith(".")  # `init` is still at it: the file goes away with the failure
        place = "the options, --config-file" if staged else at.config
        raise InstanceError(f"{error}: correct {place} (or the environment) and try again") from error


def _check_databases(at: Place, environ: Mapping[str, str]) -> None:
    """An instance does not change its database because a shell happens to name another one."""
    known = saved(at)
    for variable, (key, _secret) in TAKEN_AT_INIT.items():
        url = environ.get(variable)
        if url and _without_password(url) != known.get(key):
            raise InstanceError(
                f"{variable} is set, but this instance was made with another server ({key} in {at.config}): "
                f"unset {variable}, or make an instance for it with `init`"
            )


def known_keys() -> set[str]:
    return {item.metadata["key"] for item in fields(Settings) if item.metadata}


def _read_config_file(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Our own JSON, or the older form with `workerCounts` as an object and `secrets` by name."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InstanceError(f"the configuration file {path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise InstanceError(f"the configuration file {path} must hold a JSON object")
    values = cast("dict[str, Any]", document)  # JSON objects have text keys
    ours, older = _parted(values.pop("secrets", {}))
    secrets = _older_secrets(older)
    if ours:
        values["secrets"] = ours
    counts = values.get("workerCounts")
    if isinstance(counts, dict):
        by_queue = cast("dict[str, Any]", counts)
        values["workerCounts"] = ",".join(str(by_queue.get(queue, 1)) for queue in QUEUES)
    flat = dict(flatten(values))
    unknown = sorted(set(flat) - known_keys())
    if unknown:
        raise InstanceError(f"the configuration file {path} has an unknown key: {', '.join(unknown)}")
    return flat, secrets


def _parted(given: Any) -> tuple[dict[str, Any], Any]:  # parsed JSON of somebody's file
    """`secrets` holds settings of ours (`secrets.masterKey.source`), and in the older form texts by name."""
    if not isinstance(given, dict):
        return {}, given
    entries = cast("dict[str, Any]", given)  # JSON objects have text keys
    known = known_keys()
    ours = {name for name in entries if any(f"{key}.".startswith(f"secrets.{name}.") for key in known)}
    parts = [{name: value for name, value in entries.items() if (name in ours) is mine} for mine in (True, False)]
    return parts[0], parts[1]


def _older_secrets(given: Any) -> dict[str, str]:  # parsed JSON of somebody else's file
    """Names become file names in `secrets/`; what the services use themselves cannot be set this way."""
    if not isinstance(given, dict):
        raise InstanceError('"secrets" in the configuration file must be an object: name → text')
    found: dict[str, str] = {}
    for name, value in cast("dict[str, Any]", given).items():
        if not isinstance(value, str) or not name.replace("-", "").replace("_", "").isalnum():
            raise InstanceError(f'the secret "{name}" in the configuration file must be a plain name and a text')
        found[f"imported-{name}"] = value
    return found


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2]))
