"""Public keys of other issuers: found by discovery or at a known URL, kept for a while, asked for again when needed.

Whose keys are asked for is decided before anything of a token is believed: only issuers that an owner or the
configuration named. The algorithm is one of the caller's list, and a key is used only with the one it is for.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from sfp_server.errors import Unavailable
from sfp_server.identity import compact
from sfp_server.outgoing import Outgoing, OutgoingFailed

#: what other issuers may sign with, and the key type and curve of each
ALGORITHMS: Mapping[str, tuple[str, str | None]] = {
    "RS256": ("RSA", None),
    "PS256": ("RSA", None),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
}
#: seconds: for which keys are used without asking again; for which they are used while nobody answers; between two
#: questions because of a key that we do not know
_FRESH, _STALE, _AGAIN = 600.0, 86_400.0, 30.0
#: issuers and keys of one issuer that are kept
_ISSUERS_MAX, _KEYS_MAX = 200, 50
_MAX_BYTES = 256 * 1024

_log = structlog.get_logger("identity")

Key = RSAKey | ECKey


@dataclass(slots=True, kw_only=True)
class _Kept:
    """What one URL answered last."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    document: Mapping[str, Any] = field(default_factory=dict[str, Any])
    #: of the clock; when it answered, and when it was asked
    answered_at: float = float("-inf")
    asked_at: float = float("-inf")


class Issuers:
    """Checks tokens of other issuers. One per process."""

    def __init__(self, outgoing: Outgoing, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._outgoing = outgoing
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def verify(
        self, token: str, *, issuer: str, algorithms: Collection[str], jwks_url: str | None = None
    ) -> dict[str, Any]:
        """The claims of a token that `issuer` signed; of them `iss` alone was looked at, times and audience were not.

        Args:
            jwks_url: where the keys are; None: where the issuer's discovery document says.

        Raises TokenInvalid, Unavailable (its keys cannot be had).
        """
        unverified = compact.read(token)
        algorithm = unverified.header.get("alg")
        if not isinstance(algorithm, str) or algorithm not in algorithms or unverified.claims.get("iss") != issuer:
            raise compact.invalid()
        key = await self._key(unverified.header, algorithm, issuer, jwks_url)
        try:
            jwt.decode(token, key, registry=JWSRegistry(algorithms=[algorithm]))
        except (JoseError, ValueError, TypeError) as error:
            raise compact.invalid() from error
        return unverified.claims

    async def _key(self, header: Mapping[str, Any], algorithm: str, issuer: str, jwks_url: str | None) -> Key:
        """The one key that the token can have been signed with. Raises TokenInvalid, Unavailable."""
        url = jwks_url or await self._discovered(issuer)
        for is_again in (False, True):
            document = await self._document(url, is_again=is_again)
            found = _suitable(document, header.get("kid"), algorithm)
            if found is not None:
                return found
        raise compact.invalid()

    async def metadata(self, issuer: str) -> Mapping[str, Any]:
        """The issuer's discovery document, which says itself that it is of this issuer. Raises Unavailable."""
        document = await self._document(f"{issuer.rstrip('/')}/.well-known/openid-configuration", is_again=False)
        if document.get("issuer") != issuer:
            raise _away("its discovery document is of another issuer")
        return document

    async def _discovered(self, issuer: str) -> str:
        """Where the issuer says its keys are. Raises Unavailable."""
        url = (await self.metadata(issuer)).get("jwks_uri")
        if not isinstance(url, str):
            raise _away("its discovery document names no keys")
        return url

    async def _document(self, url: str, *, is_again: bool) -> Mapping[str, Any]:
        """The JSON object at `url`; `is_again`: what is kept was not enough. Raises Unavailable."""
        kept = self._kept.setdefault(url, _Kept())
        self._kept.move_to_end(url)
        while len(self._kept) > _ISSUERS_MAX:
            self._kept.popitem(last=False)
        async with kept.lock:  # one question at a time; who waited finds the answer
            now = self._clock()
            wanted = _AGAIN if is_again else _FRESH
            if now - kept.answered_at >= wanted and now - kept.asked_at >= (_AGAIN if kept.document else 1.0):
                kept.asked_at = now
                await self._ask(url, kept)
            if now - kept.answered_at > _STALE:
                raise _away("it does not answer")
            return kept.document

    async def _ask(self, url: str, kept: _Kept) -> None:
        """What is kept stays when nobody answers."""
        try:
            answer = await self._outgoing.request("GET", url, max_bytes=_MAX_BYTES, seconds=5)
            document = answer.json() if answer.status == 200 else None
        except OutgoingFailed as error:
            _log.warning("an issuer's keys could not be read", url=url, reason=error.reason)
            return
        if isinstance(document, dict):
            kept.document, kept.answered_at = cast("dict[str, Any]", document), self._clock()
        else:
            _log.warning("an issuer's keys could not be read", url=url, reason="bad_answer", status=answer.status)


def _away(why: str) -> Unavailable:
    return Unavailable(f"the keys of the token's issuer cannot be had: {why}", retry_after=5)


def _suitable(document: Mapping[str, Any], kid: object, algorithm: str) -> Key | None:
    """The key that the token names, or the only one there is; never one of another kind than the algorithm's."""
    listed: object = document.get("keys")
    if not isinstance(listed, list) or not (kid is None or isinstance(kid, str)):
        return None
    kind, curve = ALGORITHMS[algorithm]
    fitting = [
        entry
        for entry in cast("list[dict[str, Any]]", listed[:_KEYS_MAX])  # checked below
        if isinstance(entry, dict)  # pyright: ignore[reportUnnecessaryIsInstance] (somebody else's JSON)
        and entry.get("kty") == kind
        and entry.get("crv") == curve
        and entry.get("use", "sig") == "sig"
        and entry.get("alg", algorithm) == algorithm
        and (kid is None or entry.get("kid") == kid)
    ]
    if len(fitting) != 1:
        return None
    public = {name: fitting[0].get(name) for name in ("kty", "crv", "n", "e", "x", "y") if name in fitting[0]}
    try:
        key: Key = RSAKey.import_key(cast("Any", public)) if kind == "RSA" else ECKey.import_key(cast("Any", public))
        return None if isinstance(key, RSAKey) and key.public_key.key_size < 2048 else key
    except (JoseError, ValueError, TypeError):
        return None
