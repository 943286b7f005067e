"""Sealing with keys that are in no database: answers that show a secret once, and the client secrets of providers."""

import base64
import hmac
import os
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sfp_server.errors import Conflict, ProviderFailed


class AnswerSeal:
    """Encrypts the field `token` of an answer, bound to the answer's `id`, with a key that is in no database."""

    def __init__(self, secret: str) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"sfp idempotent answers v1").derive(
            secret.encode()
        )
        self._cipher = AESGCM(derived)
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"sfp idempotent requests v1").derive(
            secret.encode()
        )

    def fingerprint(self, request: bytes) -> bytes:
        """Tells requests apart without telling what is in them: for those that carry a password."""
        return hmac.digest(self._key, request, "sha256")

    def seal(self, body: dict[str, Any]) -> dict[str, Any]:
        nonce = os.urandom(12)
        sealed = nonce + self._cipher.encrypt(nonce, body["token"].encode(), str(body["id"]).encode())
        return body | {"token": base64.b64encode(sealed).decode()}

    def unseal(self, body: dict[str, Any]) -> dict[str, Any]:
        """Undo `seal`. Raises Conflict when the key is another one now."""
        sealed = base64.b64decode(body["token"])
        try:
            opened = self._cipher.decrypt(sealed[:12], sealed[12:], str(body["id"]).encode())
        except InvalidTag as error:
            raise Conflict("the first answer cannot be shown again: the instance's key was replaced") from error
        return body | {"token": opened.decode()}


class ProviderSeal:
    """Encrypts the client secret of an identity provider, bound to the provider's id.

    The API itself must open it to talk to the provider, so it is not sealed for the broker as other secrets are.
    """

    def __init__(self, secret: str) -> None:
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"sfp identity providers v1").derive(
            secret.encode()
        )
        self._cipher = AESGCM(derived)

    def seal(self, provider_id: UUID, secret: str) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._cipher.encrypt(nonce, secret.encode(), provider_id.bytes)

    def unseal(self, provider_id: UUID, sealed: bytes) -> str:
        """Undo `seal`. Raises ProviderFailed when the key is another one now, or the row is not the one it was."""
        try:
            return self._cipher.decrypt(sealed[:12], sealed[12:], provider_id.bytes).decode()
        except InvalidTag as error:
            raise ProviderFailed(
                "the client secret of this provider cannot be read: an owner must set it again"
            ) from error
