"""User tokens: JWTs signed with ES256 by the instance's own key.

The library stops forgeries; what it cannot know is checked here: the claims that must be there, the longest life,
the type, the size. The algorithm and the key are ours, whatever the token's header names.
"""

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey
from joserfc.jws import JWSRegistry

from sfp_server.errors import TokenExpired, TokenInvalid

ALGORITHM = "ES256"
TYPE = "at+jwt"
AUDIENCE = "authenticated"
#: bytes
MAX_SIZE = 8192
#: seconds that clocks may differ
_LEEWAY = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a verified user token says."""

    user_id: UUID
    session_id: UUID
    #: Unix time from which the token opens nothing: `exp` less the buffer
    dead_at: int


class Signer:
    """Makes and checks user tokens with one key.

    Args:
        pem: the private key, NIST P-256.
        issuer: `iss` of every token.
        life: seconds from `iat` to `exp`.
        buffer: seconds before `exp` from which a token opens nothing, so that no operation dies at the boundary.
    """

    def __init__(self, pem: str, *, issuer: str, life: int, buffer: int) -> None:
        self._key = ECKey.import_key(pem)
        self._kid = self._key.thumbprint()
        self._registry = JWSRegistry(algorithms=[ALGORITHM])
        self._issuer = issuer
        self._life = life
        self._buffer = buffer

    @property
    def usable_seconds(self) -> int:
        """How long a fresh token opens anything."""
        return self._life - self._buffer

    def sign(self, *, user_id: UUID, email: str, session_id: UUID, now: int) -> str:
        """A user token; `now` is Unix time."""
        claims = {
            "iss": self._issuer,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "email": email,
            "role": "authenticated",
            "session_id": str(session_id),
            "iat": now,
            "nbf": now,
            "exp": now + self._life,
            "jti": str(uuid4()),
        }
        return jwt.encode({"alg": ALGORITHM, "typ": TYPE, "kid": self._kid}, claims, self._key, registry=self._registry)

    def verify(self, token: str, *, now: int) -> Claims:
        """The claims of a token that we made and that is alive. Raises TokenInvalid, TokenExpired."""
        if len(token) > MAX_SIZE:
            raise TokenInvalid("the token is not valid")
        try:
            decoded = jwt.decode(token, self._key, registry=self._registry)
            header, claims = decoded.header, decoded.claims
            return self._checked(header, claims, now)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise TokenInvalid("the token is not valid") from error

    def _checked(self, header: dict[str, Any], claims: dict[str, Any], now: int) -> Claims:
        """Raises ValueError, KeyError, TypeError for claims that are not as `sign` makes them, TokenExpired."""
        fixed = (header.get("typ"), header.get("kid"), claims["iss"], claims["aud"], claims["role"])
        if fixed != (TYPE, self._kid, self._issuer, AUDIENCE, "authenticated"):
            raise ValueError("not a token for here")
        starts, made, ends = (_whole(claims[name]) for name in ("nbf", "iat", "exp"))
        if max(starts, made) > now + _LEEWAY or not 0 < ends - made <= self._life:
            raise ValueError("impossible times")
        if now >= ends - self._buffer:
            raise TokenExpired("the token has expired: refresh it or sign in again")
        return Claims(user_id=_id(claims["sub"]), session_id=_id(claims["session_id"]), dead_at=ends - self._buffer)

    def public_keys(self) -> dict[str, Any]:
        """The JWKS document."""
        public = cast("dict[str, Any]", self._key.as_dict(private=False))
        return {"keys": [public | {"kid": self._kid, "use": "sig", "alg": ALGORITHM}]}


def _id(value: object) -> UUID:
    if not isinstance(value, str):
        raise TypeError("an id must be text")
    return UUID(value)


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError("a time must be a whole number")
    return value
