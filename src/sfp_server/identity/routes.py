"""Sign-in and application tokens."""

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from sfp_server.actor import Actor, Role
from sfp_server.db.database import Database
from sfp_server.db.queries import load
from sfp_server.errors import TokenInvalid, Unauthenticated
from sfp_server.identity.authenticate import Authenticator
from sfp_server.identity.flows import Flows
from sfp_server.identity.jwt import Signer
from sfp_server.identity.sessions import Caller, Sessions, SignedIn
from sfp_server.identity.trusted import Trusted
from sfp_server.web.guard import PUBLIC, address_of
from sfp_server.web.wire import ApiRequest, SnakeWire, Wire

SQL = load(__package__ or "", "identity.sql")

Email = Annotated[str, msgspec.Meta(min_length=3, max_length=320)]
Password = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Days = Annotated[int, msgspec.Meta(ge=1, le=365)]
ScopeName = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class SignIn(SnakeWire):
    email: Email
    password: Password


class SignedInUser(SnakeWire):
    id: UUID
    email: str
    role: str


class Signed(SnakeWire):
    success: bool
    access_token: str
    refresh_token: str
    token_type: str
    expires_in: int
    user: SignedInUser


class Refresh(SnakeWire, tag_field="grant_type", tag="refresh_token"):
    """Use a refresh token up."""

    refresh_token: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Code(SnakeWire, tag_field="grant_type", tag="authorization_code"):
    """Exchange the code that a sign-in came back with (`GET /auth/authorize`)."""

    code: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    #: of the `code_challenge` with which the sign-in began (RFC 7636)
    code_verifier: Annotated[str, msgspec.Meta(min_length=43, max_length=128, pattern=r"^[A-Za-z0-9._~-]+$")]
    #: the `redirect_to` with which it began
    redirect_uri: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class Done(Wire):
    success: bool


@post("/auth/admin/login", opt={"scope": PUBLIC, "errors": (Unauthenticated,)}, status_code=200)
async def login(
    data: JSONBody[SignIn], request: ApiRequest, sessions: NamedDependency[Sessions], db: NamedDependency[Database]
) -> Signed:
    """Sign in with e-mail address and password."""
    signed = await sessions.sign_in(data.email, data.password, caller_of(request))
    return await signed_answer(db, signed)


@post("/auth/token", opt={"scope": PUBLIC, "errors": (Unauthenticated,)}, status_code=200)
async def token(
    data: JSONBody[Refresh | Code],
    request: ApiRequest,
    sessions: NamedDependency[Sessions],
    flows: NamedDependency[Flows],
    db: NamedDependency[Database],
) -> Signed:
    """A new pair of tokens: for a refresh token, or for the code of a sign-in."""
    if isinstance(data, Refresh):
        signed = await sessions.refresh(data.refresh_token, caller_of(request))
    else:
        signed = await flows.exchange(data.code, data.code_verifier, data.redirect_uri, caller_of(request))
    return await signed_answer(db, signed)


class TrustedTokens(SnakeWire):
    access_token: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]
    #: stays where it came from: only its service can use it
    refresh_token: Annotated[str, msgspec.Meta(max_length=8192)] | None = None


class TrustedUser(Wire):
    user_id: UUID


class Recognised(Wire):
    success: bool
    data: TrustedUser


@post("/auth/callback", opt={"scope": PUBLIC, "errors": (Unauthenticated,)}, status_code=200)
async def callback(
    data: JSONBody[TrustedTokens],
    request: ApiRequest,
    trusted: NamedDependency[Trusted],
    authenticator: NamedDependency[Authenticator],
) -> Recognised:
    """Whose a token of the trusted identity service (`auth.issuer`) is here; the token itself opens the API."""
    if not trusted.is_issuer(data.access_token):
        raise TokenInvalid("the token is not one of the service that this instance trusts")
    actor = await authenticator.actor(data.access_token, team=None, address=address_of(request))
    return Recognised(success=True, data=TrustedUser(user_id=actor.id))


@post("/auth/logout", opt={"scope": "users:self"}, status_code=200)
async def logout(actor: NamedDependency[Actor], sessions: NamedDependency[Sessions]) -> Done:
    """End the session of the token that calls this; a session of another service is not ours to end."""
    if actor.session_id is not None:
        await sessions.sign_out(actor.id, actor.session_id)
    return Done(success=True)


@get("/auth/.well-known/jwks.json", opt={"scope": PUBLIC})
async def jwks(signer: NamedDependency[Signer]) -> Response[dict[str, Any]]:
    """The public keys of user tokens."""
    return Response(signer.public_keys(), headers={"Cache-Control": "public, max-age=300"})


ROUTES = [login, token, callback, logout, jwks]


def caller_of(request: ApiRequest) -> Caller:
    """Where a request comes from, for sessions and the audit trail."""
    return Caller(address=address_of(request), user_agent=request.headers.get("user-agent", ""))


async def signed_answer(db: Database, signed: SignedIn) -> Signed:
    """The body of every answer that signs somebody in."""
    async with db.identifying(user_id=signed.user_id) as tx:
        memberships = await tx.all(SQL["memberships"], signed.user_id)
    role: str = memberships[0]["role"] if memberships else Role.MEMBER
    return Signed(
        success=True,
        access_token=signed.access_token,
        refresh_token=signed.refresh_token,
        token_type="bearer",  # noqa: S106 (the name of a kind of token)
        expires_in=signed.expires_in,
        user=SignedInUser(id=signed.user_id, email=signed.email, role=role),
    )
