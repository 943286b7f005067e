"""The header fields that every answer carries, whoever gives it: the one list of them.

The API says nothing that a browser should run, frame, keep or embed, so everything is closed; a page brings a
`content-security-policy` of its own. HSTS is the edge's word (`instance/templates.py`): TLS ends there.
"""

from sfp_server.web.asgi import Scope

#: on every answer
ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_NOT_STORED = (b"cache-control", b"no-store")
#: on every answer that does not say it otherwise
DEFAULTS = [(b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"), _NOT_STORED]
#: what would tell a stranger which programs answer
_TELLTALE = {b"server", b"via", b"x-powered-by"}
_CREDENTIALS = {b"authorization", b"cookie"}

_Headers = list[tuple[bytes, bytes]]


def secured(headers: _Headers, sent: _Headers) -> _Headers:
    """An answer's own fields, completed: what it says about itself stays, but nobody stores what credentials opened.

    Args:
        headers: of the answer.
        sent: of the request.
    """
    private = any(name.lower() in _CREDENTIALS for name, _ in sent) or _has(headers, b"set-cookie")
    dropped = _TELLTALE | {name for name, _ in ALWAYS}
    if private:
        dropped.add(_NOT_STORED[0])
    kept = [(name, value) for name, value in headers if name.lower() not in dropped]
    defaults = [field for field in DEFAULTS if not _has(kept, field[0])]
    return kept + ALWAYS + defaults


def as_text(headers: _Headers) -> bytes:
    """For answers that are given below HTTP's usual machinery: one line per field."""
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)


def sent_value(scope: Scope, name: bytes) -> str:
    """The first field of this name that the client sent; empty when there is none."""
    return next((value.decode("latin-1").strip() for key, value in scope["headers"] if key == name), "")


def _has(headers: _Headers, name: bytes) -> bool:
    return any(key.lower() == name for key, _ in headers)
