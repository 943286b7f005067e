"""Expected failures, each with a stable `code` and an HTTP `status`.

    SfpError
    ├── Malformed 400          the request itself is wrong; may carry per-field `errors`; ├── BadChannel
    │   └── OAuthError         what RFC 8628 has a word for: its body has that as `error` too
    │       ├── AuthorizationPending  ├── SlowDown  ├── AccessDenied  ├── DeviceCodeExpired  └── InvalidGrant
    ├── Unauthenticated 401    ├── TokenExpired  ├── TokenRevoked  ├── TokenInvalid  └── CodeInvalid
    ├── Forbidden 403          the actor is known and may not; ├── SignInRefused  └── PasswordLoginOff
    ├── NotFound 404           also: it belongs to another team
    ├── MethodNotAllowed 405
    ├── BodyTimeout 408        the body came too slowly
    ├── Conflict 409           ├── NotFinished  ├── AlreadyFinal  ├── StaleAttempt
    │                          └── VersionConflict (412 by header)
    ├── TooLarge 413
    ├── UnsupportedMediaType 415
    ├── RangeNotSatisfiable 416
    ├── Unprocessable 422      valid, but impossible; ├── IdempotencyMismatch  ├── UnknownSecret
    │                          ├── UnknownIntegration  └── CredentialRefused
    ├── TooManyRequests 429    carries `retry_after` seconds; └── QuotaExceeded
    ├── ProviderFailed 502     an identity provider is away, or answers what it must not
    └── Unavailable 503        carries `retry_after` seconds; try again

Anything else that is raised is a bug: a bare 500, its traceback goes to the log only.
`sfp_server.web.problems` is the one place where these become HTTP.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """One wrong place in a request: `path` as in `data.argv[0]`, `message` for a person."""

    path: str
    message: str


class SfpError(Exception):
    """An expected failure. Its text is shown to the caller: never put a secret, path or SQL in it."""

    code = "error"
    status = 500
    title = "Error"
    #: its text is for whoever sits before the browser, also when nobody is signed in
    is_for_people = False

    def __init__(self, detail: str, *, errors: tuple[FieldError, ...] = (), retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.errors = errors
        #: seconds; becomes the Retry-After header
        self.retry_after = retry_after


class Malformed(SfpError):
    code = "bad_request"
    status = 400
    title = "Bad request"


class BadChannel(Malformed):
    """The name is not one of a channel of events."""

    code = "bad_channel"


class OAuthError(Malformed):
    """An OAuth client was refused: `code` is also the `error` of RFC 6749, which such clients look for."""

    code = "invalid_request"


class AuthorizationPending(OAuthError):
    """The user has not decided about the device yet: poll again."""

    code = "authorization_pending"


class SlowDown(OAuthError):
    """The device polls too often: wait 5 seconds longer between polls."""

    code = "slow_down"


class AccessDenied(OAuthError):
    """The user has refused the device."""

    code = "access_denied"


class DeviceCodeExpired(OAuthError):
    """The device's codes have expired or were used: ask for new ones."""

    code = "expired_token"


class InvalidGrant(OAuthError):
    """There is no such device code."""

    code = "invalid_grant"


class Unauthenticated(SfpError):
    code = "unauthenticated"
    status = 401
    title = "Not signed in"


class TokenExpired(Unauthenticated):
    code = "token_expired"


class TokenRevoked(Unauthenticated):
    code = "token_revoked"


class TokenInvalid(Unauthenticated):
    code = "token_invalid"


class CodeInvalid(Unauthenticated):
    """An authorization code is unknown, used, expired, or somebody else's."""

    code = "code_invalid"


class Forbidden(SfpError):
    code = "forbidden"
    status = 403
    title = "Not allowed"


class AddressNotAllowed(Forbidden):
    """The application token may be used from other addresses only."""

    code = "address_not_allowed"


class SignInRefused(Forbidden):
    """A sign-in through a provider ends here; `reason` is one word for the audit trail."""

    code = "sign_in_refused"
    title = "Sign-in refused"
    is_for_people = True

    def __init__(
        self,
        detail: str,
        *,
        reason: str = "refused",
        errors: tuple[FieldError, ...] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail, errors=errors, retry_after=retry_after)
        self.reason = reason


class PasswordLoginOff(Forbidden):
    """No passwords are taken here (`auth.passwordLogin`)."""

    code = "password_login_off"


class NotFound(SfpError):
    code = "not_found"
    status = 404
    title = "Not found"


class MethodNotAllowed(SfpError):
    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"


class BodyTimeout(SfpError):
    """The request's body stalled or came too slowly."""

    code = "body_timeout"
    status = 408
    title = "Body too slow"


class Conflict(SfpError):
    code = "conflict"
    status = 409
    title = "Conflict"


class NotFinished(Conflict):
    """A result was asked for before there is one."""

    code = "not_finished"


class VersionConflict(Conflict):
    """A version is named that is not the current one; 412 where If-Match or If-None-Match names it."""

    code = "version_conflict"

    def __init__(
        self,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        retry_after: int | None = None,
        current_version: int | None = None,
        by_header: bool = False,
    ) -> None:
        super().__init__(detail, errors=errors, retry_after=retry_after)
        #: 0: there is none
        self.current_version = current_version
        if by_header:
            self.status, self.title = 412, "Precondition failed"


class AlreadyFinal(Conflict):
    """A finished task cannot be cancelled."""

    code = "already_final"


class StaleAttempt(Conflict):
    """A worker reported on an attempt that is no longer the current one."""

    code = "stale_attempt"


class LastOwner(Conflict):
    """The last owner of a team can neither leave nor be demoted."""

    code = "last_owner"


class TeamNotEmpty(Conflict):
    """Only a team without anything and anybody else is deleted."""

    code = "team_not_empty"


class TooLarge(SfpError):
    code = "too_large"
    status = 413
    title = "Too large"


class UnsupportedMediaType(SfpError):
    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class RangeNotSatisfiable(SfpError):
    code = "range_not_satisfiable"
    status = 416
    title = "Range outside of the content"


class Unprocessable(SfpError):
    code = "unprocessable"
    status = 422
    title = "Valid but impossible"


class IdempotencyMismatch(Unprocessable):
    """The same Idempotency-Key came with another body."""

    code = "idempotency_mismatch"


class UnknownSecret(Unprocessable):
    """A task declares a secret that its team does not have."""

    code = "unknown_secret"


class UnknownIntegration(Unprocessable):
    """A task declares an integration that its team does not have."""

    code = "unknown_integration"


class CredentialRefused(Unprocessable):
    """The broker cannot open a stored credential, or where it is kept refuses it."""

    code = "credential"


class TooManyRequests(SfpError):
    code = "too_many_requests"
    status = 429
    title = "Too many requests"


class QuotaExceeded(TooManyRequests):
    """The team has as many tasks waiting as it may."""

    code = "quota_exceeded"
    title = "Quota exceeded"


class ProviderFailed(SfpError):
    """An identity provider is away, or answers what it must not."""

    code = "provider_failed"
    status = 502
    title = "The identity provider failed"
    is_for_people = True


class Unavailable(SfpError):
    """A part that is needed is away for now (database, broker, runtime)."""

    code = "unavailable"
    status = 503
    title = "Try again shortly"
