"""What comes out of the room: plain values, checked for their form once more, since a document may have broken in.

Times are seconds since 1970.
"""

from typing import Annotated

import msgspec

Text = Annotated[str, msgspec.Meta(max_length=4096)]
Few = msgspec.Meta(max_length=100)


class Confirmation(msgspec.Struct, frozen=True, kw_only=True):
    """How the subject is confirmed; only the method `bearer` counts."""

    method: Text
    recipient: Text | None = None
    #: the id of the request that it answers
    answers: Text | None = None
    not_before: float | None = None
    not_on_or_after: float | None = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """When and for whom an assertion holds: within each restriction, for any of its audiences."""

    not_before: float | None
    not_on_or_after: float | None
    audiences: Annotated[list[Annotated[list[Text], Few]], Few]


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """What a verified signature covers, and three things of the answer around it that only serve to refuse."""

    assertion_id: Text
    issued_at: float
    issuer: Text
    subject: Text
    subject_format: Text
    subject_qualifier: Text
    confirmations: Annotated[list[Confirmation], Few]
    conditions: Conditions
    session_ends: Annotated[list[float | None], Few]
    attributes: dict[Text, Annotated[list[Text], msgspec.Meta(max_length=500)]]
    destination: Text | None
    answers: Text | None
    response_issuer: Text | None


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """A provider, as its metadata describes it. `certificates`: base64 of DER; several while one replaces another."""

    entity_id: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    sign_in_url: Annotated[str, msgspec.Meta(max_length=2000)]
    certificates: Annotated[list[Annotated[str, msgspec.Meta(max_length=20_000)]], Few]
    certificates_end: Annotated[list[float], Few]
    valid_until: float | None
    wants_signed_requests: bool


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    reason: Annotated[str, msgspec.Meta(pattern="^[a-z_]{1,40}$")]
    text: Annotated[str, msgspec.Meta(max_length=500)]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the room says: one of both."""

    facts: msgspec.Raw = msgspec.Raw()
    refused: Refusal | None = None
