"""The texts of tokens, and what a JWT must be."""

import base64
import hmac
import json
from dataclasses import dataclass
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import ECKey

from sfp_server.errors import TokenExpired, TokenInvalid, Unauthenticated
from sfp_server.identity import tokens
from sfp_server.identity.jwt import Signer
from sfp_server.identity.keyset import SigningKey

NOW = 1_800_000_000


def pem() -> str:
    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@dataclass(frozen=True)
class OneKey:
    """A set of one."""

    only: SigningKey

    def current(self):
        return self.only

    def find(self, kid):
        return self.only if kid == self.only.kid else None

    def live(self):
        return [self.only]


PEM = pem()
SIGNER = Signer(
    OneKey(SigningKey(kid=ECKey.import_key(PEM).thumbprint(), made_at=0, key=ECKey.import_key(PEM))),
    issuer="https://here",
    life=3600,
    buffer=300,
)
KEY = ECKey.import_key(PEM)
USER, SESSION = uuid4(), uuid4()
GOOD = {
    "iss": "https://here",
    "aud": "authenticated",
    "sub": str(USER),
    "email": "a@b.example",
    "role": "authenticated",
    "session_id": str(SESSION),
    "iat": NOW,
    "nbf": NOW,
    "exp": NOW + 3600,
    "jti": "1",
}
HEADER = {"alg": "ES256", "typ": "at+jwt", "kid": KEY.thumbprint()}


def token(claims=None, header=None, key=KEY, without=()):
    kept = {name: value for name, value in (GOOD | (claims or {})).items() if name not in without}
    return jwt.encode(HEADER | (header or {}), kept, key, algorithms=["ES256", "HS256", "none"])


def test_a_token_of_ours_is_read():
    claims = SIGNER.verify(SIGNER.sign(user_id=USER, email="", session_id=SESSION, now=NOW), now=NOW)
    assert (claims.user_id, claims.session_id, claims.dead_at) == (USER, SESSION, NOW + 3300)
    assert SIGNER.verify(token(), now=NOW) == claims


@pytest.mark.parametrize("claim", [name for name in GOOD if name not in {"email", "jti"}])
def test_a_missing_claim_is_refused(claim):
    with pytest.raises(TokenInvalid):
        SIGNER.verify(token(without={claim}), now=NOW)


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere"},
        {"aud": ["authenticated"]},
        {"aud": "other"},
        {"role": "service_role"},
        {"exp": NOW + 3601},
        {"exp": NOW * 1000},
        {"exp": float(NOW)},
        {"exp": str(NOW + 3600)},
        {"exp": True},
        {"iat": NOW + 60, "nbf": NOW + 60},
        {"nbf": NOW + 60},
        {"iat": NOW - 10**9},
        {"sub": "admin"},
        {"sub": 5},
        {"session_id": None},
    ],
    ids=str,
)
def test_an_impossible_claim_is_refused(claims):
    with pytest.raises(TokenInvalid):
        SIGNER.verify(token(claims), now=NOW)


@pytest.mark.parametrize("header", [{"typ": "JWT"}, {"kid": "other"}, {"typ": "rt+jwt"}], ids=str)
def test_another_kind_of_token_is_refused(header):
    with pytest.raises(TokenInvalid):
        SIGNER.verify(token(header=header), now=NOW)


def test_no_other_key_or_algorithm_counts():
    other = ECKey.import_key(pem())
    signed = _part(HEADER | {"alg": "HS256"}) + "." + _part(GOOD)
    public_as_secret = hmac.digest(KEY.as_pem(private=False), signed.encode(), "sha256")
    forged = [
        token(key=other),
        token(header={"jwk": other.as_dict(private=False)}, key=other),
        f"{signed}.{base64.urlsafe_b64encode(public_as_secret).decode().rstrip('=')}",
        _part({"alg": "none", "typ": "at+jwt", "kid": HEADER["kid"]}) + "." + _part(GOOD) + ".",
        token()[:-4] + "AAAA",
        token() + " " * 9000,
    ]
    for text in forged:
        with pytest.raises(TokenInvalid):
            SIGNER.verify(text, now=NOW)


def _part(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_it_opens_nothing_within_the_buffer():
    SIGNER.verify(token(), now=NOW + 3299)
    with pytest.raises(TokenExpired):
        SIGNER.verify(token(), now=NOW + 3300)


@given(st.text(max_size=300) | st.lists(st.text(max_size=40), min_size=3, max_size=3).map(".".join))
@settings(max_examples=300, deadline=None)
def test_no_text_is_more_than_refused(text):
    with pytest.raises(Unauthenticated):
        SIGNER.verify(text, now=NOW)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=70))
@settings(max_examples=300, deadline=None)
def test_no_bytes_in_its_form_are_more_than_refused(head, body, signature):
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (head, body, signature)).decode()
    with pytest.raises(Unauthenticated):
        SIGNER.verify(text, now=NOW)


@pytest.mark.parametrize("payload", [[], 1, "x", None, {}], ids=str)
def test_a_signed_payload_of_another_shape_is_refused(payload):
    from joserfc import jws

    with pytest.raises(Unauthenticated):
        SIGNER.verify(jws.serialize_compact(HEADER, json.dumps(payload), KEY), now=NOW)


def test_the_text_of_an_application_token_tells_itself_from_noise():
    token_id = uuid4()
    text = tokens.new_application_token(token_id)
    assert text.startswith(f"sfp_at_{str(token_id)[-8:]}_")
    assert tokens.is_application_token(text)
    assert not tokens.is_refresh_token(text)
    assert tokens.is_refresh_token(tokens.new_refresh_token())
    for position in range(7, len(text)):
        changed = text[:position] + ("0" if text[position] != "0" else "1") + text[position + 1 :]
        assert not tokens.is_application_token(changed)


def test_tokens_are_never_the_same():
    token_id = uuid4()
    assert len({tokens.new_application_token(token_id) for _ in range(1000)}) == 1000
