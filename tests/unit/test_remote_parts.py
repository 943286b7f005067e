"""Parts of the dispatcher elsewhere that need neither a network nor a database."""

import ssl
import struct
from pathlib import Path

import pytest

from sfp_server.processes.elsewhere import access, agreed
from sfp_server.remote import courier, tls
from sfp_server.remote.client import Address
from sfp_server.remote.enrolments import NAME
from sfp_server.remote.token import BadToken, Token
from sfp_server.settings import Settings, SettingsError

TOKEN = Token.fresh(b"f" * 32)


def environ(**more: str) -> dict[str, str]:
    known = {
        "SFP_DISPATCH_DATABASE_URL": "postgresql://sfp_at_x@example/sfp",
        "SFP_BROKER": "tls://example:9443",
        "SFP_DISPATCHER_TOKEN": TOKEN.text(),
        "HOME": "/home/somebody",
    }
    return {**known, **more}


def test_a_token_is_read_as_it_was_written():
    assert Token.parse(f"  {TOKEN.text()}\n") == TOKEN
    assert len(TOKEN.text()) == 91


@pytest.mark.parametrize(
    "text", ["", "sfpd_", "sfp_" + "a" * 86, "sfpd_" + "a" * 85, "sfpd_" + "ä" * 86, "sfpd_" + "!" * 86]
)
def test_what_is_no_token_is_said_to_be_none_without_quoting_it(text):
    with pytest.raises(BadToken) as error:
        Token.parse(text)
    assert "!!!" not in str(error.value)
    assert "aaa" not in str(error.value)


def test_what_is_derived_of_a_token_tells_nothing_of_the_rest():
    derived = {TOKEN.password(), TOKEN.courier_key(), TOKEN.prove("ticket"), TOKEN.text()}
    assert len(derived) == 4
    other = Token.fresh(b"f" * 32)
    assert derived.isdisjoint({other.password(), other.courier_key(), other.prove("ticket"), other.text()})


def test_flags_and_environment_make_a_contract():
    settings, contract = agreed(environ(DATABASE_URL="postgresql://else/where"), token_file=None, directory=None)
    assert settings.directory == Path("/home/somebody/.local/state/sfp-dispatcher/example-9443")
    assert settings.database_url is None
    assert contract.address == Address(host="example", port=9443)
    assert TOKEN.text() not in repr(contract)


@pytest.mark.parametrize(
    "change",
    [
        {"SFP_BROKER": ""},
        {"SFP_BROKER": "example:9443"},
        {"SFP_BROKER": "tls://example"},
        {"SFP_DISPATCHER_TOKEN": ""},
        {"SFP_DISPATCHER_TOKEN": "nonsense"},
        {"SFP_DISPATCH_DATABASE_URL": ""},
        {"SFP_DISPATCHER_SLOTS": "-1"},
        {"SFP_DISPATCHER_TOOLCHAINS": "salesforce"},
    ],
)
def test_a_contract_that_cannot_be_says_why(change):
    with pytest.raises(SettingsError):
        agreed(environ(**change), token_file=None, directory=None)


def test_the_url_decides_about_tls_and_password_where_it_says_so():
    certificate = tls.certificate_of(tls.new_authority())

    def needed(url: str) -> dict[str, object]:
        _, contract = agreed(environ(SFP_DISPATCH_DATABASE_URL=url), token_file=None, directory=None)
        return dict(access(contract, certificate))

    ours = needed("postgresql://sfp_at_x@example/sfp")
    assert ours["password"] == TOKEN.password()
    assert isinstance(ours["ssl"], ssl.SSLContext)
    assert ours["ssl"].verify_mode is ssl.CERT_REQUIRED
    assert needed("postgresql://x:secret@example/sfp?sslmode=verify-full") == {}


@pytest.mark.parametrize("listen", ["9443", "host:", "host:0", "host:70000", "host:x"])
def test_where_to_listen_is_host_and_port(listen, tmp_path):
    with pytest.raises(SettingsError):
        Settings(directory=tmp_path, dispatchers_listen=listen)


def test_where_to_listen_may_be_everywhere(tmp_path):
    assert Settings(directory=tmp_path, dispatchers_listen="[::]:9443").listen_address() == ("::", 9443)
    assert Settings(directory=tmp_path, dispatchers_listen="0.0.0.0:9443").listen_address() == ("0.0.0.0", 9443)


def startup(body: bytes, code: int = 3 << 16) -> bytes:
    return struct.pack("!ii", 8 + len(body), code) + body


def test_only_a_dispatcher_s_role_gets_a_session():
    assert courier._role(startup(b"user\0sfp_at_x_1\0database\0sfp\0\0")) == "sfp_at_x_1"
    assert courier._role(startup(b"12345678", 80877102)) is None
    for body in (b"", b"\0", b"user\0postgres\0\0", b"database\0sfp\0\0", b"user\0sfp_at_x\0user\0postgres\0\0",
                 b"user\0sfp_at_x\0replication\0database\0\0", b"database\0user\0sfp_at_x\0x\0\0"):  # fmt: skip
        with pytest.raises(ValueError, match="not a dispatcher's role"):
            courier._role(startup(body))


def test_certificates_are_for_one_name_each_and_of_one_authority(tmp_path):
    authority, stranger = tls.new_authority(), tls.new_authority()
    (tmp_path / "courier.pem").write_text(tls.issue(authority, tls.COURIER))
    server, client = ssl.MemoryBIO(), ssl.MemoryBIO()
    for trusted, name, works in (
        (authority, tls.COURIER, True),
        (authority, "broker.sfp.internal", False),
        (stranger, tls.COURIER, False),
    ):
        server, client = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = tls.trusting(tls.certificate_of(trusted))
        there = tls.serving(str(tmp_path / "courier.pem")).wrap_bio(client, server, server_side=True)
        here = context.wrap_bio(server, client, server_hostname=name)
        assert shakes(here, there) == works


def shakes(here: ssl.SSLObject, there: ssl.SSLObject) -> bool:
    for _ in range(5):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError:
                return False
    return True


@pytest.mark.parametrize("name", ["a", "builder", "build-1", "x" * 40])
def test_names_of_machines(name):
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "x" * 41, "a;b", "a'b"])
def test_what_is_no_name_of_a_machine(name):
    assert NAME.fullmatch(name) is None
