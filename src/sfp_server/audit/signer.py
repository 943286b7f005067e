"""The auditor's key. No other process has it."""

from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sfp_proof import receipt
from sfp_proof.chain import Entry, Seal, Sealed, spelled
from sfp_proof.checkpoint import message
from sfp_proof.keys import key_id


class Signer:
    """Seals entries, signs checkpoints and receipts."""

    def __init__(self, private_pem: str) -> None:
        key = load_pem_private_key(private_pem.encode(), password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise TypeError("the auditor's key must be Ed25519")
        self._key = key
        self.key_id = key_id(key.public_key())

    def seal(
        self,
        entry: Entry,
        *,
        at: datetime,
        seq: int,
        team_seq: int,
        previous: bytes,
        team_previous: bytes,
        attested: bool,
    ) -> Sealed:
        seal = Seal(
            seq=seq,
            team_seq=team_seq,
            previous=previous,
            team_previous=team_previous,
            sealed_at=spelled(at.astimezone(UTC)),
            key_id=self.key_id,
            attested=attested,
        )
        return Sealed(entry=entry, seal=seal, signature=self._key.sign(seal.digest(entry)))

    def checkpoint(self, line: dict[str, object]) -> dict[str, object]:
        """The line with its signature."""
        named = {**line, "keyId": self.key_id}
        return {**named, "signature": self._key.sign(message(named)).hex()}

    def receipt(self, document: dict[str, object]) -> dict[str, object]:
        """The receipt with its signature, as `sfp_proof.receipt` checks it."""
        signature = self._key.sign(receipt.message(document)).hex()
        return {
            "receipt": document,
            "signature": {"keyId": self.key_id, "algorithm": receipt.ALGORITHM, "value": signature},
        }
