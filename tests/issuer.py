"""An issuer of tokens on loopback: real HTTP, real keys, and a hand on what it answers."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey


@dataclass
class Issuer:
    """Signs tokens, and serves its discovery document and its keys."""

    url: str
    keys: dict[str, Any] = field(default_factory=dict)
    #: requests by path
    asked: list[str] = field(default_factory=list)
    #: path → what is answered instead: (status, body)
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    def add_key(self, kid: str, algorithm: str = "RS256") -> None:
        made = ECKey.generate_key("P-256") if algorithm.startswith("ES") else RSAKey.generate_key(2048)
        self.keys[kid] = (algorithm, made)

    def sign(self, claims: dict[str, Any], *, kid: str | None = None, **header: Any) -> str:
        kid = kid or next(iter(self.keys))
        algorithm, key = self.keys[kid]
        head = {"alg": algorithm, "typ": "JWT", "kid": kid} | header
        return jwt.encode(head, claims, key, algorithms=[algorithm])

    @property
    def jwks_url(self) -> str:
        return f"{self.url}/keys"

    def answer(self, path: str) -> tuple[int, bytes]:
        if path in self.instead:
            return self.instead[path]
        if path.endswith("/.well-known/openid-configuration"):
            return 200, json.dumps({"issuer": self.url, "jwks_uri": self.jwks_url}).encode()
        if path.endswith("/keys"):
            return 200, json.dumps({"keys": [self._public(kid) for kid in self.keys]}).encode()
        return 404, b"{}"

    def _public(self, kid: str) -> dict[str, Any]:
        algorithm, key = self.keys[kid]
        return key.as_dict(private=False) | {"kid": kid, "use": "sig", "alg": algorithm}


@asynccontextmanager
async def serving(algorithm: str = "RS256", *, make: Callable[..., Any] = Issuer) -> AsyncIterator[Any]:
    """Serve an `Issuer`, or what `make` makes of a URL."""
    issuer = make(url="")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        issuer.asked.append(path)
        status, body = issuer.answer(path)
        writer.write(
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    issuer.add_key("first", algorithm)
    async with server:
        yield issuer
