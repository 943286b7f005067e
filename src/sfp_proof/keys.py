"""The public keys of an instance's auditor, oldest first: what it signs is checked with the one that it names."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

_END = "-----END PUBLIC KEY-----"


class BadKeys(Exception):
    """The text holds no keys that we can use."""


def key_id(key: Ed25519PublicKey) -> str:
    """The name of a key: the beginning of its SHA-256, in hex."""
    return hashlib.sha256(_raw(key)).hexdigest()[:16]


class KeyRing:
    """Public keys by their ids, in the order in which they were used."""

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}
        self._order = {name: number for number, name in enumerate(self._keys)}

    @classmethod
    def read(cls, text: str) -> "KeyRing":
        """From PEM, one after the other, or from a JWK set as the server publishes it. Raises BadKeys."""
        try:
            keys = _from_jwks(json.loads(text)) if text.lstrip().startswith("{") else _from_pem(text)
        except (ValueError, KeyError, TypeError) as error:
            raise BadKeys("these are not the public keys of an auditor (PEM or a JWK set, Ed25519)") from error
        if not keys:
            raise BadKeys("there is no key in it")
        return cls(keys)

    @property
    def ids(self) -> list[str]:
        return list(self._keys)

    def age(self, name: str) -> int:
        """How many keys came before this one; -1: unknown."""
        return self._order.get(name, -1)

    def signed(self, name: str, signature: bytes, message: bytes) -> bool:
        """Whether the key `name` has signed `message`."""
        key = self._keys.get(name)
        if key is None:
            return False
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    def jwks(self) -> dict[str, Any]:
        """As a JWK set (RFC 8037), oldest first."""
        return {
            "keys": [
                {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": name, "x": _encoded(_raw(key))}
                for name, key in self._keys.items()
            ]
        }


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _from_pem(text: str) -> list[Ed25519PublicKey]:
    blocks = [block + _END for block in text.split(_END)[:-1]]
    keys = [load_pem_public_key(block.strip().encode()) for block in blocks]
    return [key for key in keys if isinstance(key, Ed25519PublicKey)]


def _from_jwks(document: Mapping[str, Any]) -> list[Ed25519PublicKey]:
    found = [entry for entry in document["keys"] if entry["kty"] == "OKP" and entry["crv"] == "Ed25519"]
    return [Ed25519PublicKey.from_public_bytes(_decoded(entry["x"])) for entry in found]


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
