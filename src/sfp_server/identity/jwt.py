"""User tokens: JWTs signed with ES256 by the newest of the instance's own keys.

The library stops forgeries; what it cannot know is checked here: the claims that must be there, the longest life,
the type, the size. The algorithm and the key are ours, whatever the token's header names.
"""

from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID, uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry

from sfp_server.errors import TokenExpired
from sfp_server.identity import compact
from sfp_server.identity.keyset import KeySet, SigningKey

ALGORITHM = "ES256"
TYPE = "at+jwt"
AUDIENCE = "authenticated"
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
    """Makes and checks user tokens.

    Args:
        keys: private keys, NIST P-256; the newest signs.
        issuer: `iss` of every token.
        life: seconds from `iat` to `exp`.
        buffer: seconds before `exp` from which a token opens nothing, so that no operation dies at the boundary.
    """

    def __init__(self, keys: KeySet, *, issuer: str, life: int, buffer: int) -> None:
        self._keys = keys
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
        key = self._keys.current()
        return jwt.encode({"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}, claims, key.key, registry=self._registry)

    def verify(self, token: str, *, now: int) -> Claims:
        """The claims of a token that we made and that is alive. Raises TokenInvalid, TokenExpired."""
        unverified = compact.read(token)
        key = self._keys.find(unverified.header.get("kid"))
        if key is None or unverified.header != {"alg": ALGORITHM, "typ": TYPE, "kid": key.kid}:
            raise compact.invalid()
        try:
            jwt.decode(token, key.key, registry=self._registry)
            return self._checked(unverified.claims, now)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise compact.invalid() from error

    def _checked(self, claims: dict[str, Any], now: int) -> Claims:
        """Raises ValueError, KeyError, TypeError for claims that are not as `sign` makes them, TokenExpired."""
        fixed = (claims["iss"], claims["aud"], claims["role"])
        if fixed != (self._issuer, AUDIENCE, "authenticated"):
            raise ValueError("not a token for here")
        starts, made, ends = (_whole(claims[name]) for name in ("nbf", "iat", "exp"))
        if max(starts, made) > now + _LEEWAY or not 0 < ends - made <= self._life:
            raise ValueError("impossible times")
        if now >= ends - self._buffer:
            raise TokenExpired("the token has expired: refresh it or sign in again")
        return Claims(user_id=_id(claims["sub"]), session_id=_id(claims["session_id"]), dead_at=ends - self._buffer)

    def public_keys(self) -> dict[str, Any]:
        """The JWKS document."""
        return {"keys": [_public(key) for key in self._keys.live()]}


def _public(key: SigningKey) -> dict[str, Any]:
    public = cast("dict[str, Any]", key.key.as_dict(private=False))
    return public | {"kid": key.kid, "use": "sig", "alg": ALGORITHM}


def _id(value: object) -> UUID:
    if not isinstance(value, str):
        raise TypeError("an id must be text")
    found = UUID(value)
    if str(found) != value:  # braces, `urn:uuid:`, capitals
        raise ValueError("an id has one form")
    return found


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError("a time must be a whole number")
    return value
