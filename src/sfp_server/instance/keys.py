"""The secrets of an instance: made once by `init`, one private file each in `secrets/` and `signing/`."""

import os
import secrets as random
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sfp_server.instance.place import Place, make_directory, write

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ROLES = (
    "postgres",
    "sfp_migrator",
    "sfp_api",
    "sfp_dispatcher",
    "sfp_broker",
    "sfp_deliverer",
    "sfp_courier",
    "sfp_auditor",
)
PASSWORDS = (*(f"db-{role}" for role in ROLES), "valkey")
#: with the source `environment`: the vault's keys, or where systemd put them
KEY_VARIABLES = ("SFP_VAULT_KEYS", "CREDENTIALS_DIRECTORY")
#: what an instance cannot start without
REQUIRED = (
    *PASSWORDS,
    "answer-key",
    "edge-key",
    "broker-key",
    "audit-key",
    "audit-signing.pem",
    "audit-public.pem",
    "provider-key",
)


def make_secrets(at: Place, *, with_vault: bool = True) -> None:
    """Write every secret of REQUIRED, fresh; and the vault's keys, unless they are kept elsewhere."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    make_directory(at.secrets)
    for name in PASSWORDS:
        write(at.secrets / name, random.token_urlsafe(32))
    write(at.secrets / "audit-key", random.token_hex(32))
    write(at.secrets / "provider-key", random.token_hex(32))
    write(at.secrets / "answer-key", random.token_hex(32))
    write(at.secrets / "edge-key", random.token_hex(32))
    add_signing_key(at)
    auditor = Ed25519PrivateKey.generate()
    write(at.secrets / "audit-signing.pem", _private_pem(auditor))
    write(at.secrets / "audit-public.pem", _public_pem(auditor))
    write(at.secrets / "broker-key", random.token_hex(32))
    if with_vault:
        make_vault(at)


def make_vault(at: Place) -> None:
    """The vault's first key pair: the private half where only the broker looks, the public one for the API."""
    from sfp_server.credentials.ring import Ring

    make_directory(at.vault)
    ring = Ring.fresh()
    write(at.vault / "keys", ring.text())
    write(at.secrets / "vault-public", ring.public(ring.current).hex())


def add_signing_key(at: Place) -> Path:
    """A new key that signs user tokens from now on; the others stay. Answers its file, of the directory's owner."""
    from sfp_server.identity.keyset import files, new_key

    make_directory(at.signing)
    newest = max((int(path.stem) for path in files(at.signing)), default=0)
    file = at.signing / f"{max(int(time.time()), newest + 1)}.pem"
    owner = at.signing.stat()
    write(file, new_key())
    if os.geteuid() == 0:
        os.chown(file, owner.st_uid, owner.st_gid)
    return file


def drop_signing_keys(at: Place, *, life: int, now: float, all_old: bool = False) -> list[Path]:
    """Remove the keys whose last token has died (`life`: seconds of a token), or all but the newest; answers which."""
    from sfp_server.identity.keyset import files, needed

    found = files(at.signing)
    keeps = needed([int(path.stem) for path in found], life, now)
    old = [
        path for path, is_needed in zip(found, keeps, strict=True) if not is_needed or (all_old and path != found[-1])
    ]
    for path in old:
        path.unlink(missing_ok=True)
    return old


def replace_audit_key(at: Place) -> None:
    """A new key for the auditor, which takes it at its next start; the public halves of all keys stay, oldest first.

    The public half first: after a crash in between there is a key too many, which signs nothing.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    auditor = Ed25519PrivateKey.generate()
    public = at.secrets / "audit-public.pem"
    write(public, public.read_text() + _public_pem(auditor))
    write(at.secrets / "audit-signing.pem", _private_pem(auditor))


def authority(at: Place) -> str:
    """PEM of the authority that other machines know the instance by; made when it is first asked for."""
    from sfp_server.remote import tls

    file = at.secrets / "network-ca.pem"
    if not file.is_file():
        write(file, tls.new_authority())
    return file.read_text()


def make_network_certificates(at: Place) -> None:
    """Fresh certificates of the courier and the broker, as at every start; the authority stays."""
    from sfp_server.remote import tls
    from sfp_server.runtimes import broker

    signer = authority(at)
    write(at.secrets / "network-ca.crt", tls.certificate_of(signer))
    write(at.secrets / "courier-tls.pem", tls.issue(signer, tls.COURIER))
    write(at.secrets / "broker-tls.pem", tls.issue(signer, broker.NAME))


def missing(at: Place) -> list[str]:
    """Names of required secret files that are not there or empty."""
    lost = [name for name in REQUIRED if not _has_text(at.secrets / name)]
    own_vault = (at.secrets / "vault-public").is_file()  # else its keys are kept elsewhere
    vault = ["vault/keys"] if own_vault and not _has_text(at.vault / "keys") else []
    signing = [] if any(map(_has_text, at.signing.glob("*.pem"))) else ["signing/*.pem"]
    return lost + vault + signing


def owner_password() -> str:
    """A password for a person to copy once: 24 characters, 143 bits."""
    alphabet = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789-_."
    return "".join(random.choice(alphabet) for _ in range(24))


def _has_text(path: Path) -> bool:
    try:
        return bool(path.read_text().strip())
    except OSError:
        return False


def _private_pem(key: "Ed25519PrivateKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _public_pem(key: "Ed25519PrivateKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
