"""Clones a repository into the workspace, in a step that reaches its host only.

`init` + `fetch <ref>` + `checkout` serves branches, tags and commits alike; a server that does not
hand out single commits is asked for everything.
"""

from __future__ import annotations

from sfp_worker import spawn
from sfp_worker.failure import Failed
from sfp_worker.place import Place

TYPE_CHECKING = False  # typing costs more to import than all of this package
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    #: runs one command (argv, env) to its end; what it says becomes log lines
    RunGit = Callable[[Sequence[str], Mapping[str, str]], "Ran"]

SCHEMES = ("https://", "http://", "git://")

#: git, with nothing that a repository or a home directory could turn against us
BASE = (
    "git",
    "-c", "protocol.allow=never",
    "-c", "protocol.https.allow=always",
    "-c", "protocol.http.allow=always",
    "-c", "protocol.git.allow=always",
    "-c", "credential.helper=",
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "submodule.recurse=false",
    "-c", "gc.auto=0",
    "-c", "init.defaultBranch=main",
    "-c", "advice.detachedHead=false",
)  # fmt: skip


class Ran:
    """How one command ended, and the last of what it said."""

    def __init__(self, code: int, tail: str) -> None:
        self.code = code
        self.tail = tail


def clone(place: Place, source: Mapping[str, Any], run: RunGit, logins: Sequence[tuple[str, str]] = ()) -> None:
    """Fetch and check out what `source` names.

    `logins` are (address, header): the header is sent to repositories below the address, and to nobody else.

    Raises:
        Failed: `workspace`.
    """
    url, ref = str(source["url"]), str(source.get("ref") or "HEAD")
    if not url.startswith(SCHEMES) or any(char.isspace() or char < " " for char in url):
        raise Failed("workspace", "only http, https and git addresses can be cloned")
    if ref.startswith("-") or any(char.isspace() or char in ":^~?*[\\" or char < " " for char in ref):
        raise Failed("workspace", f"not a ref: {ref[:100]!r}")
    command = [*BASE, *_resolved(source), "-C", place.src]
    env = {**_environment(place), **_signed_in(logins)}
    for step in (["init", "-q"], ["remote", "add", "origin", url]):
        if run([*command, *step], env).code != 0:
            raise Failed("workspace", f"git {step[0]} failed")
    found = _fetch([*command, "fetch", "-q", "--no-recurse-submodules"], ref, source.get("depth"), env, run)
    if found is None:
        raise Failed("workspace", f"git could not fetch {ref[:100]!r}")
    if run([*command, "checkout", "-q", "--no-recurse-submodules", found], env).code != 0:
        raise Failed("workspace", f"git could not check out {ref[:100]!r}")


def _fetch(fetch: Sequence[str], ref: str, depth: int | None, env: Mapping[str, str], run: RunGit) -> str | None:
    """Fetch `ref`; what to check out then, or None when it cannot be had."""
    attempt = run([*fetch, "--no-tags", *([f"--depth={int(depth)}"] if depth else []), "origin", ref], env)
    if attempt.code == 0:
        return "FETCH_HEAD"
    if depth and "dumb http" in attempt.tail:  # a plain file server knows no shallow fetch
        attempt = run([*fetch, "--no-tags", "origin", ref], env)
        if attempt.code == 0:
            return "FETCH_HEAD"
    if not _is_commit(ref):
        return None
    everything = run([*fetch, "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"], env)
    return ref if everything.code == 0 else None


def _is_commit(ref: str) -> bool:
    return 7 <= len(ref) <= 64 and all(char in "0123456789abcdef" for char in ref.lower())


def _resolved(source: Mapping[str, Any]) -> list[str]:
    """The addresses that the server found, so that no name has to be looked up in here."""
    entries: list[str] = [str(entry) for entry in source.get("resolve") or ()]
    return [part for entry in entries for part in ("-c", f"http.curloptResolve={entry}")]


def _signed_in(logins: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Settings by environment: arguments can be seen by others in a worker without a PID namespace."""
    if not logins:
        return {}
    settings = {"GIT_CONFIG_COUNT": str(len(logins) + 1)}
    # a redirect would take the header along to wherever it leads
    pairs = [("http.followRedirects", "false"), *((f"http.{base}/.extraHeader", header) for base, header in logins)]
    for number, (key, value) in enumerate(pairs):
        settings[f"GIT_CONFIG_KEY_{number}"] = key
        settings[f"GIT_CONFIG_VALUE_{number}"] = value
    return settings


def _environment(place: Place) -> dict[str, str]:
    return {
        "PATH": spawn.DEFAULT_PATH,
        "HOME": place.home,
        "TMPDIR": place.tmp,
        "LANG": "C.UTF-8",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ASKPASS": "/bin/false",
        "GIT_PROTOCOL_FROM_USER": "0",
    }
