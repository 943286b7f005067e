"""How the dispatcher of another machine shows that a ticket is its own: a signature over it, made anew for each ticket.

The worker passes it on with its ticket; it is worth nothing with any other. What checks it is public.
"""

import base64
import binascii

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

#: keeps a signature for the broker from being one for anything else
_PURPOSE = b"sfp broker ticket 1\0"


def prove(seed: bytes, ticket: str) -> str:
    """The proof for one ticket; `seed` is the dispatcher's 32 secret bytes."""
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(_PURPOSE + ticket.encode())
    return base64.b64encode(signature).decode()


def public_key(seed: bytes) -> bytes:
    """What `holds` checks proofs of this seed with: 32 bytes."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def holds(key: bytes, ticket: str, proof: str) -> bool:
    """Whether `proof` was made for this ticket by the owner of `key`."""
    try:
        signature = base64.b64decode(proof, validate=True)
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _PURPOSE + ticket.encode())
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
