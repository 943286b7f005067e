"""Forged, twisted and confused tokens: each is a 401 with a stable code, whatever part of it was attacked.

Every family is a function from a valid token's parts to forgeries, so that one test tries them all against the whole API
and first shows that what it started from is let in.
"""

import base64
import hashlib
import hmac
import json
import time
import uuid
import zlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwe
from joserfc.jwk import ECKey, OctKey

from sfp_server.identity import tokens
from sfp_server.identity.keyset import KeySet, new_key
from web_api import API


def b64(data: bytes | dict | str) -> str:
    if isinstance(data, dict):
        data = json.dumps(data)
    if isinstance(data, str):
        data = data.encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@dataclass
class Parts:
    """What a valid token is made of, the real key included."""

    header: dict[str, Any]
    claims: dict[str, Any]
    key: ECKey
    #: another user, and another session of the same user
    other_user: str = ""
    other_session: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def signed(self, header: Any = None, claims: Any = None, key: ECKey | None = None) -> str:
        """Header and claims as given (text is taken as it is), signed with ES256 by the key."""
        head = self.header if header is None else header
        body = self.claims if claims is None else claims
        text = f"{b64(head)}.{b64(body)}"
        return f"{text}.{b64(self.es256(text.encode(), key or self.key))}"

    @staticmethod
    def es256(data: bytes, key: ECKey) -> bytes:
        r, s = decode_dss_signature(key.private_key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(32) + s.to_bytes(32)


def algorithms(p: Parts):
    public_pem = p.key.as_pem(private=False)
    public_jwk = json.dumps(p.key.as_dict(private=False)).encode()
    for name in ("none", "None", "NONE", "nOnE", ""):
        text = f"{b64(p.header | {'alg': name})}.{b64(p.claims)}"
        yield f"{text}."
        yield text
        yield f"{text}.{p.signed().rpartition('.')[2]}"
    for name, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
        text = f"{b64(p.header | {'alg': name})}.{b64(p.claims)}"
        for secret in (public_pem, public_pem.strip(), public_jwk, b"", b"\0" * 32, p.header["kid"].encode()):
            yield f"{text}.{b64(hmac.digest(secret, text.encode(), digest))}"
    for name in (
        "ES384",
        "ES512",
        "ES256K",
        "RS256",
        "PS256",
        "EdDSA",
        "es256",
        "ES256 ",
        "HS256",
        "dir",
        5,
        None,
        [],
        {},
    ):
        yield p.signed(p.header | {"alg": name})
    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for name, pad in (("RS256", padding.PKCS1v15()), ("PS256", padding.PSS(padding.MGF1(SHA256()), 32))):
        text = f"{b64(p.header | {'alg': name})}.{b64(p.claims)}"
        yield f"{text}.{b64(own.sign(text.encode(), pad, SHA256()))}"
    head, body, _ = p.signed().split(".")
    for signature in (b"", b"\0" * 64, b"\0" * 63 + b"\1", b"\xff" * 64, b"\0" * 63, b"\0" * 65):
        yield f"{head}.{body}.{b64(signature)}"
    der = p.key.private_key.sign(f"{head}.{body}".encode(), ec.ECDSA(SHA256()))
    yield f"{head}.{body}.{b64(der)}"


def keys(p: Parts):
    mine = ECKey.import_key(new_key())
    jwk = mine.as_dict(private=False)
    for extra in (
        {"jwk": jwk},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"x5t": "AAAA"},
        {"x5t#S256": "AAAA"},
        {"kid": jwk.get("kid", "x")},
    ):
        yield p.signed(p.header | extra, key=mine)
        if "kid" not in extra:
            yield p.signed(p.header | extra)  # even with our own key: nobody but us makes our tokens
    for kid in (
        mine.thumbprint(), "", " ", "../../secrets/answer-key", "/dev/null", "signing/0.pem", "' OR 1=1 --", "\0",
        p.header["kid"].upper(), p.header["kid"] + "\n", None, 5, [], [p.header["kid"]], {"kid": 1},
    ):  # fmt: skip
        yield p.signed(p.header | {"kid": kid}, key=mine)
        yield p.signed(p.header | {"kid": kid})
    yield p.signed({name: value for name, value in p.header.items() if name != "kid"})
    yield p.signed(key=mine)


def claims(p: Parts):
    now = int(time.time())
    for name in ("iss", "aud", "sub", "role", "session_id", "iat", "nbf", "exp"):
        yield p.signed(claims={key: value for key, value in p.claims.items() if key != name})
        for value in (None, True, [], {}, [p.claims[name]], {"": p.claims[name]}, 0.5, "", "x" * 1000):
            yield p.signed(claims=p.claims | {name: value})
    for name in ("iat", "nbf", "exp"):
        for value in (
            -1, 0, float(now), str(now), 2**31, 2**53, 2**63, 10**30, -(2**63), now + 10**9, now * 1000, 1e300,
        ):  # fmt: skip
            if p.claims[name] != value and not (name == "nbf" and isinstance(value, int) and value <= now):
                yield p.signed(claims=p.claims | {name: value})
    issuer = p.claims["iss"]
    for value in (
        issuer + "/",
        issuer.upper(),
        issuer + "\0",
        " " + issuer,
        issuer.replace("https", "http"),
        "localhost",
    ):
        yield p.signed(claims=p.claims | {"iss": value})
    for value in ("anon", "service_role", "postgres", "Authenticated", "owner"):
        yield p.signed(claims=p.claims | {"role": value})
    yield p.signed(claims=p.claims | {"aud": ["authenticated", "other"]})
    for value in (
        p.other_user,
        str(uuid.uuid4()),
        "{" + p.claims["sub"] + "}",
        p.claims["sub"].upper(),
        "urn:uuid:" + p.claims["sub"],
    ):
        yield p.signed(claims=p.claims | {"sub": value})
    yield p.signed(claims=p.claims | {"session_id": p.other_session})
    yield p.signed(claims=p.claims | {"session_id": str(uuid.uuid4())})
    for text in (
        json.dumps(p.claims)[:-1] + f', "sub": "{p.other_user}"}}',
        f'{{"sub": "{p.other_user}", ' + json.dumps(p.claims)[1:],
        json.dumps(p.claims)[:-1] + ', "exp": NaN}',
        json.dumps(p.claims)[:-1] + ', "x": Infinity}',
        json.dumps(p.claims)[:-1] + ', "\\u0073ub": "x"}',
        "[" + json.dumps(p.claims) + "]", "null", "5", '"x"', "", "{", "[" * 3000 + "]" * 3000, "\ufeff" + json.dumps(p.claims),
    ):  # fmt: skip
        yield p.signed(claims=text)
    yield p.signed(claims=json.dumps(p.claims).encode("utf-16"))


def encodings(p: Parts):
    good = p.signed()
    head, body, signature = good.split(".")
    for part in (head, body, signature):
        for changed in (
            part + "=",
            part + "==",
            part + "A",
            part + "\n",
            " " + part,
            part[:5] + "\n" + part[5:],
            part + "\0",
        ):
            yield good.replace(part, changed)
        yield good.replace(part, part[:-1] + chr(ord(part[-1]) + 1))
        standard = part.replace("-", "+").replace("_", "/")
        if standard != part:
            yield good.replace(part, standard)
    spare = {0: "", 2: "BCDEFGHIJKLMNOP", 3: "BCD"}[len(signature) % 4]
    yield from (f"{head}.{body}.{signature[:-1]}{letter}" for letter in spare)
    yield from (
        f"{good}.",
        f".{good}",
        f"{good}.{signature}",
        f"{head}..{signature}",
        f"{head}.{body}",
        "..",
        ".",
        "a.b.c.d.e",
    )
    yield from (good[::-1], good.upper(), good.lower(), good + good, good[:-1], "x" * 8193, good + "A" * 9000)
    json_form = {"payload": body, "protected": head, "signature": signature}
    yield json.dumps(json_form)
    yield json.dumps({"payload": body, "signatures": [{"protected": head, "signature": signature}]})
    detached = f"{head}.{json.dumps(p.claims)}".encode()
    yield f"{head}..{b64(p.es256(detached, p.key))}"
    for extra in (
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"crit": []},
        {"crit": ["exp"]},
        {"zip": "DEF"},
        {"enc": "A128GCM"},
    ):
        yield p.signed(p.header | extra)
    yield p.signed(p.header | {"zip": "DEF"}, zlib.compress(json.dumps(p.claims).encode()))
    for kind in ("JWT", "at+JWT", "rt+jwt", "application/at+jwt", "", None, 5):
        yield p.signed(p.header | {"typ": kind})
    yield p.signed({name: value for name, value in p.header.items() if name != "typ"})
    yield p.signed(json.dumps(p.header)[:-1] + ', "alg": "ES256"}')
    yield p.signed(json.dumps(p.header)[:-1] + ', "alg": "none"}')
    secret = OctKey.import_key(b"0" * 32)
    yield jwe.encrypt_compact({"alg": "dir", "enc": "A256GCM"}, json.dumps(p.claims), secret)
    yield from ("\u0435yJ" + good[3:], good.replace(".", "\uff0e"), good.replace(".", "\u3002"))


def others(p: Parts):
    """Application and refresh tokens that are nearly ones."""
    made = tokens.new_application_token(uuid.uuid4())
    yield made  # another instance's: its form is right, and nobody here made it
    yield from (
        made[:-1],
        made + "0",
        made.upper(),
        made.lower(),
        made[:7],
        made.swapcase(),
        made.replace("_at_", "_rt_"),
    )
    yield from (
        made.replace("sfp_at_", prefix) for prefix in ("sfp_at", "SFP_AT_", "sfp-at-", "sfp_pt_", "sfp_at__", "")
    )
    yield tokens.new_refresh_token()
    yield hashlib.sha256(made.encode()).hexdigest()
    yield from (
        "null",
        "undefined",
        "0",
        "true",
        "Bearer",
        "{}",
        "[]",
        "' OR '1'='1",
        "\u00e9" * 10,
        "%00",
        "../../etc",
    )


FAMILIES = {family.__name__: family for family in (algorithms, keys, claims, encodings, others)}


async def attacked(api) -> Parts:
    """A user who is signed in twice, and another one; the parts of the first one's token."""
    token = await api.owner()
    header, body, _ = (part for part in token.split("."))
    read = [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, body)]
    eve = await api.owner("eve@other.example", "other")
    theirs = json.loads(base64.urlsafe_b64decode(eve.split(".")[1] + "=="))
    key = KeySet(api.settings.directory / "signing", life=3600).current().key
    return Parts(header=read[0], claims=read[1], key=key, other_user=theirs["sub"], other_session=theirs["session_id"])


async def answered(api, token: str):
    """Status and code of a call with this token; what no header can carry is sent as its UTF-8 bytes."""
    async with api.client() as client:
        answer = await client.get(f"{API}/users/me", headers={"Authorization": b"Bearer " + token.encode()})
    return answer.status_code, answer.json().get("code")


@pytest.mark.parametrize("family", FAMILIES)
async def test_every_forgery_is_a_401_with_a_stable_code(api, family):
    parts = await attacked(api)
    assert await answered(api, parts.signed()) == (200, None)  # what the forgeries begin with is let in
    forgeries = list(FAMILIES[family](parts))
    wrong = {}
    for number, token in enumerate(forgeries):
        status, code = await answered(api, token)
        if status != 401 or code not in {"token_invalid", "token_expired", "token_revoked", "unauthenticated"}:
            if token[0] == " ":
                continue  # white space around a header's value is not part of it (RFC 9110)
            wrong[number] = (status, code, token[:120])
    assert not wrong
    assert len(forgeries) > 20


async def test_a_stolen_application_token_is_none_in_any_other_spelling(api):
    made = (await api.application_token(await api.owner()))["token"]
    async with api.client(made) as client:
        assert (await client.get(f"{API}/tasks")).status_code == 200
    digest = hashlib.sha256(made.encode()).hexdigest()
    for text in (
        made[:-1],
        made + "0",
        made.swapcase(),
        made[:16] + made[17:],
        digest,
        made.replace("sfp_at_", "sfp_rt_"),
    ):
        assert await answered(api, text) == (401, "token_invalid")


async def test_what_is_refused_says_nothing_of_why(api):
    """One text for every forgery: no oracle for the next one."""
    parts = await attacked(api)
    texts = set()
    async with api.client() as client:
        for token in [*list(algorithms(parts))[:20], *list(keys(parts))[:10]]:
            answer = await client.get(f"{API}/users/me", headers={"Authorization": b"Bearer " + token.encode()})
            texts.add(answer.json()["detail"])
    assert len(texts) == 1
