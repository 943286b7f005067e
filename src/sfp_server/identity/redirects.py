"""Where a sign-in may send a browser afterwards: never anywhere that a stranger's link names."""

import re
from collections.abc import Set as AbstractSet
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from sfp_server.errors import FieldError, Malformed

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
#: no spaces, control characters, backslashes, or letters that some browser would turn into one of those
_PLAIN = re.compile(r"[!#-\[\]_a-z~\x7b-\x7d]{1,2000}")
_PATH = re.compile(r"/(?!/)[!$&-;=@-\[\]_a-z~%?]{0,1900}")
#: parameters that are ours to set
_OURS = {"code", "state", "error", "error_description", "iss"}


def check_redirect(url: str, *, origin: str, allowed: AbstractSet[str]) -> str:
    """`url` when a code may be sent there: loopback by any port (RFC 8252), our own pages, or a URL of `allowed`.

    Raises Malformed.
    """
    if url in allowed or _is_loopback(url) or (url.startswith(f"{origin}/") and is_own_path(url[len(origin) :])):
        return url
    message = "must be http://127.0.0.1:<port>/…, a page of this server, or listed in auth.redirectAllow"
    raise Malformed(f"redirect_to {message}", errors=(FieldError(path="redirect_to", message=message),))


def is_own_path(text: str) -> bool:
    """Whether `text` is a path of this server and nothing else to any browser: never `//…` or with a backslash."""
    return _PATH.fullmatch(text) is not None and not _sets_ours(text)


def with_parameters(url: str, **parameters: str | None) -> str:
    """`url` with these parameters added; None: left out."""
    parts = urlsplit(url)
    added = urlencode({name: value for name, value in parameters.items() if value is not None})
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added))


def origin_of(url: str) -> str:
    """`scheme://host[:port]`, as a content policy names it."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _is_loopback(url: str) -> bool:
    if _PLAIN.fullmatch(url) is None:
        return False
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    authority = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    exact = parts.netloc == (authority if port is None else f"{authority}:{port}")  # no user, no odd spelling
    fine = parts.scheme == "http" and url.startswith("http://") and parts.hostname in _LOOPBACK and "#" not in url
    return fine and exact and not _sets_ours(url)


def _sets_ours(url: str) -> bool:
    return any(name in _OURS for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True))
