"""Signing in with OpenID Connect: discovery, authorization code with PKCE and nonce, a verified ID token.

What a provider says is believed in this order: its discovery document (its issuer is the configured one, letter by
letter), its answer to our own call to its token endpoint, its signature under the ID token. What the browser brings
back is only a code and a state, and the issuer's name where the provider sends that (RFC 9207): an answer of
another provider than the one that was asked ends here.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote_plus, urlencode, urlsplit

import structlog

from sfp_server.errors import (
    FieldError,
    Malformed,
    ProviderFailed,
    SignInRefused,
    TokenInvalid,
    Unavailable,
    Unprocessable,
)
from sfp_server.identity.external import ExternalIdentity, Provider, Sent
from sfp_server.identity.flows import challenge_of, derived
from sfp_server.identity.issuers import ALGORITHMS, Issuers
from sfp_server.outgoing import Outgoing, OutgoingFailed

#: seconds that clocks may differ; and for how long an ID token may have been on its way
_LEEWAY = 60
_OLDEST = 600
_MAX_TOKEN = 16_384

_log = structlog.get_logger("identity")


class OpenId:
    """The method `oidc`: `config` is `{issuer, clientId}`."""

    def __init__(self, outgoing: Outgoing, issuers: Issuers) -> None:
        self._outgoing = outgoing
        self._issuers = issuers

    async def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """As `Method.check`; the provider is asked who it is. (If the secret is right, the first sign-in shows.)"""
        issuer = checked_url(config, "issuer")
        try:
            metadata = await self._metadata(issuer)
            for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
                _endpoint(metadata, name)
        except ProviderFailed as error:
            raise Unprocessable(str(error), errors=(FieldError(path="issuer", message=str(error)),)) from error
        return {"issuer": issuer, "clientId": config["clientId"]}

    async def send(self, provider: Provider, *, state: str, browser: str, redirect_uri: str) -> Sent:
        """As `Method.send`."""
        metadata = await self._metadata(provider.config["issuer"])
        parameters = {
            "response_type": "code",
            "client_id": provider.config["clientId"],
            "redirect_uri": redirect_uri,
            "scope": "openid email profile",
            "state": state,
            "nonce": derived(browser, state, "nonce"),
            "code_challenge": challenge_of(derived(browser, state, "verifier")),
            "code_challenge_method": "S256",
        }
        endpoint = _endpoint(metadata, "authorization_endpoint")
        return Sent(url=f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(parameters)}")

    async def identify(
        self,
        provider: Provider,
        answer: Mapping[str, str],
        *,
        secret: str | None,
        state: str,
        browser: str,
        redirect_uri: str,
    ) -> ExternalIdentity:
        """Who signed in, by the provider's answer. Raises SignInRefused, ProviderFailed."""
        metadata = await self._metadata(provider.config["issuer"])
        code = _code_of(answer, metadata)
        tokens = await self._tokens(
            provider,
            metadata,
            secret=secret,
            form={
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": redirect_uri,
                "code_verifier": derived(browser, state, "verifier"),
            },
        )
        claims = await self._claims(provider, metadata, tokens, nonce=derived(browser, state, "nonce"))
        if "email" not in claims and "userinfo_endpoint" in metadata:
            claims |= await self._more_claims(metadata, tokens, str(claims["sub"]))
        return _identity(provider, claims)

    async def _metadata(self, issuer: str) -> Mapping[str, Any]:
        """The discovery document. Raises ProviderFailed."""
        try:
            return await self._issuers.metadata(issuer)
        except Unavailable as error:
            raise ProviderFailed(
                f"{urlsplit(issuer).hostname} does not answer as an OpenID provider of this name should"
            ) from error

    async def _tokens(
        self, provider: Provider, metadata: Mapping[str, Any], *, secret: str | None, form: dict[str, str]
    ) -> dict[str, Any]:
        """The answer of the token endpoint. Raises SignInRefused (the code is refused), ProviderFailed."""
        client_id: str = provider.config["clientId"]
        headers: dict[str, str] = {}
        methods: Sequence[str] = metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if secret is not None and "client_secret_basic" in methods:
            # RFC 6749 2.3.1: both are encoded as in a form before they are joined
            pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form = {**form, "client_id": client_id, **({"client_secret": secret} if secret is not None else {})}
        return await fetched(self._outgoing, "POST", _endpoint(metadata, "token_endpoint"), headers=headers, data=form)

    async def _claims(
        self, provider: Provider, metadata: Mapping[str, Any], tokens: Mapping[str, Any], *, nonce: str
    ) -> dict[str, Any]:
        """The checked claims of the ID token. Raises SignInRefused, ProviderFailed."""
        token = tokens.get("id_token")
        if not isinstance(token, str) or len(token) > _MAX_TOKEN:
            raise ProviderFailed("the provider sent no ID token")
        named: object = metadata.get("id_token_signing_alg_values_supported", ["RS256"])
        algorithms = [name for name in ALGORITHMS if isinstance(named, list) and name in named]
        try:
            claims = await self._issuers.verify(
                token,
                issuer=provider.config["issuer"],
                algorithms=algorithms,
                jwks_url=_endpoint(metadata, "jwks_uri"),
            )
        except TokenInvalid as error:
            raise _distrusted("signature") from error
        except Unavailable as error:
            raise ProviderFailed("the provider's keys cannot be read") from error
        wrong = wrong_claim(claims, client_id=provider.config["clientId"], nonce=nonce, now=time.time())
        if wrong is not None:
            raise _distrusted(wrong)
        if "at_hash" in claims and not _is_hash_of(claims["at_hash"], tokens.get("access_token"), token):
            raise _distrusted("at_hash")
        return dict(claims)

    async def _more_claims(
        self, metadata: Mapping[str, Any], tokens: Mapping[str, Any], subject: str
    ) -> dict[str, Any]:
        """What the provider tells beside the ID token, of the same person. Raises SignInRefused, ProviderFailed."""
        headers = {"authorization": f"Bearer {tokens.get('access_token')}"}
        told = await fetched(self._outgoing, "GET", _endpoint(metadata, "userinfo_endpoint"), headers=headers)
        if told.get("sub") != subject:
            raise _distrusted("userinfo_sub")
        names = ("email", "email_verified", "given_name", "family_name", "name")
        return {name: told[name] for name in names if name in told}


async def fetched(
    outgoing: Outgoing,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A JSON object from a provider. Raises SignInRefused (it says 400 to 403), ProviderFailed."""
    document = await fetched_json(outgoing, method, url, headers=headers, data=data)
    if not isinstance(document, dict):
        raise ProviderFailed("the provider sent something else than was asked for")
    return cast("dict[str, Any]", document)


async def fetched_json(
    outgoing: Outgoing,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    data: Mapping[str, str] | None = None,
) -> Any:
    """JSON from a provider. Raises as `fetched`."""
    try:
        answer = await outgoing.request(method, url, headers=headers, data=data, max_bytes=256 * 1024, seconds=10)
        if answer.status in {400, 401, 403}:
            _log.warning("an identity provider refused", host=urlsplit(url).hostname, status=answer.status)
            raise SignInRefused("the provider does not confirm this sign-in: begin again", reason="provider_refused")
        if answer.status != 200:
            raise ProviderFailed(f"the provider answered {answer.status}")
        return answer.json()
    except OutgoingFailed as error:
        _log.warning("an identity provider failed", host=urlsplit(url).hostname, reason=error.reason)
        raise ProviderFailed("the provider cannot be reached, or answers nothing that can be read") from error


def error_of(answer: Mapping[str, str]) -> SignInRefused | None:
    """The refusal that the provider sent the browser back with, if it did."""
    error = answer.get("error")
    if error is None:
        return None
    if error == "access_denied":
        return SignInRefused("you, or the provider, did not allow this sign-in", reason="access_denied")
    return SignInRefused("the provider reports an error: begin again", reason="provider_error")


def wrong_claim(claims: Mapping[str, Any], *, client_id: str, nonce: str, now: float) -> str | None:
    """The first claim that makes an ID token not ours, beside signature and issuer; None: all are right."""
    audience: object = claims.get("aud")
    audiences = cast("list[object]", audience) if isinstance(audience, list) else [audience]
    party = claims.get("azp", client_id if len(audiences) == 1 else None)
    ends, made, starts = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    subject, sent_nonce = claims.get("sub"), claims.get("nonce")
    checks = {
        "aud": client_id in audiences,
        "azp": party == client_id,
        "exp": _is_time(ends) and cast("float", ends) > now - _LEEWAY,
        "iat": _is_time(made) and now - _OLDEST <= cast("float", made) <= now + _LEEWAY,
        "nbf": _is_time(starts) and cast("float", starts) <= now + _LEEWAY,
        "sub": isinstance(subject, str) and 1 <= len(subject) <= 255,
        "nonce": isinstance(sent_nonce, str) and hmac.compare_digest(sent_nonce.encode(), nonce.encode()),
    }
    return next((name for name, right in checks.items() if not right), None)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_hash_of(at_hash: object, access_token: object, id_token: str) -> bool:
    """OpenID Connect Core 3.1.3.6; the hash is the one of the signature's algorithm."""
    if not isinstance(at_hash, str) or not isinstance(access_token, str):
        return False
    header = base64.urlsafe_b64decode(id_token.partition(".")[0] + "==")
    name = "sha384" if b"384" in header else "sha256"
    digest = hashlib.new(name, access_token.encode()).digest()
    expected = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    return hmac.compare_digest(at_hash.encode(), expected)


def _code_of(answer: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """The code in what the browser brought, once it is known who sent it. Raises SignInRefused."""
    told = answer.get("iss")
    announced = metadata.get("authorization_response_iss_parameter_supported") is True
    if told != metadata["issuer"] and (announced or told is not None):
        raise _distrusted("iss")
    refused = error_of(answer)
    if refused is not None:
        raise refused
    code = answer.get("code", "")
    if not 1 <= len(code) <= 4096:
        raise SignInRefused("the provider sent no code: begin again", reason="no_code")
    return code


def _endpoint(metadata: Mapping[str, Any], name: str) -> str:
    """An endpoint of the discovery document: never weaker than the issuer itself. Raises ProviderFailed."""
    url = metadata.get(name)
    if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url:
        scheme = url.partition("://")[0]
        if scheme == "https" or (scheme == "http" and str(metadata["issuer"]).startswith("http://")):
            return url
    raise ProviderFailed(f"the provider's {name} cannot be used")


def _identity(provider: Provider, claims: Mapping[str, Any]) -> ExternalIdentity:
    first, last = _text(claims.get("given_name")), _text(claims.get("family_name"))
    if not first and not last:
        first, _, last = _text(claims.get("name")).partition(" ")
    return ExternalIdentity(
        provider_id=provider.id,
        subject=str(claims["sub"]),
        email=_text(claims.get("email")),
        email_verified=claims.get("email_verified") in {True, "true"},
        first_name=first,
        last_name=last,
    )


def _text(value: object) -> str:
    """One line of text, whatever was sent."""
    return "".join(sign for sign in value if sign.isprintable())[:320] if isinstance(value, str) else ""


def _distrusted(claim: str) -> SignInRefused:
    return SignInRefused("the provider's answer is not for this sign-in: begin again", reason=f"bad_{claim}")


def wrong_issuer(url: str) -> str | None:
    """What is wrong with the URL of an issuer, for who configures it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not a URL"
    if (
        parts.scheme not in {"https", "http"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        return "must be the https URL of an issuer, as in https://login.example"
    return None


def checked_url(config: Mapping[str, Any], name: str) -> str:
    """A URL of a provider's configuration. Raises Malformed."""
    message = wrong_issuer(config[name])
    if message is not None:
        raise Malformed(f"{name} {message}", errors=(FieldError(path=name, message=message),))
    return config[name]
