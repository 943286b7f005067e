"""Who may call which operation, declared: `test_rights_operations.py` tries every one as everybody.

A new scope gets a line in `SCOPE_ROLES`, a new operation one in `OPERATIONS`. Placeholders in paths and bodies are made
fresh for each call by the function of that name in `Things`, in the team `acme`.
"""

from dataclasses import dataclass, field
from typing import Any

from sfp_server.web.guard import PUBLIC

#: scope → the roles that have it; `nobody` is a user without a team
SCOPE_ROLES = {
    "tasks:read": "member owner application",
    "tasks:write": "member owner application",
    "tasks:cancel-any": "owner application",
    "logs:read": "member owner application",
    "logs:delete": "owner application",
    "artifacts:read": "member owner application",
    "artifacts:write": "member owner application",
    "queues:read": "member owner application",
    "queues:write": "owner",
    "dispatchers:read": "owner",
    "events:read": "member owner application",
    "secrets:manage": "owner",
    "leases:read": "owner",
    "integrations:manage": "owner",
    "integrations:credentials": "owner application",
    "projects:read": "member owner application",
    "projects:write": "owner",
    "audit:read": "owner",
    "application-tokens:manage": "owner",
    "teams:read": "member owner nobody",
    "teams:manage": "owner",
    "sso:manage": "owner",
    "users:self": "member owner nobody",
    "authz:check": "member owner application nobody",
    "users:manage": "owner",
    "health:read": "member owner application",
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """How to call an operation so that it works, and who may.

    Who has the scope gets an answer that is neither 401 nor 403, 404 or 5xx; who has not, 403; who has no token, 401. A
    user of another team gets 404 when the path names something, else what its own team has.
    """

    scope: str
    body: Any = None
    query: str = ""
    content: bytes | None = None
    #: answers that are right although they look like a refusal
    also: tuple[int, ...] = ()
    #: is called by people who are made for it
    ends_sessions: bool = False
    #: caller → status, where it is not as the scope says
    answers: dict[str, int] = field(default_factory=dict)


def op(scope: str, body: Any = None, **more: Any) -> Operation:
    return Operation(scope=scope, body=body, **more)


_TASK = {
    "type": "command",
    "data": {"argv": ["true"]},
    "scheduleType": "scheduled",
    "scheduledFor": "2999-01-01T00:00:00Z",
}
_RHYTHM = {"cron": "0 2 * * *"}
_MEMBER = {"email": "{colleague}", "role": "member"}
_RULE = {
    "name": "{rule}",
    "issuer": "https://ci.example",
    "audience": "sfp",
    "claims": {"sub": "repo:acme/*"},
    "scopes": ["tasks:read"],
}
#: of the own team's things only: what another team names in the same way is its own
_CLIENT = f"redirect_to=http://127.0.0.1:1/&code_challenge={'A' * 43}&code_challenge_method=S256"
_OWN_NAMES = {"foreign": 200}
#: below a team of the path nobody else is told that it exists
_PATH = {"nobody": 404, "application": 403}
#: who may is told that the broker is away, which it is here
_NO_BROKER = {"owner": 503, "foreign": 503, "application_with_one_scope": 503}
#: a scope that an application has only if somebody said so
_BY_NAME_ONLY = {"application": 403}

#: `METHOD path`, `~` for /sfp/api → how to call it, and who may
OPERATIONS = {
    "GET /health": op(PUBLIC),
    "GET ~": op(PUBLIC),
    "GET ~/ping": op(PUBLIC),
    "GET ~/config": op(PUBLIC),
    "GET ~/health": op("health:read"),
    # sign-in
    "POST ~/auth/admin/login": op(PUBLIC, {"email": "ann@acme.example", "password": "{password}"}),
    "POST ~/auth/token": op(PUBLIC, {"grant_type": "refresh_token", "refresh_token": "{refresh_token}"}),
    "POST ~/auth/logout": op("users:self", ends_sessions=True),
    "GET ~/auth/.well-known/jwks.json": op(PUBLIC),
    "GET ~/auth/sessions": op("users:self"),
    "DELETE ~/auth/sessions": op("users:self", ends_sessions=True),
    "DELETE ~/auth/sessions/{session_id}": op("users:self", also=(404,)),
    "POST ~/auth/device/code": op(PUBLIC, {}),
    "POST ~/auth/device/token": op(PUBLIC, {"device_code": "unknown"}),
    "POST ~/auth/device/approve": op("users:self", {"user_code": "{user_code}"}),
    "POST ~/auth/callback": op(PUBLIC, {"access_token": "unknown"}, also=(401,)),
    "GET ~/auth/authorize": op(PUBLIC, query=_CLIENT),
    "GET ~/auth/callback/{provider_id}": op(PUBLIC, also=(404,)),
    "GET ~/auth/continue": op(PUBLIC, query="action=frontdoorUrl&params=target%3DUAT"),
    "GET ~/auth/sign-in": op(PUBLIC),
    "GET ~/auth/saml/{provider_id}/metadata": op(PUBLIC, also=(404,)),
    "POST ~/auth/saml/{provider_id}/acs": op(PUBLIC, content=b"SAMLResponse=x", also=(404,)),
    "GET ~/auth/device": op(PUBLIC),
    "POST ~/auth/device": op(PUBLIC, content=b"csrf=unknown&user_code=x"),
    "GET ~/auth/sign-in/{provider_id}": op(PUBLIC, also=(404,)),
    "POST ~/auth/sign-in": op(PUBLIC, content=b"csrf=unknown"),
    "POST ~/auth/sign-out": op(PUBLIC, content=b"csrf=unknown", also=(403,)),
    # machines
    "POST ~/application-tokens": op("application-tokens:manage", {"name": "ci"}),
    "GET ~/application-tokens": op("application-tokens:manage"),
    "DELETE ~/application-tokens/{token_id}": op("application-tokens:manage"),
    "GET ~/application-tokens/scopes": op("application-tokens:manage"),
    "POST ~/auth/oidc/exchange": op(PUBLIC, {"token": "unknown"}, also=(401,)),
    "POST ~/auth/oidc/trust": op("application-tokens:manage", _RULE),
    "GET ~/auth/oidc/trust": op("application-tokens:manage"),
    "DELETE ~/auth/oidc/trust/{rule_id}": op("application-tokens:manage"),
    "POST ~/authz/check": op("authz:check", {"operation": "GET /tasks"}),
    # people
    "GET ~/users/me": op("users:self"),
    "GET ~/users": op("users:manage"),
    "POST ~/users": op("users:manage", {"email": "new@acme.example"}),
    "GET ~/users/{email}": op("users:self", answers={"member": 403, "nobody": 403}),
    "PUT ~/users/{email}": op("users:self", {"firstName": "Max"}, answers={"member": 403, "nobody": 403}),
    "DELETE ~/users": op("users:manage", {"email": "{email}"}, answers={"foreign": 404}),
    "GET ~/teams": op("teams:read"),
    "POST ~/teams": op("teams:manage", {"name": "Core", "slug": "{new_slug}"}),
    "DELETE ~/teams/{slug}": op("teams:manage", answers={**_PATH, "owner": 409}),
    "GET ~/teams/{slug}/members": op("teams:read", answers=_PATH),
    "POST ~/teams/{slug}/members": op("teams:manage", _MEMBER, answers=_PATH),
    "PUT ~/teams/{slug}/members/{email}/role": op("teams:manage", {"role": "owner"}, answers=_PATH),
    "DELETE ~/teams/{slug}/members/{email}": op("teams:read", answers={**_PATH, "member": 403}),
    # identity providers: of the instance, so for owners of its first team (disabled ones change no other answer here)
    "GET ~/sso/providers": op("sso:manage", answers={"foreign": 403}),
    "POST ~/sso/providers": op(
        "sso:manage", {"kind": "github", "clientId": "id", "enabled": False}, answers={"foreign": 403}
    ),
    "DELETE ~/sso/providers/{provider_id}": op("sso:manage", answers={"foreign": 403}),
    "DELETE ~/sso/providers": op("sso:manage", {"providerId": "unknown"}, answers={"foreign": 403}),
    # tasks
    "POST ~/tasks": op("tasks:write", _TASK),
    "POST ~/tasks/bulk": op("tasks:write", {"tasks": [_TASK]}),
    "GET ~/tasks": op("tasks:read"),
    "GET ~/tasks/types": op("tasks:read"),
    "POST ~/tasks/preview-recurrence": op("tasks:read", _RHYTHM),
    "GET ~/tasks/{task_id}": op("tasks:read"),
    "GET ~/tasks/{task_id}/status": op("tasks:read"),
    "GET ~/tasks/{task_id}/result": op("tasks:read"),
    "DELETE ~/tasks/{task_id}": op("tasks:write", answers={"member": 403, "application_with_one_scope": 403}),
    "POST ~/tasks/{ended_id}/retry": op("tasks:write", answers={"member": 403, "application_with_one_scope": 403}),
    "POST ~/tasks/{series_id}/stop-recurring": op(
        "tasks:write", answers={"member": 403, "application_with_one_scope": 403}
    ),
    "GET ~/tasks/{task_id}/recurring-instances": op("tasks:read"),
    "GET ~/tasks/{task_id}/explain": op("tasks:read"),
    "GET ~/tasks/{task_id}/artifacts": op("artifacts:read"),
    "GET ~/tasks/{task_id}/artifacts/{path}": op("artifacts:read", also=(404,)),
    "GET ~/tasks/{task_id}/events": op("events:read"),
    "GET ~/tasks/{ended_id}/receipt": op("tasks:read"),
    "GET ~/logs/{ended_id}": op("logs:read"),
    "DELETE ~/logs/{ended_id}": op("logs:delete"),
    "GET ~/events": op("events:read", query="channel=tasks"),
    "POST ~/artifacts": op("artifacts:write", content=b"bytes"),
    "GET ~/artifacts/{artifact_id}": op("artifacts:read"),
    "DELETE ~/artifacts/{artifact_id}": op("artifacts:write"),
    # the instance
    "GET ~/queues": op("queues:read"),
    "PATCH ~/queues/{queue}": op("queues:write", {"slots": 2}, answers=_OWN_NAMES),
    "GET ~/dispatchers": op("dispatchers:read"),
    # the audit trail
    "GET ~/audit": op("audit:read"),
    "GET ~/audit/verify": op("audit:read", query="wait=0"),
    "GET ~/audit/export": op("audit:read"),
    "GET ~/audit/.well-known/jwks.json": op(PUBLIC),
    # secrets
    "PUT ~/secrets/{secret}": op("secrets:manage", {"value": "value"}, answers=_OWN_NAMES),
    "GET ~/secrets": op("secrets:manage"),
    "GET ~/secrets/{secret}": op("secrets:manage"),
    "GET ~/secrets/{secret}/versions": op("secrets:manage"),
    "DELETE ~/secrets/{secret}": op("secrets:manage"),
    "POST ~/secrets/rotate-keys": op("secrets:manage", answers={"owner": 503, "foreign": 503}),
    "GET ~/secrets/rotate-keys": op("secrets:manage", answers={"owner": 503, "foreign": 503}),
    "GET ~/leases": op("leases:read"),
    "GET ~/tasks/{task_id}/leases": op("leases:read"),
    # integrations and projects
    "POST ~/integrations": op(
        "integrations:manage",
        {"provider": "{provider}", "authType": "token", "credentials": {"token": "a-token"}},
    ),
    "GET ~/integrations": op("integrations:manage"),
    "GET ~/integrations/{integration_id}": op("integrations:manage"),
    "DELETE ~/integrations/{integration_id}": op("integrations:manage"),
    "GET ~/integrations/credentials": op(
        "integrations:credentials", query="provider=github", answers={**_NO_BROKER, **_BY_NAME_ONLY}
    ),
    "POST ~/projects": op("projects:write", {"identifier": "{new_project}", "remoteUrl": "https://git.example/a/b"}),
    "GET ~/projects": op("projects:read"),
    "GET ~/projects/{project_id}": op("projects:read"),
    "PATCH ~/projects/{project_id}": op("projects:write", {"remoteUrl": "https://git.example/a/c"}),
    "DELETE ~/projects/{project_id}": op("projects:write"),
    "GET ~/repository/auth-token": op(
        "integrations:credentials", query="repositoryIdentifier=x", also=(404,), answers=_BY_NAME_ONLY
    ),
}

#: parameters of the OpenAPI document that have a better name here
RENAMED = {
    "~/secrets/{name}": "~/secrets/{secret}",
    "~/secrets/{name}/versions": "~/secrets/{secret}/versions",
    "~/queues/{name}": "~/queues/{queue}",
    "~/tasks/{task_id}/receipt": "~/tasks/{ended_id}/receipt",
    "~/logs/{task_id}": "~/logs/{ended_id}",
    "~/tasks/{task_id}/retry": "~/tasks/{ended_id}/retry",
    "~/tasks/{task_id}/stop-recurring": "~/tasks/{series_id}/stop-recurring",
}
