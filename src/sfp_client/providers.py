"""Identity providers of the instance; for owners of its first team."""

from typing import Any, cast
from urllib.parse import quote

from sfp_client.transport import Transport


class Providers:
    """Through whom people sign in."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(self, provider_id: str, **fields: Any) -> dict[str, Any]:
        """Make it, or make the one of this name like this; repeating is safe.

        Fields as in the API: `issuer` or `kind="github"`, `clientId`, `clientSecret`, `domains`, `createUsers`, … The
        answer holds the `redirectUri` that the provider must be told, and never the secret.
        """
        return self._transport.json("POST", "/sso/providers", body={"providerId": provider_id, **fields})

    def list(self) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self._transport.json("GET", "/sso/providers")["items"])

    def remove(self, provider_id: str) -> None:
        """Its links to users go with it. Twice is fine."""
        self._transport.json("DELETE", f"/sso/providers/{quote(provider_id, safe='')}")
