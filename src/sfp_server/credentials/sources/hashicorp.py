"""HashiCorp Vault (and OpenBao): KV version 2, and engines that make short-lived credentials.

A path of a reference is one in the KV mount; with a leading `/` it is a path of the API, as in
`/database/creds/readonly`, whose lease is given back when the attempt has ended. We sign in with a token or as an
AppRole; a token that is refused is fetched anew once.
"""

import asyncio
from dataclasses import dataclass
from urllib.parse import quote

from sfp_server.credentials.sources.base import Fetched, SourceError
from sfp_server.credentials.sources.web import Said, ask, entry, texts
from sfp_server.outgoing import Outgoing

_WHO = "HashiCorp Vault"
#: the entry of the KV secret that holds the ring
_RING = "keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where Vault is, and who we are there: a token, or role and secret id of an AppRole."""

    url: str
    mount: str = "secret"
    namespace: str | None = None
    token: str | None = None
    role_id: str | None = None
    secret_id: str | None = None
    role_mount: str = "approle"


class HashiCorp:
    """One Vault, one identity."""

    name = "vault"

    def __init__(self, outgoing: Outgoing, access: Access, *, ring_path: str) -> None:
        self._outgoing = outgoing
        self._access = access
        self._ring_path = ring_path
        self._token = access.token
        self._signing_in = asyncio.Lock()

    async def read(self) -> str | None:
        said = await self._ask("GET", self._kv(self._ring_path))
        if said.status == 404:
            return None
        ring = texts(_inner(_good(said))).get(_RING)
        if ring is None:
            raise SourceError(f"{_WHO} has no entry '{_RING}' in {self._ring_path}")
        return ring

    async def write(self, text: str) -> None:
        said = await self._ask("GET", self._kv(self._ring_path))
        version = entry(entry(said.document.get("data"), "metadata"), "version") if said.status == 200 else 0
        options = {"cas": version}  # a ring that somebody else has changed is not overwritten
        body = {"options": options, "data": {_RING: text}}
        _good(await self._ask("POST", self._kv(self._ring_path), body))

    async def fetch(self, path: str) -> Fetched:
        if path.startswith("/"):
            document = _good(await self._ask("GET", quote(path.strip("/")))).document
            return Fetched(values=texts(document.get("data")), lease_id=document.get("lease_id") or None)
        if path.strip("/") == self._ring_path.strip("/"):
            raise SourceError("the vault's own keys cannot be referred to")
        return Fetched(values=texts(_inner(_good(await self._ask("GET", self._kv(path))))))

    async def revoke(self, lease_id: str) -> None:
        said = await self._ask("PUT", "sys/leases/revoke", {"lease_id": lease_id})
        if said.status not in {204, 400, 404}:  # 400: there is no such lease any more
            _good(said)

    def _kv(self, path: str) -> str:
        return f"{quote(self._access.mount.strip('/'))}/data/{quote(path.strip('/'))}"

    async def _ask(self, method: str, path: str, body: object = None) -> Said:
        said = await self._once(method, path, body, await self._identity())
        if said.status == 403 and self._access.token is None:
            self._token = None  # it has run out
            said = await self._once(method, path, body, await self._identity())
        return said

    async def _once(self, method: str, path: str, body: object, token: str | None) -> Said:
        headers = {"X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token
        if self._access.namespace:
            headers["X-Vault-Namespace"] = self._access.namespace
        url = f"{self._access.url.rstrip('/')}/v1/{path}"
        return await ask(self._outgoing, _WHO, method, url, headers=headers, json=body)

    async def _identity(self) -> str:
        async with self._signing_in:
            if self._token is None:
                body = {"role_id": self._access.role_id, "secret_id": self._access.secret_id}
                said = await self._once("POST", f"auth/{quote(self._access.role_mount)}/login", body, None)
                if said.status != 200:
                    raise SourceError(f"{_WHO} refused the AppRole sign-in ({said.status})")
                self._token = str(entry(said.document.get("auth"), "client_token") or "")
            return self._token


def _inner(said: Said) -> object:
    return entry(said.document.get("data"), "data")


def _good(said: Said) -> Said:
    """Raises SourceError unless Vault did it. Its own words may quote a path, never a value; we do not pass them on."""
    if said.status in {200, 204}:
        return said
    reasons = {403: "refused: the policy of our token does not allow it", 404: "has nothing at this path"}
    raise SourceError(f"{_WHO} {reasons.get(said.status, f'answered {said.status}')}")
