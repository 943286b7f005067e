"""SDK and command line of sfp server: a client of the public API, nothing of the server inside.

    from sfp_client import Client

    with Client("https://sfp.example", token) as client:
        submitted = client.tasks.submit("command", {"argv": ["git", "--version"]})
        print(client.tasks.wait(submitted["operationId"])["result"])

Start with `client.py`. `live.py` follows a channel without gap or double, `renewal.py` keeps a sign-in alive,
`cli/` is the command line. Answers are plain JSON objects, typed in `shapes.py`; errors are in `errors.py`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sfp_client.client import Client
    from sfp_client.errors import ApiError, ClientError, NotAllowed, NotFound, NotSignedIn, TimedOut, Unreachable
    from sfp_client.live import Event

__all__ = [
    "ApiError",
    "Client",
    "ClientError",
    "Event",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "TimedOut",
    "Unreachable",
]


def __getattr__(name: str) -> Any:  # whatever the package exports
    """Import on first use: the command line starts in this package and must start fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    home = {"Client": "client", "Event": "live"}.get(name, "errors")
    return getattr(importlib.import_module(f"sfp_client.{home}"), name)
