"""An OpenID provider that does as a test says: signs what it should not, answers garbage, sends browsers back wrongly.

Everything about it is right until a test changes `claims`, `tokens`, `signs`, or answers `instead`.
"""

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import issuer
from browser import query


@dataclass
class BadProvider(issuer.Issuer):
    client_id: str = "sfp"
    #: of the browser's last way here: nonce, state, …
    sent: dict[str, str] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    #: claims → an ID token
    signs: Callable[[dict[str, Any]], str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def answer(self, path: str) -> tuple[int, bytes]:
        if path in self.instead:
            return self.instead[path]
        if path.endswith("/.well-known/openid-configuration"):
            return 200, json.dumps(self._metadata()).encode()
        if path == "/token":
            return 200, json.dumps(self._tokens()).encode()
        return super().answer(path)

    def visited(self, url: str, **answer: str) -> str:
        """A browser comes with `url`, and is sent back with this query (beside state and code)."""
        self.sent = query(url)
        parameters = {"code": "a-code", "state": self.sent["state"], "iss": self.url} | answer
        joined = "&".join(f"{name}={value}" for name, value in parameters.items() if value is not ...)
        return f"{self.sent['redirect_uri']}?{joined}"

    def right_claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.url,
            "aud": self.client_id,
            "sub": "subject-of-ann",
            "iat": now,
            "exp": now + 300,
            "nonce": self.sent.get("nonce"),
            "email": "ann@acme.example",
            "email_verified": True,
        }

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": self.jwks_url,
            "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
            "authorization_response_iss_parameter_supported": True,
        } | self.metadata

    def _tokens(self) -> dict[str, Any]:
        claims = {name: value for name, value in (self.right_claims() | self.claims).items() if value is not ...}
        token = (self.signs or self.sign)(claims)
        return {"access_token": "an-access-token", "token_type": "Bearer", "id_token": token} | self.tokens


@asynccontextmanager
async def serving() -> AsyncIterator[BadProvider]:
    async with issuer.serving(make=BadProvider) as provider:
        yield provider
