"""The way of a SAML sign-in: metadata in, a request out, an answer back.

Providers of kind `saml` are configured with `metadataUrl` or `metadataXml`; what is stored of them is what the room
read from it. A URL's metadata is fetched again when it is an hour old, and at once when an answer is signed with a key
that is not known yet; the provider's name (entityID) must stay the same. The last fetched one serves on for a week when
the URL is away, never past its own `validUntil`.
"""

import base64
import binascii
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from sfp_server.errors import FieldError, Malformed, ProviderFailed, SignInRefused, Unprocessable
from sfp_server.identity.external import ExternalIdentity, Provider, Sent
from sfp_server.identity.flows import Flow
from sfp_server.identity.saml import rules
from sfp_server.identity.saml.facts import Assertion, Metadata
from sfp_server.identity.saml.keep import Keep
from sfp_server.identity.saml.request import Service, new_request_id, redirect_url
from sfp_server.identity.saml.room import XmlRefused, XmlRoom
from sfp_server.outgoing import Outgoing, OutgoingFailed

#: seconds
_FRESH = 3600.0
_STALE = 7 * 24 * 3600.0
_FETCH_SECONDS = 8.0
#: bytes
_METADATA_BYTES = 2 * 1024 * 1024

_log = structlog.get_logger("saml")


class Saml:
    """How browsers sign in through providers of kind `saml`."""

    def __init__(self, *, origin: str, outgoing: Outgoing, room: XmlRoom, keep: Keep) -> None:
        self._origin = origin
        self._outgoing = outgoing
        self._room = room
        self._keep = keep

    def service(self, slug: str) -> Service:
        """What we are called towards this provider."""
        return Service.of(self._origin, slug)

    async def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration with what the metadata says. Raises Malformed, Unprocessable, Unavailable."""
        url, text = config.get("metadataUrl"), config.get("metadataXml")
        if (url is None) == (text is None):
            message = "one of metadataUrl and metadataXml is needed"
            raise Malformed(message, errors=(FieldError(path="metadataUrl", message=message),))
        path = "metadataXml" if url is None else "metadataUrl"
        try:
            document = await self._fetch(str(url)) if text is None else str(text).encode()
            metadata = await self._room.metadata(document)
        except XmlRefused as refused:
            raise Malformed(f"{path}: {refused}", errors=(FieldError(path=path, message=str(refused)),)) from refused
        except OutgoingFailed as failed:
            raise Unprocessable(f"the metadata cannot be fetched: {failed}") from failed
        if not rules.still_valid(metadata, time.time()):
            raise Unprocessable("the metadata has expired (validUntil)")
        kept: dict[str, Any] = {"entityId": metadata.entity_id, "metadata": msgspec.to_builtins(metadata)}
        if told := rules.warnings(metadata, time.time()):
            kept["warnings"] = told  # for the administrator who reads the answer
        return kept if url is None else kept | {"metadataUrl": url}

    async def send(self, provider: Provider, *, state: str, browser: str, redirect_uri: str) -> Sent:
        """Where to send the browser, with a fresh request. Raises ProviderFailed."""
        del browser, redirect_uri  # SAML answers elsewhere: see `Service`
        metadata = await self._metadata(provider)
        request_id = new_request_id()
        url = redirect_url(
            self.service(provider.slug),
            sign_in_url=metadata.sign_in_url,
            request_id=request_id,
            state=state,
            now=datetime.now(UTC),
        )
        return Sent(url=url, request_id=request_id)

    async def identity(self, provider: Provider, flow: Flow, answer: str) -> ExternalIdentity:
        """Whom the provider's answer (base64, as it was posted) vouches for; it is used up.

        Raises SignInRefused, ProviderFailed, Unavailable.
        """
        assertion = await self._verified(provider, _decoded(answer))
        service = self.service(provider.slug)
        expected = rules.Expected(
            entity_id=service.entity_id,
            recipient=service.consumer,
            issuer=provider.config["entityId"],
            request_id=flow.request_id or "",
            asked_at=flow.begun_at.timestamp(),
        )
        person = rules.vouched(assertion, expected, time.time())
        await self._keep.take(provider.id, person.assertion_id, person.until)
        return ExternalIdentity(
            provider_id=provider.id,
            subject=person.subject,
            email=person.email,
            # A SAML provider is asked by the company whose domain it serves; for others its word is worth nothing.
            email_verified=bool(provider.domains),
            first_name=person.first_name,
            last_name=person.last_name,
        )

    async def _verified(self, provider: Provider, document: bytes) -> Assertion:
        metadata = await self._metadata(provider)
        try:
            try:
                return await self._room.response(document, metadata.certificates)
            except XmlRefused as refused:
                if refused.reason != "signature":
                    raise
                newer = await self._refreshed(provider)  # it may sign with a new key since today
                if newer is None or newer.certificates == metadata.certificates:
                    raise
                return await self._room.response(document, newer.certificates)
        except XmlRefused as refused:
            raise SignInRefused(str(refused), reason=refused.reason) from refused

    async def _metadata(self, provider: Provider) -> Metadata:
        """What is known of the provider, fetched anew when that is old. Raises ProviderFailed."""
        metadata = msgspec.convert(provider.config["metadata"], Metadata)
        age = (datetime.now(UTC) - provider.updated_at).total_seconds()
        fetched = await self._keep.fetched(provider.id, provider.updated_at)
        if fetched is not None:
            metadata, age = fetched.metadata, fetched.age
        if "metadataUrl" in provider.config and (age > _FRESH or not rules.still_valid(metadata, time.time())):
            newer = await self._refreshed(provider)
            if newer is None and age > _STALE:
                raise ProviderFailed("the identity provider's metadata could not be fetched for a week")
            metadata = newer or metadata
        if not rules.still_valid(metadata, time.time()):
            raise ProviderFailed("the identity provider's metadata has expired: an administrator must set it again")
        return metadata

    async def _refreshed(self, provider: Provider) -> Metadata | None:
        """The metadata from the provider's URL, kept; None: it has none, it fails, or it was asked a moment ago."""
        url = provider.config.get("metadataUrl")
        if url is None or not await self._keep.claim_refresh(provider.id):
            return None
        try:
            metadata = await self._room.metadata(await self._fetch(url))
        except (OutgoingFailed, XmlRefused) as error:
            _log.warning("metadata cannot be refreshed", provider=provider.slug, reason=error.reason)
            return None
        if metadata.entity_id != provider.config["entityId"]:
            _log.warning("metadata cannot be refreshed", provider=provider.slug, reason="other_entity")
            return None
        for warning in rules.warnings(metadata, time.time()):
            _log.warning("identity provider", provider=provider.slug, warning=warning)
        await self._keep.keep(provider.id, metadata)
        return metadata

    async def _fetch(self, url: str) -> bytes:
        """Raises OutgoingFailed."""
        accept = {"accept": "application/samlmetadata+xml, application/xml;q=0.9, */*;q=0.1"}
        answer = await self._outgoing.request(
            "GET", url, headers=accept, max_bytes=_METADATA_BYTES, seconds=_FETCH_SECONDS
        )
        if answer.status != 200:
            raise OutgoingFailed("bad_answer", f"it answers {answer.status}")
        return answer.body


def _decoded(answer: str) -> bytes:
    try:
        return base64.b64decode("".join(answer.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignInRefused("the provider's answer is not base64", reason="form") from error
