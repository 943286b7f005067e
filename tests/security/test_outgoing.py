"""The server's own calls: where they may go, and how much they take."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sfp_server import outgoing
from sfp_server.outgoing import Outgoing, OutgoingFailed

HELLO = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}'


@asynccontextmanager
async def answering(answer: bytes, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server on loopback that answers each request with these bytes, and the requests that it got."""
    seen: list[bytes] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
            await reader.read()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()


@asynccontextmanager
async def caller(*allow: str, ca: Path | None = None) -> AsyncIterator[Outgoing]:
    made = Outgoing(allow=allow, extra_ca_file=ca)
    try:
        yield made
    finally:
        await made.close()


async def reason(call: Awaitable[object]) -> str:
    with pytest.raises(OutgoingFailed) as caught:
        await call
    return caught.value.reason


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "10.0.0.1",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "2130706433",
        "127.1",
    ],
)
async def test_a_private_address_is_not_called_whatever_it_is_written_as(host: str) -> None:
    async with answering(HELLO) as (port, seen), caller() as client:
        assert await reason(client.request("GET", f"https://{host}:{port}/")) in {"forbidden_address", "unknown_host"}
        assert seen == []


@pytest.mark.parametrize("entry", ["127.0.0.1", "127.0.0.0/8", "localhost"])
async def test_what_is_opened_may_be_called_by_http(entry: str) -> None:
    async with answering(HELLO) as (port, seen), caller(entry) as client:
        answer = await client.request("GET", f"http://127.0.0.1:{port}/x?y=1", headers={"X-One": "1"})
        assert (answer.status, answer.json()) == (200, {"ok": True})
        assert seen[0].startswith(b"GET /x?y=1 HTTP/1.1\r\n")
        assert b"x-one: 1" in seen[0]


async def test_an_opened_port_opens_no_other() -> None:
    async with answering(HELLO) as (port, seen), caller(f"127.0.0.1:{port + 1}") as client:
        assert await reason(client.request("GET", f"http://127.0.0.1:{port}/")) == "bad_url"
        assert await reason(client.request("GET", f"https://127.0.0.1:{port}/")) == "forbidden_address"
        assert seen == []


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means a public address at the first look and loopback at the second (DNS rebinding)."""
    answers = iter([frozenset({"93.184.215.14"}), frozenset({"127.0.0.1"})])

    async def resolve(_host: str, _port: int = 0) -> frozenset[str]:
        return next(answers)

    dialled: list[str] = []

    async def dial(_self: object, host: str, *_rest: object) -> object:
        dialled.append(host)
        raise outgoing.httpcore.ConnectError("no network here")

    monkeypatch.setattr(outgoing, "resolve", resolve)
    monkeypatch.setattr(outgoing.httpcore.AnyIOBackend, "connect_tcp", dial)
    async with caller() as client:
        assert await reason(client.request("GET", "https://rebinding.example/")) == "unreachable"
        assert await reason(client.request("GET", "https://rebinding.example/")) == "forbidden_address"
    assert dialled == ["93.184.215.14"]


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https://",
        "https:///x",
        "//example.com",
        "https://user:password@example.com/",
        "https://example.com:99999/",
        "https://exämple.com/",
        "https://example.com/a b",
        "https://example.com/\r\nHost: other",
        "",
        "javascript:alert(1)",
    ],
)
async def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    async with caller() as client:
        assert await reason(client.request("GET", url)) == "bad_url"


async def test_a_redirect_is_not_followed() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n"
    async with answering(moved) as (port, seen), caller("127.0.0.1") as client:
        assert (await client.request("GET", f"http://127.0.0.1:{port}/")).status == 302
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, "too_large"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000, "too_large"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx", "bad_answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", "timeout"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 200_000, "bad_answer"),
        (b"", "timeout"),
    ],
)
async def test_a_hostile_answer_ends_in_time_and_is_named(answer: bytes, expected: str) -> None:
    async with answering(answer) as (port, _), caller("127.0.0.1") as client:
        call = client.request("GET", f"http://127.0.0.1:{port}/", max_bytes=1000, seconds=0.5)
        assert await reason(call) == expected


async def test_an_answer_that_is_no_json_says_so() -> None:
    text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    async with answering(text) as (port, _), caller("127.0.0.1") as client:
        answer = await client.request("POST", f"http://127.0.0.1:{port}/", data={"a": "b c"})
        with pytest.raises(OutgoingFailed, match="not JSON"):
            answer.json()


async def test_nobody_listens() -> None:
    async with answering(HELLO) as (port, _):
        pass
    async with caller("127.0.0.1") as client:
        assert await reason(client.request("GET", f"http://127.0.0.1:{port}/")) == "unreachable"


async def test_a_certificate_must_be_trusted_and_the_extra_bundle_is(
    tmp_path: Path, certificate: Callable[[str], Path]
) -> None:
    file = certificate("127.0.0.1")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(file)
    async with answering(HELLO, tls=tls) as (port, seen):
        async with caller("127.0.0.1") as client:
            assert await reason(client.request("GET", f"https://127.0.0.1:{port}/")) == "tls"
        assert seen == []
        async with caller("127.0.0.1", ca=file) as client:
            assert (await client.request("GET", f"https://127.0.0.1:{port}/")).status == 200


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a file with a self-signed certificate for an address, and its key."""

    def make(address: str) -> Path:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        file = tmp_path / "certificate.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        return file

    return make
