"""What we send: the request to sign somebody in, and our own metadata. Text that is made, never parsed here."""

import base64
import secrets
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit, urlunsplit
from xml.sax.saxutils import escape, quoteattr

_PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
_ASSERTION = "urn:oasis:names:tc:SAML:2.0:assertion"
_METADATA = "urn:oasis:names:tc:SAML:2.0:metadata"
_POST = "urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What we are called towards one provider."""

    #: the URL of our metadata is our name
    entity_id: str
    #: where the provider's answers are sent to
    consumer: str

    @classmethod
    def of(cls, origin: str, slug: str) -> "Service":
        """A provider never sees another one's addresses: an answer for one cannot be shown to the other."""
        base = f"{origin}/sfp/api/auth/saml/{slug}"
        return cls(entity_id=f"{base}/metadata", consumer=f"{base}/acs")


def new_request_id() -> str:
    return f"_{secrets.token_hex(20)}"


def redirect_url(service: Service, *, sign_in_url: str, request_id: str, state: str, now: datetime) -> str:
    """Where to send the browser (binding HTTP-Redirect)."""
    request = (
        f'<samlp:AuthnRequest xmlns:samlp="{_PROTOCOL}" xmlns:saml="{_ASSERTION}" ID={quoteattr(request_id)}'
        f' Version="2.0" IssueInstant="{now.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" Destination={quoteattr(sign_in_url)}'
        f' ProtocolBinding="{_POST}" AssertionConsumerServiceURL={quoteattr(service.consumer)}>'
        f"<saml:Issuer>{escape(service.entity_id)}</saml:Issuer>"
        f'<samlp:NameIDPolicy AllowCreate="true"/></samlp:AuthnRequest>'
    )
    deflated = zlib.compress(request.encode(), wbits=-15)
    query = urlencode({"SAMLRequest": base64.b64encode(deflated).decode(), "RelayState": state})
    parts = urlsplit(sign_in_url)
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query, fragment=""))


def our_metadata(service: Service) -> str:
    """What an administrator gives to the provider."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<md:EntityDescriptor xmlns:md="{_METADATA}"'
        f" entityID={quoteattr(service.entity_id)}>"
        f'<md:SPSSODescriptor AuthnRequestsSigned="false" WantAssertionsSigned="true"'
        f' protocolSupportEnumeration="{_PROTOCOL}">'
        "<md:NameIDFormat>urn:oasis:names:tc:SAML:2.0:nameid-format:persistent</md:NameIDFormat>"
        "<md:NameIDFormat>urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress</md:NameIDFormat>"
        f'<md:AssertionConsumerService Binding="{_POST}" Location={quoteattr(service.consumer)}'
        ' index="0" isDefault="true"/>'
        "</md:SPSSODescriptor></md:EntityDescriptor>\n"
    )
