"""Tokens of an identity service that the configuration names, Supabase Auth above all.

Such a token opens the API as the user whose id is its `sub`, as it would open the database behind PostgREST. With
`auth.trustEmail` a user who has another id is found by e-mail address. What the user may do is ours to say: role and
membership are read from the database, and its own claims of that kind count for nothing.

The algorithm is the configuration's: HS256 with `auth.supabaseJwtSecret`, or `auth.jwksAlgorithm` with the keys at
`auth.jwksUrl`. One of the two, so that no token chooses.
"""

import time
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey
from joserfc.jws import JWSRegistry

from sfp_server.errors import TokenExpired
from sfp_server.identity import compact
from sfp_server.identity.issuers import Issuers
from sfp_server.settings import Settings, SettingsError

#: seconds that clocks may differ
_LEEWAY = 30
#: seconds from `iat` to `exp` at most: Supabase allows a week
_LONGEST = 7 * 86_400
#: bytes; a shorter secret can be guessed
_SECRET_LEAST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalClaims:
    """What a checked token of the trusted service says."""

    issuer: str
    subject: str
    #: of ours that have this id; None: the subject is no UUID
    user_id: UUID | None
    email: str
    #: whether the configuration, or the token itself in a claim that its user cannot set, vouches for the address
    email_is_verified: bool
    #: Unix time from which the token opens nothing: `exp` less the buffer
    dead_at: int
    claims: dict[str, Any] = field(repr=False)


class Trusted:
    """Checks tokens of the one service that the configuration trusts, if any."""

    def __init__(self, settings: Settings, issuers: Issuers) -> None:
        """Raises SettingsError: the secret is missing or too short."""
        self._issuers = issuers
        self._issuer = settings.auth_issuer
        self._audience = settings.auth_audience
        self._jwks_url = settings.auth_jwks_url
        self._algorithm = settings.auth_jwks_algorithm
        self._trusts_email = settings.auth_trust_email
        self._buffer = settings.expiry_buffer_seconds
        self._secret = _secret(settings)

    def is_issuer(self, token: str) -> bool:
        """Whether this is for us to check, by the token's own word. Raises TokenInvalid."""
        return self._issuer is not None and compact.read(token).claims.get("iss") == self._issuer

    async def verify_external(self, token: str) -> ExternalClaims:
        """The claims of a live token. Raises TokenInvalid (also: nobody is trusted), TokenExpired, Unavailable."""
        if self._issuer is None:
            raise compact.invalid()
        if self._secret is not None:
            claims = self._by_secret(token, self._secret)
        else:
            claims = await self._issuers.verify(
                token, issuer=self._issuer, algorithms=[self._algorithm], jwks_url=self._jwks_url
            )
        return self._checked(claims, int(time.time()))

    def _by_secret(self, token: str, secret: OctKey) -> dict[str, Any]:
        unverified = compact.read(token)
        if unverified.header.get("alg") != "HS256" or unverified.claims.get("iss") != self._issuer:
            raise compact.invalid()
        try:
            jwt.decode(token, secret, registry=JWSRegistry(algorithms=["HS256"]))
        except (JoseError, ValueError, TypeError) as error:
            raise compact.invalid() from error
        return unverified.claims

    def _checked(self, claims: dict[str, Any], now: int) -> ExternalClaims:
        """Raises TokenInvalid (`anon`, `service_role` and who signed in anonymously are no users), TokenExpired."""
        subject, email = claims.get("sub"), claims.get("email", "")
        audiences: object = claims.get("aud")
        is_here = audiences == self._audience or (isinstance(audiences, list) and self._audience in audiences)
        is_user = claims.get("role", "authenticated") == "authenticated" and not claims.get("is_anonymous", False)
        if not (is_here and is_user and isinstance(subject, str) and subject and isinstance(email, str)):
            raise compact.invalid()
        ends = _alive_until(claims, now, self._buffer)
        return ExternalClaims(
            issuer=str(self._issuer),
            subject=subject,
            user_id=_uuid(subject),
            email=email,
            email_is_verified=bool(email) and (self._trusts_email or claims.get("email_verified") is True),
            dead_at=ends,
            claims=claims,
        )


def _alive_until(claims: dict[str, Any], now: int, buffer: int) -> int:
    """Unix time from which it opens nothing. Raises TokenInvalid for impossible times, TokenExpired."""
    made, starts, ends = claims.get("iat"), claims.get("nbf", claims.get("iat")), claims.get("exp")
    if type(made) is not int or type(starts) is not int or type(ends) is not int:
        raise compact.invalid()
    if max(made, starts) > now + _LEEWAY or not 0 < ends - made <= _LONGEST:
        raise compact.invalid()
    dead_at = ends - buffer
    if now >= dead_at:
        raise TokenExpired("the token has expired: refresh it where it comes from")
    return dead_at


def _secret(settings: Settings) -> OctKey | None:
    if settings.supabase_jwt_secret is None:
        return None
    secret = settings.secret(settings.supabase_jwt_secret)
    if len(secret.encode()) < _SECRET_LEAST:
        raise SettingsError(f"the secret of auth.supabaseJwtSecret must have {_SECRET_LEAST} bytes or more")
    return OctKey.import_key(secret)


def _uuid(text: str) -> UUID | None:
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if str(found) == text else None
