"""Sealing of stored values: envelope encryption with associated data.

A fresh AES-256-GCM key encrypts the value; HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM) seals that key to
the instance's public key. Both are bound to the `Place` of the value, the sealed key to the version of the key pair
too: a database writer who moves a sealed value to another row, team, field or version makes it unreadable. What the
API sealed it cannot open: it has no private key. For a new key pair the sealed key is made anew, the value stays.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_NONCE_BYTES = 12


class CannotOpen(Exception):
    """The value was sealed for another place or key, or was changed."""


class UnknownKey(CannotOpen):
    """It was sealed to a key pair that this opener does not have (any more, or yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a sealed value stands; it can be opened nowhere else."""

    table: str
    row_id: UUID
    team_id: UUID
    field: str
    version: int

    def associated_data(self) -> bytes:
        parts = ("sfp.v2", self.table, str(self.row_id), str(self.team_id), self.field, str(self.version))
        return "|".join(parts).encode()

    def for_key(self, version: int) -> bytes:
        """What the sealed key is bound to: the place, and the key pair that opens it."""
        return self.associated_data() + f"|key {version}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An encrypted value and its sealed key, as the database keeps them."""

    #: number of the key pair that the key is sealed to
    key_version: int
    sealed_key: bytes
    ciphertext: bytes


class Sealer:
    """Has one public key: can seal, cannot open."""

    def __init__(self, public_key: bytes, *, version: int) -> None:
        self._key = X25519PublicKey.from_public_bytes(public_key)
        self.version = version

    def seal(self, value: bytes, place: Place) -> Sealed:
        """Encrypt `value` for `place`."""
        data_key = AESGCM.generate_key(256)
        nonce = os.urandom(_NONCE_BYTES)
        return Sealed(
            key_version=self.version,
            sealed_key=self.wrap(data_key, place),
            ciphertext=nonce + AESGCM(data_key).encrypt(nonce, value, place.associated_data()),
        )

    def wrap(self, data_key: bytes, place: Place) -> bytes:
        """Seal the key of a value that stands in `place`."""
        return _SUITE.encrypt(data_key, self._key, info=place.for_key(self.version))


class Opener:
    """Has the private keys. Only the broker makes one."""

    def __init__(self, keys: Mapping[int, X25519PrivateKey]) -> None:
        self._keys = dict(keys)

    def open(self, sealed: Sealed, place: Place) -> bytes:
        """Decrypt a value sealed for exactly `place`. Raises CannotOpen."""
        nonce, body = sealed.ciphertext[:_NONCE_BYTES], sealed.ciphertext[_NONCE_BYTES:]
        try:
            data_key = self._unwrap(sealed.key_version, sealed.sealed_key, place)
            return AESGCM(data_key).decrypt(nonce, body, place.associated_data())
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("the stored value cannot be opened") from error

    def rewrap(self, key_version: int, sealed_key: bytes, place: Place, to: Sealer) -> bytes:
        """The key of the value in `place`, sealed to another key pair; the value is not touched. Raises CannotOpen."""
        try:
            return to.wrap(self._unwrap(key_version, sealed_key, place), place)
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("the stored value cannot be opened") from error

    def _unwrap(self, key_version: int, sealed_key: bytes, place: Place) -> bytes:
        if key_version not in self._keys:
            raise UnknownKey(f"there is no private key {key_version}")
        return _SUITE.decrypt(sealed_key, self._keys[key_version], info=place.for_key(key_version))
