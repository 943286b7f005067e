"""Where tokens are kept: the OS keyring when there is a usable one, else a private file; and it never hangs."""

import json
import os
import subprocess
import sys
import threading

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError

from sfp_client.cli import keep
from sfp_client.cli.keep import Account, SignIns, usable_keyring
from sfp_client.cli.output import Failure

PAIR = {"access_token": "access", "refresh_token": "refresh"}
RENEWED = {"access_token": "access-2", "refresh_token": "refresh-2"}
ACME = Account(url="https://sfp.example", email="me@acme.example", kept_in="")


class Desk(KeyringBackend):
    """A keyring as a desktop has one."""

    priority = 5

    def __init__(self):
        super().__init__()
        self.kept = {}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")


class Clear(Desk):
    """Keeps text in the clear, and says so by its priority."""

    priority = 0.5


class Locked(Desk):
    """Waits for somebody to unlock it."""

    def get_password(self, service, username):
        threading.Event().wait()

    set_password = delete_password = get_password


@pytest.fixture
def environ(tmp_path):
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def desk(environ, monkeypatch):
    def put(backend):
        monkeypatch.setattr(keyring.core, "_keyring_backend", backend)
        environ["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
        return backend

    return put


def test_a_keyring_keeps_the_tokens_and_the_file_does_not(environ, desk):
    backend = desk(Desk())
    sign_ins = SignIns(environ)
    kept = sign_ins.keep(ACME, PAIR)
    assert kept.kept_in == "keyring"
    assert backend.kept == {("sfp-pro", "me@acme.example https://sfp.example"): json.dumps(PAIR)}
    assert "access" not in sign_ins.file.read_text()
    sign_ins.replace(kept, RENEWED)
    assert sign_ins.tokens(kept) == RENEWED
    sign_ins.forget(kept)
    sign_ins.forget(kept)
    assert (backend.kept, sign_ins.all()) == ({}, [])


def test_without_a_keyring_a_private_file_keeps_them_and_it_is_said_once(environ, capsys):
    sign_ins = SignIns(environ)
    kept = sign_ins.keep(ACME, PAIR)
    sign_ins.keep(Account(url=ACME.url, email="other@acme.example", kept_in=""), PAIR)
    assert kept.kept_in == "file"
    assert (sign_ins.file.stat().st_mode & 0o777, sign_ins.file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    sign_ins.replace(kept, RENEWED)
    assert sign_ins.tokens(kept) == RENEWED
    assert capsys.readouterr().err.count("there is no OS keyring here") == 1


def test_a_keyring_that_keeps_text_in_the_clear_is_not_used(environ, desk):
    backend = desk(Clear())
    assert SignIns(environ).keep(ACME, PAIR).kept_in == "file"
    assert backend.kept == {}


def test_a_keyring_that_does_not_answer_is_not_waited_for(environ, desk, monkeypatch):
    monkeypatch.setattr(keep, "PATIENCE", 0.1)
    monkeypatch.setattr(keep, "PATIENCE_OF_A_PERSON", 0.1)
    desk(Locked())
    assert SignIns(environ).keep(ACME, PAIR).kept_in == "file"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems always have a session")
def test_a_machine_without_a_session_does_not_even_load_the_keyring(tmp_path):
    program = (
        "import sys\nfrom sfp_client.cli.keep import usable_keyring\n"
        "assert usable_keyring({}) is None\nassert 'keyring' not in sys.modules"
    )
    environ = {name: os.environ[name] for name in ("PATH",)}
    assert subprocess.run([sys.executable, "-c", program], env=environ).returncode == 0


@pytest.mark.parametrize("name", ["keyring.backends.fail.Keyring", "keyring.backends.null.Keyring"])
def test_a_keyring_that_was_switched_off_is_not_used(environ, desk, name):
    desk(Desk())
    assert usable_keyring(environ | {"PYTHON_KEYRING_BACKEND": name}) is None


def test_the_newest_sign_in_of_a_server_is_found_and_users_are_kept_apart(environ):
    sign_ins = SignIns(environ)
    for email in ("one@x", "two@x"):
        sign_ins.keep(Account(url=ACME.url, email=email, kept_in=""), PAIR)
    assert sign_ins.find(ACME.url, None).email == "two@x"
    assert sign_ins.find(ACME.url, "ONE@x").email == "one@x"
    assert sign_ins.find(ACME.url, "three@x") is None
    assert sign_ins.find("https://other.example", None) is None


@pytest.mark.parametrize("text", ["{", '{"url": 1}', '[{"unknown": 1}]', "[1]"])
def test_a_broken_file_says_how_to_start_afresh(environ, text):
    sign_ins = SignIns(environ)
    sign_ins.keep(ACME, PAIR)
    sign_ins.file.write_text(text)
    with pytest.raises(Failure, match="auth clear --all"):
        sign_ins.all()
    assert sign_ins.all_or_none() == []
    assert sign_ins.all() == []
