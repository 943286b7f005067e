"""The vault's private keys by version, and what the outside knows of them.

A ring is a text: one JSON object, `{"1": "<32 bytes, base64>", …}`. It is kept by one source (`sources.py`) and read
by the broker alone. The public halves are rows of `vault_keys`; each is vouched for with a key that the broker and the
API have as a file, so that nobody who writes the database can have values sealed to a key of their own.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sfp_server.credentials.vault import Opener, Sealer

#: keeps this use of the key apart from others
_PURPOSE = b"sfp vault key 1\0"


class BadRing(Exception):
    """The text is no ring of keys. Says what is wrong, never what it holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Private keys by version: the highest is in use, the others open what is not sealed anew yet."""

    keys: Mapping[int, bytes]

    @classmethod
    def fresh(cls) -> Self:
        """One new key pair, version 1."""
        return cls(keys={1: X25519PrivateKey.generate().private_bytes_raw()})

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BadRing."""
        try:
            document = msgspec.json.decode(text, type=dict[str, str])
            keys = {int(version): base64.b64decode(key, validate=True) for version, key in document.items()}
        except (msgspec.MsgspecError, binascii.Error, ValueError):
            raise BadRing("the vault's keys are not a JSON object of version to base64") from None  # it quotes the text
        if not keys or any(len(key) != 32 or version < 1 for version, key in keys.items()):
            raise BadRing("the vault's keys must be one or more, of 32 bytes each, with versions from 1")
        return cls(keys=keys)

    def text(self) -> str:
        return msgspec.json.encode(
            {str(version): base64.b64encode(key).decode() for version, key in sorted(self.keys.items())}
        ).decode()

    @property
    def current(self) -> int:
        return max(self.keys)

    def public(self, version: int) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.keys[version]).public_key().public_bytes_raw()

    def opener(self) -> Opener:
        return Opener({version: X25519PrivateKey.from_private_bytes(key) for version, key in self.keys.items()})

    def sealer(self) -> Sealer:
        """Seals to the key in use."""
        return Sealer(self.public(self.current), version=self.current)

    def with_next(self) -> "Ring":
        """A new key pair beside the others."""
        return Ring(keys={**self.keys, self.current + 1: X25519PrivateKey.generate().private_bytes_raw()})

    def without(self, version: int) -> "Ring":
        return Ring(keys={number: key for number, key in self.keys.items() if number != version})


def vouch(key: bytes, version: int, public_key: bytes) -> bytes:
    """What stands beside a public key in the database."""
    return hmac.digest(key, _PURPOSE + version.to_bytes(4, "big") + public_key, hashlib.sha256)


def is_vouched(key: bytes, version: int, public_key: bytes, mac: bytes) -> bool:
    return hmac.compare_digest(vouch(key, version, public_key), mac)
