"""Pages that a link may lead to through a sign-in (`/auth/continue`): known actions only, each with its own parameters.

What comes out is always a path of this server, built here; nothing of the link is a URL.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode

from sfp_server.errors import FieldError, Malformed

API = "/sfp/api"
_MAX = 2000
#: names of orgs, repositories and environments: no control characters, nothing that is longer than such a name
_NAME = re.compile(r"[\w@.+/: -]{1,200}")


def destination(action: str, params: str) -> str:
    """The path to go on to. Raises Malformed: an unknown action, or parameters that it does not take."""
    build = _ACTIONS.get(action)
    if build is None:
        raise _wrong("action", "is unknown")
    return build(_parsed(params))


def _parsed(params: str) -> dict[str, str]:
    """A JSON object of texts, or a query string. Raises Malformed."""
    if len(params) > _MAX:
        raise _wrong("params", "is too long")
    if not params.startswith("{"):
        try:
            pairs = parse_qsl(params, keep_blank_values=True, max_num_fields=20)
        except ValueError as error:
            raise _wrong("params", "has too many fields") from error
        if len(dict(pairs)) != len(pairs):
            raise _wrong("params", "names something twice")
        return dict(pairs)
    try:
        parsed: Any = json.loads(params)
    except (ValueError, RecursionError) as error:
        raise _wrong("params", "is neither a JSON object nor a query") from error
    if not isinstance(parsed, dict):
        raise _wrong("params", "is neither a JSON object nor a query")
    values = cast("dict[str, Any]", parsed)  # JSON objects have text keys
    if not all(isinstance(value, str) for value in values.values()):
        raise _wrong("params", "takes texts only")
    return values


def _frontdoor(values: Mapping[str, str]) -> str:
    """Open a Salesforce org: which environment of which repository, or which production org."""
    allowed = {"target", "repository", "prodOrg"}
    wrong = [name for name, value in values.items() if name not in allowed or _NAME.fullmatch(value) is None]
    if wrong or not ("target" in values or "prodOrg" in values):
        raise _wrong("params", "must be target or prodOrg, and repository where it is needed")
    return f"{API}/auth/salesforce/frontdoor?{urlencode({**values, 'redirect': 'true'})}"


def _wrong(path: str, message: str) -> Malformed:
    return Malformed(f"{path} {message}", errors=(FieldError(path=path, message=message),))


_ACTIONS: Mapping[str, Callable[[Mapping[str, str]], str]] = {"frontdoorUrl": _frontdoor}
