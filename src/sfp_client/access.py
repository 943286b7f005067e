"""Sign-in, application tokens, secrets and health."""

from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote
from uuid import uuid4

from sfp_client.errors import ApiError
from sfp_client.renewal import Memory, SignIn
from sfp_client.shapes import ApplicationToken, DeviceCodes, TokenPair
from sfp_client.transport import Transport


class Auth:
    """Sign in and out."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def login(self, email: str, password: str) -> TokenPair:
        """Sign in; this client goes on as that user and renews its token by itself. Raises NotSignedIn."""
        body = {"email": email, "password": password}
        pair = cast("TokenPair", self._transport.json("POST", "/auth/admin/login", body=body, anonymous=True))
        self._transport.source = SignIn(Memory(pair), self.exchange)
        return pair

    def exchange(self, refresh_token: str) -> TokenPair:
        """Use up a refresh token for a new pair. Raises NotSignedIn."""
        body = {"grant_type": "refresh_token", "refresh_token": refresh_token}
        return cast("TokenPair", self._transport.json("POST", "/auth/token", body=body, anonymous=True))

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> TokenPair:
        """Tokens for the code that a sign-in in the browser came back with. Raises NotSignedIn."""
        body = {
            "grant_type": "authorization_code",
            "code": code,
            "code_verifier": verifier,
            "redirect_uri": redirect_uri,
        }
        return cast("TokenPair", self._transport.json("POST", "/auth/token", body=body, anonymous=True))

    def begin_device(self) -> DeviceCodes:
        """Begin a sign-in without a browser (RFC 8628): show `verification_uri` and `user_code` to the user."""
        return cast("DeviceCodes", self._transport.json("POST", "/auth/device/code", body={}, anonymous=True))

    def poll_device(self, device_code: str) -> TokenPair | None:
        """Tokens when the user has agreed, None while nobody has decided; ask once per `interval`.

        Raises ApiError: `slow_down` (wait 5 seconds longer from now on), `access_denied`, `expired_token`.
        """
        body = {"device_code": device_code}
        try:
            return cast("TokenPair", self._transport.json("POST", "/auth/device/token", body=body, anonymous=True))
        except ApiError as error:
            if error.code != "authorization_pending":
                raise
            return None

    def decide_device(self, user_code: str, *, approve: bool) -> dict[str, Any]:
        """Let the device that shows this code act as you, or refuse it; answers who asked. Raises NotFound."""
        body = {"user_code": user_code, "decision": "approve" if approve else "deny"}
        return self._transport.json("POST", "/auth/device/approve", body=body)

    def logout(self) -> None:
        """End the session on the server: its tokens open nothing any more."""
        self._transport.json("POST", "/auth/logout")

    def me(self) -> dict[str, Any]:
        """The signed-in user with its teams and roles."""
        return self._transport.json("GET", "/users/me")


class ApplicationTokens:
    """Machine identities of the team; owners only."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self, name: str, *, expires_in: int | None = None, scopes: Sequence[str] | None = None
    ) -> ApplicationToken:
        """`expires_in` in days. The answer holds the token's text, for the only time."""
        body: dict[str, Any] = {"name": name}
        if expires_in is not None:
            body["expiresIn"] = expires_in
        if scopes:
            body["scopes"] = list(scopes)
        return self._transport.json("POST", "/application-tokens", body=body, key=new_key())

    def list(self) -> list[ApplicationToken]:
        return cast("list[ApplicationToken]", self._transport.items("/application-tokens"))

    def revoke(self, token_id: str) -> None:
        """At once, everywhere."""
        self._transport.json("DELETE", f"/application-tokens/{quote(token_id, safe='')}")


class Secrets:
    """Secrets of the team: stored, replaced, deleted, never read back."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def set(self, name: str, value: str) -> dict[str, Any]:
        return self._transport.json("PUT", f"/secrets/{quote(name, safe='')}", body={"value": value})

    def list(self) -> list[dict[str, Any]]:
        """Names, versions, times."""
        return self._transport.items("/secrets")

    def delete(self, name: str) -> None:
        self._transport.json("DELETE", f"/secrets/{quote(name, safe='')}")


class Health:
    """How the server is."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def summary(self) -> dict[str, Any]:
        """`{"status": "healthy|degraded|unhealthy", "version"}`; public, and an answer at once."""
        try:
            return self._transport.json("GET", f"{self._transport.url}/health", anonymous=True, patient=False)
        except ApiError as error:
            if error.status != 503:
                raise
            return {"status": "unhealthy", "detail": error.detail}

    def about(self) -> dict[str, Any]:
        """Name and versions; public."""
        return self._transport.json("GET", "", anonymous=True)

    def configuration(self) -> dict[str, Any]:
        """What a client needs to know before it signs in: identity providers, who may use a password; public."""
        return self._transport.json("GET", "/config", anonymous=True)

    def ping(self) -> dict[str, Any]:
        """Public."""
        return self._transport.json("GET", "/ping", anonymous=True)

    def details(self) -> dict[str, Any]:
        """Components, queues, workers, resources; needs a sign-in."""
        return self._transport.json("GET", "/health")

    def dispatchers(self) -> list[dict[str, Any]]:
        """Which machines run tasks, and what they have. Owners only."""
        return self._transport.json("GET", "/dispatchers")["items"]


def new_key() -> str:
    """An Idempotency-Key: one per thing that is to be created, the same for every try."""
    return str(uuid4())
