"""Keeps sign-ins: tokens in the OS keyring (service `sfp-pro`), without one in a private file.

`sign-ins.json` (0600, in a 0700 directory) lists who signed in where; it holds the tokens themselves only when
there is no usable keyring. A machine without a desktop session must not hang: there the keyring is not even asked.
"""

import fcntl
import hashlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from sfp_client.cli.config import user_directory
from sfp_client.cli.output import Failure, fail, note
from sfp_client.shapes import TokenPair

SERVICE = "sfp-pro"
#: seconds for the keyring to answer; with a terminal its owner may have to unlock it
PATIENCE = 5.0
PATIENCE_OF_A_PERSON = 60.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One sign-in: who, where, and where its tokens are (`keyring` or `file`)."""

    url: str
    email: str
    kept_in: str
    ca_file: str | None = None
    signed_in_at: str = ""
    tokens: TokenPair | None = None

    @property
    def name(self) -> str:
        """What the keyring calls it."""
        return f"{self.email} {self.url}"


class SignIns:
    """All sign-ins of this user on this machine."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._directory = user_directory(environ)
        self._environ = environ

    @property
    def file(self) -> Path:
        return self._directory / "sign-ins.json"

    def all(self) -> list[Account]:
        """Newest last."""
        try:
            listed = cast("list[dict[str, Any]]", json.loads(self.file.read_text()))
            return [Account(**item) for item in listed]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError):
            fail(f"{self.file} cannot be read: run sfp-server auth clear --all, then sign in again")

    def all_or_none(self) -> list[Account]:
        """As `all`, but a file that cannot be read is as good as empty: to start afresh."""
        try:
            return self.all()
        except Failure as failure:
            note(str(failure))
            self.file.unlink(missing_ok=True)
            return []

    def find(self, url: str, email: str | None) -> Account | None:
        """The newest sign-in at `url`, of `email` when it is given."""
        for account in reversed(self.all()):
            if account.url == url and (email is None or account.email.lower() == email.lower()):
                return account
        return None

    def tokens(self, account: Account) -> TokenPair | None:
        if account.kept_in == "file":
            found = self.find(account.url, account.email)
            return found.tokens if found else None
        keyring = usable_keyring(self._environ)
        text = None if keyring is None else _in_time(lambda: keyring.get_password(SERVICE, account.name))
        return None if text is None else cast("TokenPair", json.loads(text))

    def keep(self, account: Account, pair: TokenPair) -> Account:
        """Store a new sign-in, replacing the one of the same user; says so when there is no keyring."""
        kept = replace(account, kept_in=self._put(account, pair), tokens=None)
        if kept.kept_in == "file":
            if not any(other.kept_in == "file" for other in self.all()):
                note(f"there is no OS keyring here: tokens are kept in {self.file}, readable by you only")
            kept = replace(kept, tokens=pair)
        self._change(lambda accounts: [*_without(accounts, kept), kept])
        return kept

    def replace(self, account: Account, pair: TokenPair) -> None:
        """Store the renewed tokens of a sign-in where the old ones are."""
        if account.kept_in == "keyring":
            if self._put(account, pair) == "keyring":
                return
            fail("the OS keyring no longer answers, so the renewed sign-in is lost: sign in again")
        renewed = replace(account, tokens=pair)
        self._change(lambda accounts: [renewed if item.name == renewed.name else item for item in accounts])

    def forget(self, account: Account) -> None:
        if account.kept_in == "keyring" and (keyring := usable_keyring(self._environ)) is not None:
            from keyring.errors import KeyringError

            def drop() -> None:
                try:
                    keyring.delete_password(SERVICE, account.name)
                except KeyringError:
                    return  # it was not there

            _in_time(drop)
        self._change(lambda accounts: _without(accounts, account))

    @contextmanager
    def exclusive(self, account: Account) -> Generator[None]:
        """Only one process of this user renews this sign-in at a time."""
        name = hashlib.sha256(account.name.encode()).hexdigest()[:16]
        with self._locked(f"renew-{name}.lock"):
            yield

    def _put(self, account: Account, pair: TokenPair) -> str:
        """Try the keyring; returns where the tokens belong."""
        keyring = usable_keyring(self._environ)
        if keyring is None:
            return "file"

        def store() -> bool:
            keyring.set_password(SERVICE, account.name, json.dumps(pair))
            return True

        return "keyring" if _in_time(store) else "file"

    def _change(self, change: Callable[[list[Account]], list[Account]]) -> None:
        with self._locked("sign-ins.lock"):
            accounts = change(self.all())
            write_private(self.file, json.dumps([asdict(account) for account in accounts], indent=2) + "\n")

    @contextmanager
    def _locked(self, name: str) -> Generator[None]:
        private_directory(self._directory)
        descriptor = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


class Kept:
    """A `renewal.Keeper` over one stored sign-in."""

    def __init__(self, sign_ins: SignIns, account: Account) -> None:
        self._sign_ins = sign_ins
        self._account = account

    def load(self) -> TokenPair | None:
        return self._sign_ins.tokens(self._account)

    def save(self, pair: TokenPair) -> None:
        self._sign_ins.replace(self._account, pair)

    @contextmanager
    def exclusive(self) -> Generator[None]:
        with self._sign_ins.exclusive(self._account):
            yield


def usable_keyring(environ: Mapping[str, str]) -> Any:  # keyring.backend.KeyringBackend, or None
    """The OS keyring, or None: no desktop session, no backend, or one that keeps text in the clear."""
    chosen = environ.get("PYTHON_KEYRING_BACKEND", "")
    if chosen.endswith((".fail.Keyring", ".null.Keyring")):
        return None
    if sys.platform == "linux" and not chosen and not _has_session_bus(environ):
        return None
    backend = _in_time(_backend)
    return backend if backend is not None and backend.priority >= 1 else None


def _backend() -> Any:  # keyring has no common type for what a backend may be
    import keyring

    return keyring.get_keyring()


def _has_session_bus(environ: Mapping[str, str]) -> bool:
    runtime = environ.get("XDG_RUNTIME_DIR")
    return bool(environ.get("DBUS_SESSION_BUS_ADDRESS")) or (bool(runtime) and (Path(str(runtime)) / "bus").exists())


def _in_time(ask: Callable[[], Answer]) -> Answer | None:
    """What `ask` returns, or None when it fails or does not answer: a keyring may wait for ever."""
    answers: list[Answer] = []

    def run() -> None:
        with suppress(Exception):  # each backend has errors of its own; all mean: not usable
            answers.append(ask())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE_OF_A_PERSON if sys.stdin.isatty() else PATIENCE)
    return answers[0] if answers else None


def _without(accounts: list[Account], gone: Account) -> list[Account]:
    return [account for account in accounts if account.name != gone.name]


def private_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Replace a file at once; only its owner can read it."""
    private_directory(path.parent)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
