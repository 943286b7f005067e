"""Infisical: one project and environment, with a machine identity (universal auth)."""

import asyncio
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from sfp_server.credentials.sources.base import Fetched, SourceError
from sfp_server.credentials.sources.web import Said, ask, entry
from sfp_server.outgoing import Outgoing

_WHO = "Infisical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where Infisical is, which project, and who we are there."""

    url: str
    project: str
    environment: str
    client_id: str
    client_secret: str


class Infisical:
    """One project. A path is `/folder/NAME`; a value is a text, its only entry is called `value`."""

    name = "infisical"

    def __init__(self, outgoing: Outgoing, access: Access, *, ring_path: str) -> None:
        self._outgoing = outgoing
        self._access = access
        self._ring_path = ring_path
        self._token: str | None = None
        self._signing_in = asyncio.Lock()

    async def read(self) -> str | None:
        said = await self._secret("GET", self._ring_path)
        return None if said.status == 404 else _value(_good(said))

    async def write(self, text: str) -> None:
        exists = (await self._secret("GET", self._ring_path)).status == 200
        _good(await self._secret("PATCH" if exists else "POST", self._ring_path, text))

    async def fetch(self, path: str) -> Fetched:
        if path.strip("/") == self._ring_path.strip("/"):
            raise SourceError("the vault's own keys cannot be referred to")
        return Fetched(values={"value": _value(_good(await self._secret("GET", path)))})

    async def revoke(self, lease_id: str) -> None:
        """Nothing here has a lease."""

    async def _secret(self, method: str, path: str, value: str | None = None) -> Said:
        said = await self._once(method, path, value, await self._identity())
        if said.status == 401:
            self._token = None  # it has run out
            said = await self._once(method, path, value, await self._identity())
        return said

    async def _once(self, method: str, path: str, value: str | None, token: str) -> Said:
        folder, _, name = path.strip("/").rpartition("/")
        where = {
            "workspaceId": self._access.project,
            "environment": self._access.environment,
            "secretPath": f"/{folder}",
        }
        url = f"{self._access.url.rstrip('/')}/api/v3/secrets/raw/{quote(name, safe='')}"
        body = None if value is None else {**where, "secretValue": value}
        if value is None:
            url += f"?{urlencode(where)}"
        return await ask(self._outgoing, _WHO, method, url, headers={"Authorization": f"Bearer {token}"}, json=body)

    async def _identity(self) -> str:
        async with self._signing_in:
            if self._token is None:
                body = {"clientId": self._access.client_id, "clientSecret": self._access.client_secret}
                url = f"{self._access.url.rstrip('/')}/api/v1/auth/universal-auth/login"
                said = await ask(self._outgoing, _WHO, "POST", url, json=body)
                if said.status != 200:
                    raise SourceError(f"{_WHO} refused the sign-in of our machine identity ({said.status})")
                self._token = str(said.document.get("accessToken", ""))
            return self._token


def _value(said: Said) -> str:
    value = entry(said.document.get("secret"), "secretValue")
    if not isinstance(value, str):
        raise SourceError(f"{_WHO} answered without a value")
    return value


def _good(said: Said) -> Said:
    if said.status == 200:
        return said
    reasons = {403: "refused: our machine identity may not do this", 404: "has nothing at this path"}
    raise SourceError(f"{_WHO} {reasons.get(said.status, f'answered {said.status}')}")
