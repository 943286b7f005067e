"""Sign-in, application tokens, secrets, integrations, projects and health."""

from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote, urlencode
from uuid import uuid4

from sfp_client.errors import ApiError, NotFound
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

    def sessions(self) -> list[dict[str, Any]]:
        """Where the user is signed in, newest first."""
        return self._transport.items("/auth/sessions")

    def end_session(self, session_id: str) -> None:
        """End one of the user's sessions."""
        self._transport.json("DELETE", f"/auth/sessions/{quote(session_id, safe='')}")

    def logout_everywhere(self) -> int:
        """End every session of the user, this one too; answers how many."""
        return int(self._transport.json("DELETE", "/auth/sessions")["ended"])

    def exchange_ci_token(self, token: str, *, team: str | None = None) -> dict[str, Any]:
        """A CI system's OpenID Connect token for an application token that lives for minutes. Raises NotSignedIn."""
        body = {"token": token} | ({"team": team} if team else {})
        return self._transport.json("POST", "/auth/oidc/exchange", body=body, anonymous=True)

    def check(self, **question: str) -> dict[str, Any]:
        """May an actor do this: `operation` or `scope`, with `actor` or `token`, and `resource`."""
        return self._transport.json("POST", "/authz/check", body=question)

    def me(self) -> dict[str, Any]:
        """The signed-in user with its teams and roles."""
        return self._transport.json("GET", "/users/me")


class ApplicationTokens:
    """Machine identities of the team; owners only."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        name: str,
        *,
        expires_in: int | None = None,
        scopes: Sequence[str] | None = None,
        allowed_addresses: Sequence[str] | None = None,
    ) -> ApplicationToken:
        """`expires_in` in days; `allowed_addresses` are networks. The answer holds the token's text, this once."""
        body: dict[str, Any] = {"name": name}
        if expires_in is not None:
            body["expiresIn"] = expires_in
        if scopes:
            body["scopes"] = list(scopes)
        if allowed_addresses:
            body["allowedAddresses"] = list(allowed_addresses)
        return self._transport.json("POST", "/application-tokens", body=body, key=new_key())

    def scopes(self) -> list[dict[str, Any]]:
        """What a token can be given, and what each scope opens."""
        return self._transport.items("/application-tokens/scopes")

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
        return self._put(name, {"value": value})

    def refer(self, name: str, *, source: str, path: str, key: str = "value") -> dict[str, Any]:
        """The value stays where it is: an entry of what stands at a path of `vault`, `aws` or `infisical`."""
        return self._put(name, {"reference": {"source": source, "path": path, "key": key}})

    def restore(self, name: str, version: int) -> dict[str, Any]:
        """The value of an earlier version becomes the next one."""
        return self._put(name, {"restore": version})

    def _put(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._transport.json("PUT", f"/secrets/{quote(name, safe='')}", body=body)

    def versions(self, name: str) -> list[dict[str, Any]]:
        """Newest first: when each came and from whom."""
        return self._transport.items(f"/secrets/{quote(name, safe='')}/versions")

    def rotate_keys(self) -> dict[str, Any]:
        """A new key pair for the instance's vault; what is stored is sealed anew in the background."""
        return self._transport.json("POST", "/secrets/rotate-keys")

    def keys(self) -> dict[str, Any]:
        """The vault's key pairs, and how much is sealed to each."""
        return self._transport.json("GET", "/secrets/rotate-keys")

    def leases(self, task_id: str | None = None) -> list[dict[str, Any]]:
        """Which credentials running attempts hold now, or what the attempts of one task drew."""
        return self._transport.items(f"/tasks/{quote(task_id, safe='')}/leases" if task_id else "/leases")

    def list(self) -> list[dict[str, Any]]:
        """Names, versions, times."""
        return self._transport.items("/secrets")

    def delete(self, name: str) -> None:
        self._transport.json("DELETE", f"/secrets/{quote(name, safe='')}")


class Integrations:
    """Connected providers of the team."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        provider: str,
        credentials: dict[str, str],
        *,
        auth_type: str = "token",
        projects: Sequence[str] = (),
        url: str | None = None,
    ) -> dict[str, Any]:
        """For some projects, or for the whole team; `url` is where the provider is, when it is not its own cloud."""
        body: dict[str, Any] = {"provider": provider, "authType": auth_type, "credentials": credentials}
        if projects:
            body["projects"] = list(projects)
        if url:
            body["config"] = {"url": url}
        return self._transport.json("POST", "/integrations", body=body, key=new_key())

    def list(self) -> list[dict[str, Any]]:
        return self._transport.items("/integrations")

    def delete(self, integration_id: str) -> None:
        self._transport.json("DELETE", f"/integrations/{quote(integration_id, safe='')}")

    def credentials(self, provider: str, *, project: str | None = None) -> dict[str, Any]:
        """The credentials themselves: the project's before the global ones. Each look is audited."""
        query = {"provider": provider, **({"project": project} if project else {})}
        return self._transport.json("GET", f"/integrations/credentials?{urlencode(query)}")

    def repository_token(self, repository: str) -> dict[str, Any]:
        """What git signs in with at a project's repository. Audited."""
        return self._transport.json("GET", f"/repository/auth-token?{urlencode({'repositoryIdentifier': repository})}")


class Projects:
    """Repositories that the team works on."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, identifier: str, remote_url: str) -> dict[str, Any]:
        body = {"identifier": identifier, "remoteUrl": remote_url}
        return self._transport.json("POST", "/projects", body=body, key=new_key())

    def list(self) -> list[dict[str, Any]]:
        return self._transport.items("/projects")

    def find(self, identifier: str) -> dict[str, Any]:
        """By its name. Raises NotFound."""
        found = self._transport.json("GET", f"/projects?{urlencode({'identifier': identifier})}")["items"]
        if not found:
            raise NotFound(f"there is no project {identifier}", status=404)
        return found[0]

    def move(self, identifier: str, remote_url: str) -> dict[str, Any]:
        """Give it another address."""
        project = self.find(identifier)
        body = {"remoteUrl": remote_url, "version": project["version"]}
        return self._transport.json("PATCH", f"/projects/{project['id']}", body=body)

    def delete(self, identifier: str) -> None:
        self._transport.json("DELETE", f"/projects/{self.find(identifier)['id']}")


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
