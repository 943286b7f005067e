"""What an assertion must be to let somebody in. Facts in, a person out; no I/O, and the time is passed in.

Profiles of SAML 2.0, 4.1.4: bearer confirmation, recipient, audience, times, the request that is answered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfp_server.errors import SignInRefused
from sfp_server.identity.saml.facts import Assertion, Confirmation, Metadata

#: seconds that clocks may differ
SKEW = 60
#: seconds from now until which an assertion may last, and so is remembered
LONGEST = 24 * 3600

_BEARER = "urn:oasis:names:tc:SAML:2.0:cm:bearer"
_FORMAT = "urn:oasis:names:tc:SAML:{}:nameid-format:{}"
EMAIL_FORMAT = _FORMAT.format("1.1", "emailAddress")
_TRANSIENT = _FORMAT.format("2.0", "transient")

_CLAIMS = "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/"
_EMAIL = (f"{_CLAIMS}emailaddress", "urn:oid:0.9.2342.19200300.100.1.3", "email", "mail", "emailAddress", "Email")
_FIRST = (f"{_CLAIMS}givenname", "urn:oid:2.5.4.42", "givenName", "firstName", "FirstName", "first_name")
_LAST = (f"{_CLAIMS}surname", "urn:oid:2.5.4.4", "sn", "surname", "lastName", "LastName", "last_name")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What we are called, and what we asked."""

    #: our entityID, which must be the audience
    entity_id: str
    #: where the answer must have been sent to
    recipient: str
    #: the provider's entityID
    issuer: str
    #: the id of our request
    request_id: str
    #: when we sent it, seconds since 1970
    asked_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """Whom the assertion is about, and until when (seconds since 1970) it must not be taken again."""

    assertion_id: str
    subject: str
    email: str
    first_name: str
    last_name: str
    until: float


def vouched(assertion: Assertion, expected: Expected, now: float) -> Vouched:
    """The person that a verified assertion lets in. Raises SignInRefused."""
    _from_the_provider(assertion, expected)
    _answers_us(assertion, expected)
    _in_time(assertion, expected, now)
    if not assertion.conditions.audiences or not all(
        expected.entity_id in audiences for audiences in assertion.conditions.audiences
    ):
        raise SignInRefused("the assertion is meant for another service", reason="audience")
    ends = [_confirmed_until(one, expected, now) for one in assertion.confirmations]
    confirmed = [end for end in ends if end is not None]
    if not confirmed:
        raise SignInRefused("the assertion is not confirmed for this sign-in", reason="confirmation")
    return Vouched(
        assertion_id=assertion.assertion_id,
        subject=_subject(assertion),
        email=_email(assertion),
        first_name=_first(assertion.attributes, _FIRST),
        last_name=_first(assertion.attributes, _LAST),
        until=max(confirmed) + SKEW,
    )


def still_valid(metadata: Metadata, now: float) -> bool:
    return metadata.valid_until is None or now < metadata.valid_until


def warnings(metadata: Metadata, now: float) -> list[str]:
    """What its administrator should know about a provider."""
    told: list[str] = []
    month = 30 * 24 * 3600
    if all(end < now for end in metadata.certificates_end):
        told.append("every signing certificate of the provider has expired")
    elif all(end < now + month for end in metadata.certificates_end):
        told.append("the provider's signing certificate expires within 30 days")
    if metadata.valid_until is not None and metadata.valid_until < now + month / 4:
        told.append("the provider's metadata expires within a week")
    if metadata.wants_signed_requests:
        told.append("the provider says that it wants signed requests: this server does not sign them")
    return told


def _from_the_provider(assertion: Assertion, expected: Expected) -> None:
    if assertion.issuer != expected.issuer or assertion.response_issuer not in {None, expected.issuer}:
        raise SignInRefused("the assertion is of another provider", reason="issuer")


def _answers_us(assertion: Assertion, expected: Expected) -> None:
    if assertion.destination not in {None, expected.recipient}:
        raise SignInRefused("the answer was sent to another place", reason="destination")
    if assertion.answers != expected.request_id:
        raise SignInRefused("the answer is to another request, or to none", reason="in_response_to")


def _in_time(assertion: Assertion, expected: Expected, now: float) -> None:
    conditions = assertion.conditions
    if conditions.not_before is not None and now < conditions.not_before - SKEW:
        raise SignInRefused("the assertion is not valid yet: do the clocks agree?", reason="not_yet")
    if conditions.not_on_or_after is not None and now >= conditions.not_on_or_after + SKEW:
        raise SignInRefused("the assertion has expired: do the clocks agree?", reason="expired")
    if not expected.asked_at - SKEW <= assertion.issued_at <= now + SKEW:
        raise SignInRefused("the assertion was not made for this sign-in: do the clocks agree?", reason="issued_at")
    if any(end is not None and now >= end + SKEW for end in assertion.session_ends):
        raise SignInRefused("the session at the provider has ended", reason="expired")


def _confirmed_until(confirmation: Confirmation, expected: Expected, now: float) -> float | None:
    """Until when this confirmation lets its bearer in; None: it does not."""
    end = confirmation.not_on_or_after
    holds = (
        confirmation.method == _BEARER
        and confirmation.recipient == expected.recipient
        and confirmation.answers == expected.request_id
        and confirmation.not_before is None  # which a bearer's must not have (profiles, 4.1.4.2)
        and end is not None
        and now < end + SKEW
        and end <= now + LONGEST
    )
    return end if holds else None


def _subject(assertion: Assertion) -> str:
    if assertion.subject_format == _TRANSIENT:
        raise SignInRefused(
            "the provider names people anew each time: choose a persistent or e-mail name identifier there",
            reason="subject",
        )
    if not 1 <= len(assertion.subject) <= 255:
        raise SignInRefused("the provider does not say who you are", reason="subject")
    return assertion.subject


def _email(assertion: Assertion) -> str:
    """The one address: several would let the provider's own user choose who they are here."""
    found = {value for name in _EMAIL for value in assertion.attributes.get(name, ())}
    if not found and (assertion.subject_format == EMAIL_FORMAT or "@" in assertion.subject):
        found = {assertion.subject}
    if len({address.lower() for address in found}) != 1:
        raise SignInRefused("the provider tells no e-mail address, or several", reason="email_form")
    return found.pop()


def _first(attributes: Mapping[str, Sequence[str]], names: Sequence[str]) -> str:
    return next((values[0] for name in names if (values := attributes.get(name))), "")[:200]
