"""Receipts: what ran, for whom, and how it ended, as one signed document.

`{"receipt": {…}, "signature": {"keyId", "algorithm": "EdDSA", "value": hex}}`. The signature is over the canonical
spelling of `receipt`, so the document may be kept, printed and indented in any way that keeps its values.
"""

from collections.abc import Mapping
from typing import Any, cast

from sfp_proof.canonical import canonical
from sfp_proof.keys import KeyRing

ALGORITHM = "EdDSA"
_DOMAIN = b"sfp.receipt.v1\n"


def message(receipt: Mapping[str, Any]) -> bytes:
    """What is signed."""
    return _DOMAIN + canonical(receipt)


def mismatch(document: Any, keys: KeyRing) -> str | None:
    """Why a receipt cannot be trusted; None: the auditor signed exactly this."""
    if not isinstance(document, dict):
        return "this is not a receipt"
    fields = cast("dict[str, Any]", document)  # JSON objects have text keys
    receipt, signature = fields.get("receipt"), fields.get("signature")
    if set(fields) != {"receipt", "signature"} or not isinstance(receipt, dict) or not isinstance(signature, dict):
        return "this is not a receipt: it must have receipt and signature, and nothing else"
    return _wrong_signature(cast("dict[str, Any]", receipt), cast("dict[str, Any]", signature), keys)


def _wrong_signature(receipt: Mapping[str, Any], signature: Mapping[str, Any], keys: KeyRing) -> str | None:
    name, value = signature.get("keyId"), signature.get("value")
    known = set(signature) == {"keyId", "algorithm", "value"} and signature["algorithm"] == ALGORITHM
    if not known or not isinstance(name, str) or not isinstance(value, str):
        return "its signature is not one of a receipt"
    if keys.age(name) < 0:
        return f"it was signed with the key {name[:40]}, which is not among the keys given"
    try:
        genuine = keys.signed(name, bytes.fromhex(value), message(receipt))
    except ValueError:  # no hex, or a number that has no canonical spelling
        genuine = False
    return None if genuine else "it does not match its signature: something in it was changed"
