"""One HTTP connection to one server: tokens, retries, and errors as this package's own.

Repeatable requests (GET, PUT, DELETE, and a POST with an Idempotency-Key) are tried again while the server says
503 or 429 or the connection breaks, as long as `patience` lasts; `Retry-After` decides the pause.
"""

import ssl
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from sfp_client.errors import NotSignedIn, Refused, Unreachable, api_error, retry_after
from sfp_client.renewal import TokenSource

PREFIX = "/sfp/api"
#: longest pause between two tries, seconds
LONGEST_PAUSE = 5.0


def normal_url(url: str) -> str:
    """`url` as scheme://host[:port][/path], without the API's prefix. Raises Refused."""
    parts = urlsplit(url.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise Refused("the server's URL must look like https://sfp.example, without user name or password")
    path = parts.path.rstrip("/").removesuffix(PREFIX)
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine by a loopback name or address."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def trust(ca_file: str | Path | None = None) -> ssl.SSLContext:
    """The system's certificates (else certifi's), and those of `ca_file` in addition. Raises Refused."""
    context = ssl.create_default_context()
    known = ssl.get_default_verify_paths()
    if not any(path and Path(path).exists() for path in (known.cafile, known.capath)):
        import certifi  # a machine without certificates of its own

        context.load_verify_locations(certifi.where())
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise Refused(f"{ca_file} cannot be used as a bundle of certificates: {error}") from error
    return context


class Transport:
    """Sends requests for all resources of a Client."""

    def __init__(
        self,
        url: str,
        *,
        team: str | None = None,
        ca_file: str | Path | None = None,
        timeout: float = 30.0,
        patience: float = 30.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`timeout`: seconds without an answer; `patience`: seconds of trying again."""
        self.url = normal_url(url)
        self.source: TokenSource | None = None
        self.team = team
        #: None for plain HTTP
        self.ssl = trust(ca_file) if self.url.startswith("https:") else None
        self.is_local = is_loopback(self.url)
        self._patience = patience
        #: whether the server has ever answered: then "connection refused" means a restart, not a wrong address
        self._was_there = False
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=self.url + PREFIX,
            verify=self.ssl or False,  # plain HTTP has nothing to verify
            timeout=httpx.Timeout(timeout, connect=min(timeout, 10.0)),
            headers={"Accept": "application/json"},
            trust_env=not self.is_local,  # a proxy cannot reach this machine's loopback
        )

    def close(self) -> None:
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        params: Mapping[str, Any] | None = None,
        key: str | None = None,
        anonymous: bool = False,
        patient: bool = True,
    ) -> Any:
        """Send a request and return the parsed answer (None when it is empty).

        `path` is below the API's prefix, or an absolute URL on this server; `key` is the Idempotency-Key;
        `patient`: try again when that may help. Raises ApiError, Unreachable, Refused.
        """
        repeatable = method in {"GET", "PUT", "DELETE"} or key is not None
        extra = {} if key is None else {"Idempotency-Key": key}
        deadline = time.monotonic() + (self._patience if repeatable and patient else 0)
        renewed = False
        for number in count():
            pause = min(0.2 * 2**number, LONGEST_PAUSE)
            token = None if anonymous else self.token()
            headers = {**self.headers(token), **extra}
            request = self._http.build_request(method, path, params=given(params), headers=headers, json=body)
            try:
                response = self._send(request)
            except _Broken as error:
                if time.monotonic() + pause > deadline:
                    raise Unreachable(str(error)) from error
                self._sleep(pause)
                continue
            if response.status_code == 401 and token and not renewed and self._renew(token):
                renewed = True
                continue
            if response.status_code in {429, 503}:
                named = retry_after(response.headers)
                pause = pause if named is None else named
                if time.monotonic() + pause <= deadline:
                    self._sleep(pause)
                    continue
            return _parsed(response)
        raise AssertionError("count() never ends")

    def items(self, path: str) -> list[dict[str, Any]]:
        """All items of a list, page after page."""
        found: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.json("GET", path, params={"limit": 200, "cursor": cursor})
            found += page["items"]
            cursor = page.get("nextCursor")
            if cursor is None:
                return found

    def upload(self, path: str, content: Iterable[bytes], *, params: Mapping[str, Any], length: int) -> Any:
        """POST a stream of `length` bytes; tried once, because a stream cannot be rewound."""
        headers = {
            **self.headers(self.token()),
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
        }
        request = self._http.build_request("POST", path, params=given(params), headers=headers, content=content)
        try:
            return _parsed(self._send(request))
        except _Broken as error:
            raise Unreachable(str(error)) from error

    @contextmanager
    def stream(self, path: str) -> Generator[httpx.Response]:
        """GET with the body still to be read."""
        token = self.token()
        response = self._open(path, token)
        if response.status_code == 401 and token and self._renew(token):
            response.close()
            response = self._open(path, self.token())
        try:
            if not response.is_success:
                response.read()
                _parsed(response)
            yield response
        except httpx.TransportError as error:
            raise Unreachable(f"the connection to {self.url} broke: {_reason(error)}") from error
        finally:
            response.close()

    def token(self) -> str | None:
        """The token to send now; refuses to send one where others can read it."""
        if self.source is None:
            return None
        if self.ssl is None and not self.is_local:
            raise Refused(f"{self.url} is not encrypted: a token is sent over plain HTTP to this machine only")
        return self.source.token()

    def headers(self, token: str | None) -> dict[str, str]:
        """Who asks, and for which team."""
        made = {} if token is None else {"Authorization": f"Bearer {token}"}
        return made if self.team is None else {**made, "X-Sfp-Team": self.team}

    def _renew(self, token: str) -> bool:
        return self.source is not None and self.source.renew(token)

    def _open(self, path: str, token: str | None) -> httpx.Response:
        request = self._http.build_request("GET", path, headers={**self.headers(token), "Accept": "*/*"})
        try:
            return self._send(request, stream=True)
        except _Broken as error:
            raise Unreachable(str(error)) from error

    def _send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
        except httpx.ConnectError as error:
            kind = _Broken if self._was_there else Unreachable
            raise kind(f"{self.url} cannot be reached: {_reason(error)}") from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"{self.url} did not answer in time") from error
        except httpx.TransportError as error:
            raise _Broken(f"the connection to {self.url} broke: {_reason(error)}") from error
        self._was_there = True
        return response


class _Broken(Exception):
    """The connection ended before the answer: it is not known whether the request arrived."""


def given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Only the parameters that have a value."""
    return {name: value for name, value in (params or {}).items() if value is not None}


def _parsed(response: httpx.Response) -> Any:
    if not response.is_success:
        error = api_error(response.status_code, response.content, response.headers)
        raise error
    if not response.content:
        return None
    try:
        return response.json()
    except ValueError as error:
        raise Unreachable(f"{response.url.host} answered something that is not JSON: is it an sfp server?") from error


def _reason(error: Exception) -> str:
    """Why a connection failed, for a person."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted here; name its authority with --ca-file or SFP_EXTRA_CA_FILE"
    if "Connection refused" in text or "All connection attempts failed" in text:
        return "connection refused; is it running?"
    if "Name or service not known" in text or "nodename nor servname" in text or "Temporary failure in name" in text:
        return "its name is not known"
    return text or type(error).__name__


def require_token(transport: Transport) -> str:
    """The token for a connection of its own (WebSocket). Raises NotSignedIn."""
    token = transport.token()
    if token is None:
        raise NotSignedIn("not signed in", status=401, code="unauthenticated")
    return token
