"""The server's own calls to the outside: identity providers, their keys, vaults.

What is called is often named by somebody's request, so every call is bounded: `https` only, one request and no
redirects, no proxies of the environment, an address that is checked when it is dialled (public, or opened by
`egress.allow`), a size and a time. What `egress.allow` names may also be called by `http`.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlencode, urlsplit

import certifi
import httpcore
import msgspec

from sfp_server.addresses import may_reach, names, parse_allow, resolve, split_entry
from sfp_server.settings import Settings

_PORTS = {"https": 443, "http": 80}
_READ_BYTES = 1024 * 1024


class OutgoingFailed(Exception):
    """No answer was had. `reason` is stable, the text names the host and is fit for an owner's eyes and logs.

    Reasons: `bad_url`, `forbidden_address`, `unknown_host`, `unreachable`, `tls`, `timeout`, `too_large`, `bad_answer`.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back, whatever its status. `headers` have lower-case names; of repeated ones the last counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises OutgoingFailed (`bad_answer`)."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise OutgoingFailed("bad_answer", "the answer is not JSON") from error


class Outgoing:
    """Makes such calls. One per process; connections are kept for a while and closed by `close`."""

    def __init__(self, *, allow: Iterable[str] = (), extra_ca_file: Path | None = None) -> None:
        """Raises ValueError when an entry of `allow` cannot be read."""
        self._allow = parse_allow(allow)
        self._extra_ca_file = extra_ca_file

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As `egress.allow` and `tls.extraCaFile` say."""
        extra = settings.extra_ca_file
        return cls(allow=settings.egress_allow.split(","), extra_ca_file=Path(extra) if extra else None)

    @cached_property
    def _pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=self._trusted(),
            max_connections=20,
            max_keepalive_connections=5,
            keepalive_expiry=15,
            network_backend=_Checked(self._allow),
        )

    def _trusted(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())  # a slim image has no certificates of its own
        if self._extra_ca_file is not None:
            context.load_verify_locations(self._extra_ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    async def close(self) -> None:
        """Close what is open. Closing twice is fine."""
        if "_pool" in self.__dict__:
            await self._pool.aclose()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
        json: Any = None,
        max_bytes: int = 1024 * 1024,
        seconds: float = 10.0,
    ) -> Answer:
        """One request, one answer; a redirect is an answer like any other.

        Args:
            data: sent as a form.
            json: sent as JSON; only one of both.
            max_bytes: of the body; a longer one is `too_large`.
            seconds: for all of it.

        Raises OutgoingFailed.
        """
        host = await self._checked(url)
        sent = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "sfp-server"}
        content = b""
        if data is not None:
            sent["content-type"] = "application/x-www-form-urlencoded"
            content = urlencode(data).encode()
        elif json is not None:
            sent["content-type"] = "application/json"
            content = msgspec.json.encode(json)
        sent |= {name.lower(): value for name, value in (headers or {}).items()}
        with _Translated(host):
            async with asyncio.timeout(seconds):
                return await self._exchange(method, url, sent, content, max_bytes)

    async def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes, max_bytes: int
    ) -> Answer:
        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        async with self._pool.stream(method, url, headers=fields, content=content) as response:
            got = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            if got.get("content-encoding", "identity") != "identity":
                raise OutgoingFailed("bad_answer", "the answer is compressed, which was not asked for")
            body = bytearray()
            async for part in response.aiter_stream():
                body += part
                if len(body) > max_bytes:
                    raise OutgoingFailed("too_large", f"the answer is larger than {max_bytes} bytes")
            return Answer(status=response.status, headers=got, body=bytes(body))

    async def _checked(self, url: str) -> str:
        """The host of a URL that may be called. Raises OutgoingFailed; addresses are checked when they are dialled."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme)
        except ValueError as error:
            raise OutgoingFailed("bad_url", "this is not a URL") from error
        if not host or port is None or not url.isascii() or not url.isprintable() or " " in url:
            raise OutgoingFailed("bad_url", "this is not an https URL")
        if parts.username is not None or parts.password is not None:
            raise OutgoingFailed("bad_url", "a URL must not contain a user or a password")
        if parts.scheme == "http" and not await self._opened(host, port):
            raise OutgoingFailed("bad_url", f"{host} must be called by https")
        return host

    async def _opened(self, host: str, port: int) -> bool:
        """Whether `egress.allow` names this host, or each of its addresses."""
        entries = [entry for entry, own in map(split_entry, self._allow) if own in {None, port}]
        if host in entries:
            return True
        addresses = await resolve(host)
        opened = [any([await names(entry, ipaddress.ip_address(one)) for entry in entries]) for one in addresses]
        return bool(opened) and all(opened)


class _Checked(httpcore.AsyncNetworkBackend):
    """Looks a name up, checks each address, and dials the first that may be reached: no second look-up in between."""

    def __init__(self, allow: frozenset[str]) -> None:
        self._allow = allow
        self._dialler = cast("httpcore.AsyncNetworkBackend", httpcore.AnyIOBackend())  # optional there, so untyped

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = sorted(await resolve(host, port), key=lambda text: (":" in text, text))  # IPv4 first: it is everywhere
        if not found:
            raise OutgoingFailed("unknown_host", f"{host} is not known to the name service")
        reachable = [one for one in found if await may_reach(ipaddress.ip_address(one), port, self._allow)]
        if not reachable:
            raise OutgoingFailed(
                "forbidden_address",
                f"{host} is a private or local address; an administrator can open it with egress.allow",
            )
        for address in reachable[:-1]:
            try:
                return await self._dialler.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._dialler.connect_tcp(reachable[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _Translated:
    """The library's errors become ours at this one seam."""

    def __init__(self, host: str) -> None:
        self._host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, OutgoingFailed):
            return
        if isinstance(error, TimeoutError | httpcore.TimeoutException):
            raise OutgoingFailed("timeout", f"{self._host} did not answer in time") from error
        if isinstance(error, httpcore.ConnectError) and isinstance(_root(error), ssl.SSLError):
            raise OutgoingFailed("tls", f"the certificate of {self._host} is not trusted (tls.extraCaFile)") from error
        if isinstance(error, httpcore.NetworkError | httpcore.ProxyError | OSError):
            raise OutgoingFailed("unreachable", f"{self._host} cannot be reached") from error
        if isinstance(error, httpcore.ProtocolError | httpcore.UnsupportedProtocol):
            raise OutgoingFailed("bad_answer", f"{self._host} does not speak HTTP as it should") from error


def _root(error: BaseException) -> BaseException:
    """What an error was caused by, first of all."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
