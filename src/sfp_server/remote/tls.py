"""The instance's own authority, and the certificates of what other machines connect to.

The authority (`secrets/network-ca.pem`) is made once and lasts; its fingerprint stands in every dispatcher's token. It
signs nothing but the courier's and the broker's certificate, at every start of the instance.
"""

import hashlib
import ssl
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: the name in the courier's certificate
COURIER = "courier.sfp.internal"
_AUTHORITY_DAYS = 365 * 20
_LEAF_DAYS = 365 * 2
#: clocks may differ by so much
_EARLY = timedelta(days=1)


def new_authority() -> str:
    """PEM of a fresh key and its self-signed certificate."""
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sfp server network")])
    certificate = (
        _builder(name, name, key, _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _pem(key, certificate)


def issue(authority: str, name: str) -> str:
    """PEM of a fresh key and its certificate for the host `name`."""
    key = generate_private_key(SECP256R1())
    signer, issuer = _parse(authority)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        _builder(subject, issuer.subject, key, _LEAF_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )
    return _pem(key, certificate)


def certificate_of(authority: str) -> str:
    """The public half of an authority: PEM of its certificate."""
    return _parse(authority)[1].public_bytes(Encoding.PEM).decode()


def fingerprint(certificate: str) -> bytes:
    """SHA-256 of a PEM certificate. Raises ValueError."""
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.strip())).digest()


def serving(file: str) -> ssl.SSLContext:
    """For a server whose key and certificate are in `file`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(file)
    return context


def trusting(certificate: str, *, check_name: bool = True) -> ssl.SSLContext:
    """For a client that trusts this authority and no other.

    `check_name` False: any certificate of the authority will do, whatever the address is called.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = check_name
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=certificate)
    return context


def unverified() -> ssl.SSLContext:
    """For asking who is there: nothing that comes may be believed, and nothing secret be sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _builder(subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _parse(pem: str) -> tuple[EllipticCurvePrivateKey, x509.Certificate]:
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, EllipticCurvePrivateKey)  # we made it
    return key, x509.load_pem_x509_certificate(pem.encode())


def _pem(key: EllipticCurvePrivateKey, certificate: x509.Certificate) -> str:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (private + certificate.public_bytes(Encoding.PEM)).decode()
