"""A provider's answer → facts, read from what a verified signature covers and from nothing else. Runs inside the room.

The assertion is taken out of the answer into a document of its own before anything is verified, so a signature can
only be about that: an assertion that was moved elsewhere and another one in its place (signature wrapping) have no way
to meet. Then the signature's form is checked (one reference, to the assertion itself; no transformations but two), then
its value, with a key of the provider's metadata and never one that the document brings. What is read in the end are
the bytes that were signed, parsed anew.
"""

import re
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from sfp_server.identity.saml.document import Element, Refused, etree, id_of, only, parse, refuse_repeated_ids, text_of

SAML = "{urn:oasis:names:tc:SAML:2.0:assertion}"
PROTOCOL = "{urn:oasis:names:tc:SAML:2.0:protocol}"
SIGNATURE = "{http://www.w3.org/2000/09/xmldsig#}"
_SUCCESS = "urn:oasis:names:tc:SAML:2.0:status:Success"
_ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
_INCLUSIVE_NAMESPACES = f"{{{_EXCLUSIVE}}}InclusiveNamespaces"

SIGNATURE_METHODS = frozenset(
    {
        SignatureMethod.RSA_SHA256,
        SignatureMethod.RSA_SHA384,
        SignatureMethod.RSA_SHA512,
        SignatureMethod.SHA256_RSA_MGF1,
        SignatureMethod.SHA384_RSA_MGF1,
        SignatureMethod.SHA512_RSA_MGF1,
        SignatureMethod.ECDSA_SHA256,
        SignatureMethod.ECDSA_SHA384,
        SignatureMethod.ECDSA_SHA512,
    }
)
DIGESTS = frozenset({DigestAlgorithm.SHA256, DigestAlgorithm.SHA384, DigestAlgorithm.SHA512})

#: bytes of an answer
MAX_RESPONSE = 256 * 1024
_MOST_VALUES = 500
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")


def read(data: bytes, certificates: list[str]) -> dict[str, Any]:
    """The facts of a signed answer, as `facts.Assertion` has them.

    Args:
        certificates: of the provider's metadata, base64 of DER.

    Raises Refused.
    """
    if len(data) > MAX_RESPONSE:
        raise Refused("too_large", "the answer is too large")
    root = parse(data, comments=False)
    if root.tag != f"{PROTOCOL}Response" or root.get("Version") != "2.0":
        raise Refused("form", "this is no SAML 2.0 response")
    _check_status(root)
    refuse_repeated_ids(root)
    signed = _verified(_taken_out(root), certificates)
    return _facts(signed) | {
        # Not signed: good enough to refuse by, never to believe.
        "destination": root.get("Destination"),
        "answers": root.get("InResponseTo"),
        "response_issuer": _optional_text(root, f"{SAML}Issuer"),
    }


def _check_status(root: Element) -> None:
    code = only(only(root, f"{PROTOCOL}Status"), f"{PROTOCOL}StatusCode")
    if code.get("Value") == _SUCCESS:
        return
    inner = code.find(f"{PROTOCOL}StatusCode")
    words = str((inner if inner is not None else code).get("Value", "")).rpartition(":")[2]
    shown = words if re.fullmatch(r"[A-Za-z]{1,60}", words) else "unknown"
    raise Refused("provider_refused", f"the identity provider has refused ({shown})")


def _taken_out(root: Element) -> Element:
    """The answer's one assertion as a document of its own. Raises Refused."""
    if next(root.iter(f"{SAML}EncryptedAssertion"), None) is not None:
        raise Refused("encrypted", "the provider encrypts its assertions: switch that off for this service")
    found = list(root.iter(f"{SAML}Assertion"))
    if len(found) != 1 or found[0].getparent() is not root:
        raise Refused("wrapping", "the answer does not hold exactly one assertion in its place")
    return parse(etree.tostring(found[0], with_tail=False, encoding="utf-8"), comments=False)


def _verified(assertion: Element, certificates: list[str]) -> Element:
    """What the assertion's signature covers, parsed anew. Raises Refused."""
    name = id_of(assertion)
    signatures = list(assertion.iter(f"{SIGNATURE}Signature"))
    if not signatures:
        raise Refused("unsigned", "the assertion is not signed (a signed response alone is not enough)")
    if len(signatures) != 1 or signatures[0].getparent() is not assertion:
        raise Refused("wrapping", "the assertion does not hold exactly one signature in its place")
    _check_form(signatures[0], name)
    for text in certificates:
        signed = _verified_by(assertion, _certificate(text))
        if signed is None:
            continue
        if signed.tag != f"{SAML}Assertion" or id_of(signed) != name:
            raise Refused("wrapping", "the signature is about something else")
        return signed
    raise Refused("signature", "the signature was not made with a key of the provider")


def _check_form(signature: Element, name: str) -> None:
    """Raises Refused for a signature that is more, or other, than SAML allows (core, 5.4)."""
    parts = [child.tag for child in signature]
    if parts[:2] != [f"{SIGNATURE}SignedInfo", f"{SIGNATURE}SignatureValue"] or parts[2:] not in (
        [],
        [f"{SIGNATURE}KeyInfo"],
    ):
        raise Refused("wrapping", "the signature holds what does not belong there")
    info = signature[0]
    reference = only(info, f"{SIGNATURE}Reference", reason="wrapping")
    if reference.get("URI") != f"#{name}":
        raise Refused("wrapping", "the signature is about something else")
    if only(info, f"{SIGNATURE}CanonicalizationMethod").get("Algorithm") != _EXCLUSIVE:
        raise Refused("algorithm", "the signature uses a canonicalization that is not allowed")
    method = only(info, f"{SIGNATURE}SignatureMethod").get("Algorithm")
    digest = only(reference, f"{SIGNATURE}DigestMethod").get("Algorithm")
    if method not in {one.value for one in SIGNATURE_METHODS} or digest not in {one.value for one in DIGESTS}:
        raise Refused("algorithm", "the signature uses an algorithm that is not allowed (SHA-256 or stronger is)")
    transforms = list(only(reference, f"{SIGNATURE}Transforms"))
    algorithms = [transform.get("Algorithm") for transform in transforms]
    inner = [child.tag for transform in transforms for child in transform]
    if algorithms not in ([_ENVELOPED, _EXCLUSIVE], [_ENVELOPED]) or set(inner) - {_INCLUSIVE_NAMESPACES}:
        raise Refused("algorithm", "the signature uses a transformation that is not allowed")


def _certificate(text: str) -> x509.Certificate:
    # Metadata was read here before: a certificate that cannot be read is a bug, not a refusal.
    return x509.load_pem_x509_certificate(f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n".encode())


def is_strong(certificate: x509.Certificate) -> bool:
    """Whether the certificate's key may sign: RSA of 2048 bits or more, or a NIST curve of 256 or more."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.key_size >= 2048
    return isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in {"secp256r1", "secp384r1", "secp521r1"}


def _verified_by(assertion: Element, certificate: x509.Certificate) -> Element | None:
    if not is_strong(certificate):
        return None
    configuration = SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=SIGNATURE_METHODS,
        digest_algorithms=DIGESTS,
        ignore_ambiguous_key_info=True,  # whatever key the document names: it is not the one that counts
        # The metadata vouches for the key; its certificate is only a wrapping (metadata interoperability, 2.6.1).
        verification_time=certificate.not_valid_before_utc,
    )
    try:
        verifier: Any = XMLVerifier()  # no types
        result = verifier.verify(assertion, x509_cert=certificate, id_attribute="ID", expect_config=configuration)
    except (SignXMLException, etree.LxmlError, ValueError, TypeError):
        return None
    return result.signed_xml


def _facts(assertion: Element) -> dict[str, Any]:
    subject = only(assertion, f"{SAML}Subject")
    if subject.find(f"{SAML}EncryptedID") is not None:
        raise Refused("encrypted", "the provider encrypts the subject: switch that off for this service")
    name = only(subject, f"{SAML}NameID")
    return {
        "assertion_id": id_of(assertion),
        "issued_at": _time(assertion, "IssueInstant", required=True),
        "issuer": text_of(only(assertion, f"{SAML}Issuer")),
        "subject": text_of(name),
        "subject_format": name.get("Format", ""),
        "subject_qualifier": name.get("NameQualifier", ""),
        "confirmations": [_confirmation(one) for one in subject.findall(f"{SAML}SubjectConfirmation")],
        "conditions": _conditions(only(assertion, f"{SAML}Conditions")),
        "session_ends": [_time(one, "SessionNotOnOrAfter") for one in assertion.findall(f"{SAML}AuthnStatement")],
        "attributes": _attributes(assertion),
    }


def _confirmation(element: Element) -> dict[str, Any]:
    data = element.find(f"{SAML}SubjectConfirmationData")
    facts: dict[str, Any] = {"method": element.get("Method", "")}
    if data is None:
        return facts
    return facts | {
        "recipient": data.get("Recipient"),
        "answers": data.get("InResponseTo"),
        "not_before": _time(data, "NotBefore"),
        "not_on_or_after": _time(data, "NotOnOrAfter"),
    }


def _conditions(element: Element) -> dict[str, Any]:
    known = {f"{SAML}AudienceRestriction", f"{SAML}OneTimeUse", f"{SAML}ProxyRestriction"}
    if any(child.tag not in known for child in element):
        raise Refused("conditions", "the assertion has a condition that this server does not know")
    return {
        "not_before": _time(element, "NotBefore"),
        "not_on_or_after": _time(element, "NotOnOrAfter"),
        "audiences": [
            [text_of(audience) for audience in restriction.findall(f"{SAML}Audience")]
            for restriction in element.findall(f"{SAML}AudienceRestriction")
        ],
    }


def _attributes(assertion: Element) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    count = 0
    for attribute in assertion.iterfind(f"{SAML}AttributeStatement/{SAML}Attribute"):
        found = values.setdefault(attribute.get("Name", "")[:256], [])
        for value in attribute.findall(f"{SAML}AttributeValue"):
            count += 1
            if count > _MOST_VALUES:
                raise Refused("too_large", "the assertion has too many attributes")
            if not len(value):  # a structured value is nothing that is asked for
                found.append(text_of(value)[:1000])
    return values


def _optional_text(parent: Element, tag: str) -> str | None:
    element = parent.find(tag)
    return None if element is None else text_of(element)


def _time(element: Element, name: str, *, required: bool = False) -> float | None:
    """Seconds since 1970. Raises Refused for what is no time with a zone."""
    text = element.get(name)
    if text is None and not required:
        return None
    if text is None or _TIME.fullmatch(text) is None:
        raise Refused("form", f"the assertion's {name} is not a time with a zone")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused("form", f"the assertion's {name} is not a time") from error
    return moment.astimezone(UTC).timestamp()
