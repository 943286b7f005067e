"""Builds the sources that the settings name. Only the broker does."""

import os
from pathlib import Path

from sfp_server.credentials.sources.aws import Access as AwsAccess
from sfp_server.credentials.sources.aws import SecretsManager
from sfp_server.credentials.sources.base import KeySource, ValueSource
from sfp_server.credentials.sources.hashicorp import Access as VaultAccess
from sfp_server.credentials.sources.hashicorp import HashiCorp
from sfp_server.credentials.sources.infisical import Access as InfisicalAccess
from sfp_server.credentials.sources.infisical import Infisical
from sfp_server.credentials.sources.local import EnvironmentSource, FileSource
from sfp_server.outgoing import Outgoing
from sfp_server.settings import Settings, SettingsError

Remote = HashiCorp | SecretsManager | Infisical


def key_source(settings: Settings, outgoing: Outgoing) -> KeySource:
    """Where the ring of private keys is. Raises SettingsError."""
    match settings.master_key_source:
        case "file":
            return FileSource(settings.vault_directory / "keys")
        case "environment":
            return EnvironmentSource(os.environ)
        case name:
            return _REMOTE[name](settings, outgoing)


def value_sources(settings: Settings, outgoing: Outgoing) -> dict[str, ValueSource]:
    """Where secrets may be kept that are only referred to here, by name. Raises SettingsError."""
    return {name: _REMOTE[name](settings, outgoing) for name in settings.reference_sources()}


def _hashicorp(settings: Settings, outgoing: Outgoing) -> HashiCorp:
    access = VaultAccess(
        url=_needed(settings.vault_url, "secrets.vault.url"),
        mount=settings.vault_mount,
        namespace=settings.vault_namespace,
        token=_file(settings, "vault-token"),
        role_id=_file(settings, "vault-role-id"),
        secret_id=_file(settings, "vault-secret-id"),
    )
    if access.token is None and (access.role_id is None or access.secret_id is None):
        raise SettingsError("HashiCorp Vault needs the secret file vault-token, or vault-role-id and vault-secret-id")
    return HashiCorp(outgoing, access, ring_path=settings.master_key_path)


def _aws(settings: Settings, outgoing: Outgoing) -> SecretsManager:
    del outgoing  # botocore makes its own connections, to the endpoint that the operator names
    file = settings.secret_file("aws-credentials")
    access = AwsAccess(
        region=_needed(settings.aws_region, "secrets.aws.region"),
        endpoint=settings.aws_endpoint,
        credentials=file if file.is_file() else None,
        ca_file=settings.extra_ca_file if settings.aws_endpoint else None,
    )
    return SecretsManager(access, ring_path=settings.master_key_path)


def _infisical(settings: Settings, outgoing: Outgoing) -> Infisical:
    access = InfisicalAccess(
        url=settings.infisical_url,
        project=_needed(settings.infisical_project, "secrets.infisical.project"),
        environment=settings.infisical_environment,
        client_id=_needed(_file(settings, "infisical-client-id"), "the secret file infisical-client-id"),
        client_secret=_needed(_file(settings, "infisical-client-secret"), "the secret file infisical-client-secret"),
    )
    return Infisical(outgoing, access, ring_path=settings.master_key_path)


_REMOTE = {"vault": _hashicorp, "aws": _aws, "infisical": _infisical}


def _file(settings: Settings, name: str) -> str | None:
    return settings.secret(name) or None if Path(settings.secret_file(name)).is_file() else None


def _needed(value: str | None, what: str) -> str:
    if not value:
        raise SettingsError(f"the source of secrets that is set needs {what}")
    return value
