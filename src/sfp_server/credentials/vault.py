"""Sealing of stored values: envelope encryption with associated data.

A fresh AES-256-GCM key encrypts the value; HPKE (RFC 9180: X25519, HKDF-SHA256, AES-256-GCM) seals that key to
the instance's public key. Both are bound to the `Place` of the value: a database writer who moves a sealed value
to another row, team or field makes it unreadable. What the API sealed it cannot open: it has no private key.
"""

import os
from dataclasses import dataclass
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_NONCE_BYTES = 12

#: number of the key pair in use; rises with each rotation of the master key
KEY_VERSION = 1


class CannotOpen(Exception):
    """The value was sealed for another place or key, or was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a sealed value stands; it can be opened nowhere else."""

    table: str
    row_id: UUID
    team_id: UUID
    field: str
    version: int
    key_version: int = KEY_VERSION

    def associated_data(self) -> bytes:
        return "|".join(
            (
                "sfp.v1",
                self.table,
                str(self.row_id),
                str(self.team_id),
                self.field,
                str(self.version),
                str(self.key_version),
            )
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An encrypted value and its sealed key, as the database keeps them."""

    sealed_key: bytes
    ciphertext: bytes


class Sealer:
    """Has the public key: can seal, cannot open."""

    def __init__(self, public_pem: str) -> None:
        key = load_pem_public_key(public_pem.encode())
        if not isinstance(key, X25519PublicKey):
            raise TypeError("the vault's public key must be X25519")
        self._key = key

    def seal(self, value: bytes, place: Place) -> Sealed:
        """Encrypt `value` for `place`."""
        data = place.associated_data()
        data_key = AESGCM.generate_key(256)
        nonce = os.urandom(_NONCE_BYTES)
        return Sealed(
            sealed_key=_SUITE.encrypt(data_key, self._key, info=data),
            ciphertext=nonce + AESGCM(data_key).encrypt(nonce, value, data),
        )


class Opener:
    """Has the private key. Only the broker makes one."""

    def __init__(self, private_pem: str) -> None:
        key = load_pem_private_key(private_pem.encode(), password=None)
        if not isinstance(key, X25519PrivateKey):
            raise TypeError("the vault's private key must be X25519")
        self._key = key

    def open(self, sealed: Sealed, place: Place) -> bytes:
        """Decrypt a value sealed for exactly `place`. Raises CannotOpen."""
        data = place.associated_data()
        nonce, body = sealed.ciphertext[:_NONCE_BYTES], sealed.ciphertext[_NONCE_BYTES:]
        try:
            data_key = _SUITE.decrypt(sealed.sealed_key, self._key, info=data)
            return AESGCM(data_key).decrypt(nonce, body, data)
        except (InvalidTag, ValueError) as error:
            raise CannotOpen("the stored value cannot be opened") from error
