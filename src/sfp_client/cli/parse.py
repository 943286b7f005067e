"""Reads what options say: JSON, files, pairs, credentials. A wrong one is a usage error that names the option."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from sfp_client.cli.output import USAGE, Failure

#: a name that can be a variable of the environment
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: what comes before the path (scheme and host, or host and colon), the path, and the reference
_WITH_REF = re.compile(r"((?:\w+://[^/]*/|[^/:]*:(?!//)).+)@([^@]+)")


def wrong(option: str, message: str) -> Failure:
    return Failure(f"{option}: {message}", code=USAGE)


def data(text: str | None) -> dict[str, Any]:
    """`--data`: a JSON object, `@file` or `@-` for stdin."""
    if text is None:
        return {}
    if text.startswith("@"):
        text = _content(text[1:])
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong("--data", f"this is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise wrong("--data", 'must be a JSON object, as in {"argv":["true"]}')
    return cast("dict[str, Any]", found)


def _content(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise wrong("--data", f"{name} cannot be read: {error}") from error


def pairs(option: str, items: Sequence[str] | None) -> dict[str, str]:
    """`NAME=value`, repeated."""
    found: dict[str, str] = {}
    for item in items or ():
        name, equals, value = item.partition("=")
        if not name or not equals:
            raise wrong(option, f"must be NAME=VALUE, not '{item}'")
        found[name] = value
    return found


def credentials(items: Sequence[str] | None) -> list[dict[str, Any]]:
    """`secret:NAME[=ENV]`, `salesforce:USERNAME[=ALIAS]`, `integration:PROVIDER[=PROJECT]`, repeated."""
    return [_credential(item) for item in items or ()]


def _credential(item: str) -> dict[str, Any]:
    kind, _, rest = item.partition(":")
    name, _, other = rest.partition("=")
    fields = {"secret": ("name", "env"), "salesforce": ("org", "alias"), "integration": ("provider", "project")}
    if kind not in fields or not name:
        raise wrong("--credential", f"must be secret:NAME[=VARIABLE] (or salesforce:…, integration:…), not '{item}'")
    if kind == "secret":
        return secret(rest, option="--credential")
    first, second = fields[kind]
    return {"type": kind, first: name, **({second: other} if other else {})}


def secret(item: str, *, option: str = "--secret") -> dict[str, Any]:
    """`NAME[=VARIABLE]`: which secret, and the variable that the task finds it in (default: its name)."""
    name, _, variable = item.partition("=")
    variable = variable or name
    if _VARIABLE.fullmatch(variable) is None:
        raise wrong(option, f"'{variable}' cannot be a variable: name one, as in {name}=MY_VARIABLE")
    return {"type": "secret", "name": name, "env": variable}


def git(text: str) -> dict[str, Any]:
    """`URL[@REF]`; an @ before the path, as in git@host:path or https://user@host/path, belongs to the URL."""
    with_ref = _WITH_REF.fullmatch(text)
    return {"url": text} if with_ref is None else {"url": with_ref[1], "ref": with_ref[2]}


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(option: str, text: str) -> float:
    """`90`, `90s`, `5m`, `2h`, `1d` in seconds."""
    number, unit = (text[:-1], text[-1]) if text and text[-1] in _UNITS else (text, "s")
    try:
        found = float(number) * _UNITS[unit]
    except ValueError as error:
        raise wrong(option, f"must be a number with s, m, h or d, as in 5m, not '{text}'") from error
    if not 1 <= found < float("inf"):
        raise wrong(option, "must be at least one second")
    return found


def recurrence(
    *, cron: str | None, every: str | None, timezone: str | None, schedule: str | None = None, **more: str | int | None
) -> dict[str, Any] | None:
    """`recurrenceConfig` of a series, with `more` of its fields; None for a task that runs once."""
    given = {name: value for name, value in more.items() if value is not None}
    if given and cron is None and every is None:
        raise wrong("--overlap, --missed, --max-runs", "go with --cron or --every")
    if sum(option is not None for option in (cron, every, schedule)) > 1:
        raise wrong("--schedule, --cron, --every", "only one of them can be given")
    if timezone is not None and cron is None:
        raise wrong("--timezone", "goes with --cron")
    if cron is not None:
        return {"cron": cron, **({"timezone": timezone} if timezone else {}), **given}
    return {"intervalSeconds": seconds("--every", every), **given} if every is not None else None
