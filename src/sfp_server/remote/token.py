"""The token of a dispatcher on another machine: one line of text from which everything else is derived.

It is never sent whole. The database gets a password, the courier a key, the broker signatures; each tells nothing
about the others, and the instance keeps only what checks them. The token also names the instance's own authority by
its fingerprint, so that the first connection needs no trust.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Self

from sfp_server.credentials import proof

_PREFIX = "sfpd_"
#: 32 bytes in base64 without padding
_PART = 43
#: PostgreSQL's own number; the password has 256 bits
_SCRAM_ROUNDS = 4096


class BadToken(ValueError):
    """The text is no token of a dispatcher."""


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A dispatcher's secret, and whom it may tell."""

    secret: bytes = field(repr=False)
    #: SHA-256 of the certificate of the instance's authority
    fingerprint: bytes

    @classmethod
    def fresh(cls, fingerprint: bytes) -> Self:
        """A new one for the instance with this authority."""
        return cls(secret=secrets.token_bytes(32), fingerprint=fingerprint)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises BadToken; the text is not in it."""
        text = text.strip()
        body = text.removeprefix(_PREFIX)
        if not text.startswith(_PREFIX) or len(body) != 2 * _PART or not body.isascii():
            raise BadToken("this is not the token of a dispatcher: it begins with sfpd_ and has 91 characters")
        try:
            secret, fingerprint = (
                base64.b64decode(part + "=", altchars=b"-_", validate=True) for part in (body[:_PART], body[_PART:])
            )
        except ValueError as error:
            raise BadToken("the token is damaged: copy it again") from error
        return cls(secret=secret, fingerprint=fingerprint)

    def text(self) -> str:
        """What its owner is shown, once."""
        return f"{_PREFIX}{_text(self.secret)}{_text(self.fingerprint)}"

    def password(self) -> str:
        """Of the dispatcher's login role in the database."""
        return _text(self._derived("database"))

    def password_verifier(self) -> str:
        """The password as PostgreSQL stores it: it need not be sent there in the clear (RFC 5803)."""
        salt = secrets.token_bytes(16)
        salted = hashlib.pbkdf2_hmac("sha256", self.password().encode(), salt, _SCRAM_ROUNDS)
        stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
        server = hmac.digest(salted, b"Server Key", "sha256")
        texts = [base64.b64encode(data).decode() for data in (salt, stored, server)]
        return f"SCRAM-SHA-256${_SCRAM_ROUNDS}:{texts[0]}${texts[1]}:{texts[2]}"

    def courier_key(self) -> str:
        """What the courier is shown with each request."""
        return _text(self._derived("courier"))

    def courier_hash(self) -> bytes:
        """What the instance keeps of `courier_key`."""
        return hash_of(self.courier_key())

    def prove(self, ticket: str) -> str:
        """The broker's proof that a ticket is this dispatcher's."""
        return proof.prove(self._derived("broker"), ticket)

    def public_key(self) -> bytes:
        """What the instance keeps to check proofs."""
        return proof.public_key(self._derived("broker"))

    def _derived(self, purpose: str) -> bytes:
        return hmac.digest(self.secret, b"sfp dispatcher " + purpose.encode(), "sha256")


def hash_of(courier_key: str) -> bytes:
    return hashlib.sha256(courier_key.encode()).digest()
