"""A provider's metadata → what is kept of it. Runs inside the room.

Who gave us the metadata is trusted for it: the administrator who sent the text, or the https server of the URL. A
signature in it says nothing more, and is not looked at.
"""

import base64
import binascii
from datetime import datetime
from typing import Any

from cryptography import x509

from sfp_server.identity.saml.document import Element, Refused, only, parse, text_of
from sfp_server.identity.saml.response import SIGNATURE, is_strong

_METADATA = "{urn:oasis:names:tc:SAML:2.0:metadata}"
_PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
_REDIRECT = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"
_MOST_KEYS = 10


def read(data: bytes) -> dict[str, Any]:
    """What `facts.Metadata` has. Raises Refused."""
    entity, limits = _entity(parse(data, comments=True))
    descriptor = _descriptor(entity)
    limits += [entity.get("validUntil"), descriptor.get("validUntil")]
    certificates = _certificates(descriptor)
    known = [moment for moment in map(_until, limits) if moment is not None]
    return {
        "entity_id": _entity_id(entity),
        "sign_in_url": _sign_in_url(descriptor),
        "certificates": [base64.b64encode(_der(one)).decode() for one in certificates],
        "certificates_end": [one.not_valid_after_utc.timestamp() for one in certificates],
        "valid_until": min(known) if known else None,
        "wants_signed_requests": descriptor.get("WantAuthnRequestsSigned", "false").lower() in {"true", "1"},
    }


def _entity(root: Element) -> tuple[Element, list[str | None]]:
    if root.tag == f"{_METADATA}EntityDescriptor":
        return root, []
    if root.tag != f"{_METADATA}EntitiesDescriptor":
        raise Refused("metadata", "this is no SAML 2.0 metadata")
    providers = [
        one for one in root.iter(f"{_METADATA}EntityDescriptor") if one.find(f"{_METADATA}IDPSSODescriptor") is not None
    ]
    if len(providers) != 1:
        raise Refused("metadata", f"the metadata describes {len(providers)} identity providers, one is needed")
    return providers[0], [above.get("validUntil") for above in providers[0].iterancestors()]


def _descriptor(entity: Element) -> Element:
    descriptor = only(entity, f"{_METADATA}IDPSSODescriptor", reason="metadata")
    if _PROTOCOL not in descriptor.get("protocolSupportEnumeration", "").split():
        raise Refused("metadata", "the provider does not speak SAML 2.0")
    return descriptor


def _entity_id(entity: Element) -> str:
    name = entity.get("entityID", "").strip()
    if not 1 <= len(name) <= 1024:
        raise Refused("metadata", "the metadata names no entityID")
    return name


def _sign_in_url(descriptor: Element) -> str:
    for service in descriptor.findall(f"{_METADATA}SingleSignOnService"):
        if service.get("Binding") == _REDIRECT:
            url = service.get("Location", "").strip()
            if url.startswith(("https://", "http://")) and len(url) <= 2000 and url.isprintable() and " " not in url:
                return url
    raise Refused("metadata", "the metadata names no sign-in URL for the binding HTTP-Redirect")


def _certificates(descriptor: Element) -> list[x509.Certificate]:
    """Of the keys that sign; several while one replaces another."""
    texts = [
        text_of(element)
        for key in descriptor.findall(f"{_METADATA}KeyDescriptor")
        if key.get("use", "signing") == "signing"
        for element in key.iter(f"{SIGNATURE}X509Certificate")
    ]
    certificates = [_certificate(text) for text in dict.fromkeys(texts)]
    if not certificates or len(certificates) > _MOST_KEYS:
        raise Refused("metadata", f"the metadata has {len(certificates)} signing certificates")
    strong = [one for one in certificates if is_strong(one)]
    if not strong:
        raise Refused("metadata", "the provider signs with a weak key (RSA needs 2048 bits)")
    return strong


def _certificate(text: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode("".join(text.split()), validate=True))
        certificate.public_key()
    except (ValueError, TypeError, binascii.Error) as error:
        raise Refused("metadata", "a certificate of the metadata cannot be read") from error
    except Exception as error:
        # cryptography's UnsupportedAlgorithm, and whatever a strange key makes it raise
        raise Refused("metadata", "a certificate of the metadata has an unknown kind of key") from error
    return certificate


def _der(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.DER)


def _until(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused("metadata", "the metadata's validUntil is not a time") from error
    if moment.tzinfo is None:
        raise Refused("metadata", "the metadata's validUntil has no zone")
    return moment.timestamp()
