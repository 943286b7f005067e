"""What is known of providers: which variables programs read their credentials from, and how git signs in. No I/O."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec

#: entries of credentials that name somebody and hide nothing
OPEN_ENTRIES = frozenset({"username", "user", "email", "url", "host", "organization"})

_VARIABLES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "github": {"token": ("GITHUB_TOKEN", "GH_TOKEN")},
    "gitlab": {"token": ("GITLAB_TOKEN",)},
    "azure-devops": {"token": ("AZURE_DEVOPS_EXT_PAT",)},
    "jira": {"token": ("JIRA_API_TOKEN",), "username": ("JIRA_USERNAME",)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Git:
    """Where a provider's repositories are, and the user name that goes with a token."""

    base: str | None
    user: str


_GIT: Mapping[str, _Git] = {
    "github": _Git(base="https://github.com", user="x-access-token"),
    "gitlab": _Git(base="https://gitlab.com", user="oauth2"),
    "azure-devops": _Git(base="https://dev.azure.com", user="sfp"),
    "bitbucket": _Git(base="https://bitbucket.org", user="x-token-auth"),
    "git": _Git(base=None, user="git"),
}


class Credentials(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is sealed of an integration. What decides where it is sent is sealed with it."""

    auth_type: str
    credentials: dict[str, str]
    config: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class GitLogin:
    """How git signs in for every repository below `base`."""

    base: str
    username: str
    password: str

    @property
    def header(self) -> str:
        """What `http.<base>.extraHeader` is set to."""
        pair = f"{self.username}:{self.password}".encode()
        return f"Authorization: Basic {base64.b64encode(pair).decode()}"

    def covers(self, url: str) -> bool:
        """Whether `url` is below `base`: the same scheme, host and port, and its path."""
        asked, own = urlsplit(url), urlsplit(self.base)
        same = (asked.scheme, (asked.netloc.rpartition("@")[2]).lower()) == (own.scheme, own.netloc.lower())
        return same and f"{asked.path}/".startswith(f"{own.path.rstrip('/')}/")


def variables(provider: str, credentials: Mapping[str, str]) -> dict[str, tuple[str, bool]]:
    """Name of a variable → (value, whether it is to be hidden in output)."""
    named = _VARIABLES.get(provider, {})
    return {
        variable: (value, entry not in OPEN_ENTRIES)
        for entry, value in credentials.items()
        for variable in named.get(entry, (_variable(provider, entry),))
    }


def _variable(provider: str, entry: str) -> str:
    """`bitbucket`, `appPassword` → BITBUCKET_APP_PASSWORD."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", entry)
    return re.sub(r"[^A-Z0-9]", "_", f"{provider}_{words}".upper())


def git_login(provider: str, opened: Credentials) -> GitLogin | None:
    """How git signs in with it; None: git has nothing to do with this provider, or nobody said where."""
    known = _GIT.get(provider)
    base = opened.config.get("url") or (known.base if known else None)
    entries = opened.credentials
    password = entries.get("token") or entries.get("password")
    if known is None or not base or not password:
        return None
    return GitLogin(base=str(base).rstrip("/"), username=entries.get("username") or known.user, password=password)


def provider_of(url: str) -> str | None:
    """Which provider's repositories a URL is one of, by the host."""
    host = (urlsplit(url).hostname or "").lower()
    for name, git in _GIT.items():
        own = urlsplit(git.base).hostname if git.base else None
        if own and (host == own or host.endswith(f".{own}")):
            return name
    return None
