"""A sign-in through a provider, from its beginning to a session: what all kinds of providers share.

    begin    the browser is about to be sent away: a state, bound to its cookie, that works once and for ten minutes
    use      the browser is back: the flow of this state, this browser and this provider, used up by this
    finish   the provider's answer was verified: whose it is, and a code for the client or a cookie for the browser
    exchange the client turns its code into tokens, with the proof that it began the flow (PKCE)

Everything secret is random, is stored as a hash, and is found by presenting it (row-level security shows nothing else).
What we send to a provider beside the state (nonce, PKCE verifier) is derived from the cookie: it is stored nowhere.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sfp_server.audit import service as audit
from sfp_server.db.database import Database, Row, Tx, Violation
from sfp_server.db.queries import load
from sfp_server.errors import CodeInvalid, SignInRefused, TooManyRequests
from sfp_server.identity import attempts
from sfp_server.identity.external import ExternalIdentity, Person, Provider, Sent, may_speak_for, normal_email
from sfp_server.identity.sessions import Caller, Sessions, SignedIn
from sfp_server.identity.tokens import hash_of

SQL = load(__package__ or "", "sign_in.sql")
IDENTITY_SQL = load(__package__ or "", "identity.sql")

#: seconds for a person to sign in at the provider; and for a client to exchange its code
FLOW_SECONDS = 600
CODE_SECONDS = 60
#: sign-ins that one address may have under way
_UNDER_WAY = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a sign-in leads: back to a client (all three), or on inside the browser (`continue_to`, a path)."""

    redirect_to: str | None = None
    client_state: str | None = None
    client_challenge: str | None = None
    continue_to: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A flow whose browser has come back."""

    id: UUID
    request_id: str | None
    begun_at: datetime
    destination: Destination


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a flow ends: exactly one of both is there."""

    #: for the client, to be exchanged
    code: str | None = None
    #: for the browser's cookie
    cookie: str | None = None


def new_secret() -> str:
    """256 random bits for a URL or a cookie: 43 characters."""
    return secrets.token_urlsafe(32)


def derived(browser: str, state: str, purpose: str) -> str:
    """43 characters that only who has the browser's cookie can know, different for each flow and purpose."""
    digest = hmac.digest(browser.encode(), f"{purpose}\n{state}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def challenge_of(verifier: str) -> str:
    """PKCE S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


class Flows:
    """The use cases; each opens its own transactions, because a refusal must be written down too."""

    def __init__(self, db: Database, sessions: Sessions) -> None:
        self._db = db
        self._sessions = sessions

    async def begin(
        self, provider: Provider, sent: Sent, *, state: str, browser: str, to: Destination, caller: Caller
    ) -> None:
        """Remember that this browser goes to the provider with this state. Raises TooManyRequests."""
        digest = hash_of(state)
        async with self._db.identifying(presented_hash=digest) as tx:
            await tx.execute(SQL["clear_flows"])
            if await tx.value(SQL["flows_under_way"], caller.address) >= _UNDER_WAY:
                raise TooManyRequests("too many sign-ins are under way from this address", retry_after=60)
            await tx.execute(
                SQL["begin_flow"],
                *(digest, hash_of(browser), provider.id, sent.request_id, to.redirect_to, to.client_state),
                *(to.client_challenge, to.continue_to, caller.address, FLOW_SECONDS),
            )

    async def leads_to(self, state: str) -> str | None:
        """Where the client waits that began the flow of this state; None: the browser itself signs in.

        Uses nothing up, and says nothing about the browser. Raises SignInRefused when there is no such flow.
        """
        digest = hash_of(state)
        async with self._db.identifying(presented_hash=digest) as tx:
            row = await tx.one(SQL["open_flow"], digest)
        if row is None:
            raise _no_flow()
        return row["redirect_to"]

    async def use(self, slug: str, *, state: str, browser: str | None) -> Flow:
        """The flow that this browser began with this state at this provider; it is used up. Raises SignInRefused."""
        digest = hash_of(state)
        async with self._db.identifying(presented_hash=digest) as tx:
            row = await tx.one(SQL["use_flow"], digest, hash_of(browser), slug) if browser else None
        if row is None:
            raise _no_flow()
        to = Destination(
            redirect_to=row["redirect_to"],
            client_state=row["client_state"],
            client_challenge=row["client_challenge"],
            continue_to=row["continue_to"],
        )
        return Flow(id=row["id"], request_id=row["request_id"], begun_at=row["created_at"], destination=to)

    async def finish(self, provider: Provider, flow: Flow, identity: ExternalIdentity, caller: Caller) -> Finished:
        """Sign in whom the provider vouches for. Raises SignInRefused, which is in the audit trail then."""
        try:
            async with self._db.identifying() as tx:
                person = await _person(tx, provider, identity)
        except SignInRefused as error:
            await self.refused(provider.slug, error, caller)
            raise
        return await self.admit(person, flow.destination, via=f"provider:{provider.slug}", caller=caller)

    async def admit(self, person: Person, to: Destination, *, via: str, caller: Caller) -> Finished:
        """Give who was recognised a code or a cookie, whatever it was that `via` names."""
        if to.redirect_to is not None:
            return Finished(code=await self._code(person, to, via))
        cookie = new_secret()
        digest = hash_of(cookie)
        async with self._db.identifying(user_id=person.id, presented_hash=digest) as tx:
            session_id = await self._sessions.begin(tx, person.id, caller, via=via)
            await tx.execute(SQL["add_cookie"], digest, session_id)
        return Finished(cookie=cookie)

    async def refused(self, slug: str, error: SignInRefused, caller: Caller) -> None:
        """Write a refusal down: of a flow that was ours, so that strangers cannot fill the trail."""
        detail = {"provider": slug, "reason": error.reason, "address": caller.address}
        async with self._db.identifying() as tx:
            await audit.record(tx, "anonymous", "session.refused", f"identity_provider:{slug}", detail)

    async def exchange(self, code: str, verifier: str, redirect_uri: str, caller: Caller) -> SignedIn:
        """Tokens for a code. Raises CodeInvalid; the second use of a code ends the session of its first."""
        digest = hash_of(code)
        async with self._db.identifying(presented_hash=digest) as tx:
            row = await tx.one(SQL["use_code"], digest)
            if row is None:
                await self._revoke_reused(tx, digest)
        if row is not None and _proves(row, verifier, redirect_uri):
            async with self._db.identifying(user_id=row["user_id"], presented_hash=digest) as tx:
                user = await tx.one(SQL["user_who_may_sign_in"], row["user_id"])
                if user is not None:
                    session_id = await self._sessions.begin(tx, user["id"], caller, via=row["via"])
                    await tx.execute(SQL["code_opened"], digest, session_id)
                    return await self._sessions.pair(tx, session_id, user["id"], user["email"])
        async with self._db.identifying() as tx:
            tried = attempts.guess(attempts.Kind.AUTHORIZATION_CODE, address=caller.address)
            waits = await attempts.refuse(tx, tried)
        raise waits or CodeInvalid("the code is not valid")

    async def _code(self, person: Person, to: Destination, via: str) -> str:
        code = new_secret()
        digest = hash_of(code)
        async with self._db.identifying(presented_hash=digest) as tx:
            await tx.execute(SQL["clear_codes"])
            await tx.execute(SQL["add_code"], digest, person.id, to.redirect_to, to.client_challenge, via, CODE_SECONDS)
        return code

    async def _revoke_reused(self, tx: Tx, digest: bytes) -> None:
        """Two parties hold this code: what it opened ends."""
        used = await tx.one(SQL["code_used_before"], digest)
        if used is not None:
            await tx.identify(used["user_id"])
            await self._sessions.revoke_reused(tx, used["user_id"], used["session_id"])


def _no_flow() -> SignInRefused:
    return SignInRefused(
        "this sign-in was not begun in this browser, is over, or took too long: begin again", reason="state"
    )


def _proves(row: Row, verifier: str, redirect_uri: str) -> bool:
    """Whether the client is the one that began: same place, and the verifier of its challenge."""
    same_place = hmac.compare_digest(redirect_uri.encode(), str(row["redirect_to"]).encode())
    return hmac.compare_digest(challenge_of(verifier), str(row["client_challenge"])) and same_place


async def _person(tx: Tx, provider: Provider, identity: ExternalIdentity) -> Person:
    """The user behind an identity: known by subject, else by verified e-mail, else made. Raises SignInRefused."""
    email = _vouched_email(provider, identity)
    row = await tx.one(SQL["identity"], provider.id, identity.subject)
    if row is None:
        row = await _linked_by_email(tx, provider, identity, email)
    else:
        await _act_as(tx, row["id"])
        await tx.execute(SQL["touch_identity"], provider.id, identity.subject, email)
    if row["disabled"]:
        raise SignInRefused("this user is disabled here", reason="disabled")
    if not may_speak_for(provider.domains, row["email"]):
        raise SignInRefused("this provider may not speak for this user", reason="domain")
    return Person(id=row["id"], email=row["email"])


def _vouched_email(provider: Provider, identity: ExternalIdentity) -> str:
    if not 1 <= len(identity.subject) <= 255:
        raise SignInRefused("the provider does not say who you are", reason="subject")
    if not identity.email_verified:
        raise SignInRefused("the provider has not verified your e-mail address", reason="email_unverified")
    email = normal_email(identity.email)
    if not may_speak_for(provider.domains, email):
        raise SignInRefused("this provider may not speak for your e-mail address", reason="domain")
    return email


async def _linked_by_email(tx: Tx, provider: Provider, identity: ExternalIdentity, email: str) -> Row:
    """Link the user of this address, once: an address that changes hands must not hand over the user with it."""
    row = await tx.one(SQL["external_user"], email)
    if row is None:
        row = await _made(tx, provider, identity, email)
    elif row["disabled"]:
        return row  # refused by the caller; nothing is linked
    links = await tx.all(SQL["identities_of"], row["id"])
    if any(link["provider_id"] == provider.id for link in links):
        raise SignInRefused(
            "another account at this provider belongs to the user of this e-mail address", reason="other_subject"
        )
    if links and not provider.shares_users:
        raise SignInRefused(
            "the user of this e-mail address signs in through another provider", reason="other_provider"
        )
    await _act_as(tx, row["id"])
    try:
        await tx.execute(SQL["link_identity"], provider.id, identity.subject, row["id"], email)
    except Violation as error:
        raise SignInRefused("this sign-in crossed another one: try again", reason="race") from error
    if await tx.one(SQL["drop_given_password"], row["id"]) is not None:
        # whoever chose it might be waiting for this person to come
        await tx.execute(IDENTITY_SQL["revoke_sessions_of"], row["id"])
        await audit.record(tx, f"provider:{provider.slug}", "user.password_dropped", f"user:{row['id']}")
    linked = {"provider": provider.slug, "subject": identity.subject}
    await audit.record(tx, f"provider:{provider.slug}", "identity.linked", f"user:{row['id']}", linked)
    return row


async def _made(tx: Tx, provider: Provider, identity: ExternalIdentity, email: str) -> Row:
    if not provider.create_users:
        raise SignInRefused("nobody here has this e-mail address: ask an owner to add you", reason="unknown_user")
    label = f"provider:{provider.slug}"
    row = await tx.one(SQL["add_external_user"], email, identity.first_name[:200], identity.last_name[:200])
    assert row is not None  # INSERT … RETURNING
    await audit.record(tx, label, "user.created", f"user:{row['id']}")
    team_id: UUID | None = await tx.value(SQL["default_team_of"], provider.id)
    if team_id is not None:
        await tx.serve(team_id)
        await tx.execute(SQL["join_team"], team_id, row["id"], provider.default_role)
        await audit.record(tx, label, "team.member_added", f"user:{row['id']}", {"role": provider.default_role})
        await tx.leave()
    return row


async def _act_as(tx: Tx, user_id: UUID) -> None:
    """From here on row-level security sees this user: the provider's word was verified."""
    await tx.identify(user_id)
