"""Every operation of the running API, as everybody: what is declared in `rights.py`, and nothing else."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count, product
from typing import Any

import httpx
import pytest
from litestar.routes import HTTPRoute
from rights import OPERATIONS, RENAMED, SCOPE_ROLES, Operation
from structlog.testing import capture_logs

import auditing
import web_api
from sfp_server.actor import Role
from sfp_server.identity.model import NO_TEAM, SCOPES, Scope
from sfp_server.web.guard import PUBLIC
from web_api import API, PASSWORD

#: who calls; `foreign` owns another team, `elsewhere` names another team in the header
CALLERS = (
    "anonymous",
    "nobody",
    "member",
    "owner",
    "application",
    "application_with_one_scope",
    "application_without_the_scope",
    "foreign",
    "elsewhere",
)
#: no answer to an ordinary request: the WebSocket
SKIPPED = {"GET ~/realtime"}


@dataclass
class Things:
    """Makes what a call names; each is used once."""

    api: web_api.WebApi
    owner: str
    numbers: Any = field(default_factory=count)

    async def _make(self, method: str, path: str, **more: Any) -> Any:
        async with self.api.client(self.owner) as client:
            answer = await client.request(method, API + path, **more)
        assert answer.is_success, answer.text
        return answer.json()

    async def task_id(self) -> str:
        return (await self._make("POST", "/tasks", json=OPERATIONS["POST ~/tasks"].body))["operationId"]

    async def ended_id(self) -> str:
        task_id = await self.task_id()
        await self._make("DELETE", f"/tasks/{task_id}")
        return task_id

    async def series_id(self) -> str:
        rhythm = {"scheduleType": "recurring", "recurrenceConfig": {"cron": "0 2 * * *"}}
        body = {"type": "command", "data": {"argv": ["true"]}, **rhythm}
        return (await self._make("POST", "/tasks", json=body))["operationId"]

    async def artifact_id(self) -> str:
        return (await self._make("POST", "/artifacts", content=b"bytes"))["id"]

    async def token_id(self) -> str:
        return (await self._make("POST", "/application-tokens", json={"name": "x"}))["id"]

    async def rule(self) -> str:
        return f"rule {next(self.numbers)}"

    async def rule_id(self) -> str:
        body = OPERATIONS["POST ~/auth/oidc/trust"].body | {"name": await self.rule()}
        return (await self._make("POST", "/auth/oidc/trust", json=body))["id"]

    async def session_id(self) -> str:
        """Nobody's: each has only their own."""
        return str(uuid.uuid4())

    async def secret(self) -> str:
        name = f"S{next(self.numbers)}"
        await self._make("PUT", f"/secrets/{name}", json={"value": "value"})
        return name

    async def provider(self) -> str:
        return f"provider-{next(self.numbers)}"

    async def integration_id(self) -> str:
        body = {"provider": await self.provider(), "authType": "token", "credentials": {"token": "a-token"}}
        return (await self._make("POST", "/integrations", json=body))["id"]

    async def new_project(self) -> str:
        return f"project-{next(self.numbers)}"

    async def project_id(self) -> str:
        body = {"identifier": await self.new_project(), "remoteUrl": "https://git.example/a/b"}
        return (await self._make("POST", "/projects", json=body))["id"]

    async def email(self) -> str:
        """A member of acme."""
        address = f"m{next(self.numbers)}@acme.example"
        await self._make("POST", "/users", json={"email": address})
        return address

    async def colleague(self) -> str:
        """A user of no team."""
        address = await self.email()
        await self._make("DELETE", f"/teams/acme/members/{address}")
        return address

    async def refresh_token(self) -> str:
        return (await self.api.login("ann@acme.example")).json()["refresh_token"]

    async def user_code(self) -> str:
        """A device's, that waits for anybody's consent."""
        return (await self._make("POST", "/auth/device/code", json={}))["user_code"]

    async def slug(self) -> str:
        return "acme"

    async def new_slug(self) -> str:
        return f"team-{next(self.numbers)}"

    async def password(self) -> str:
        return PASSWORD

    async def queue(self) -> str:
        return "normal"

    async def path(self) -> str:
        return "a/b"

    async def filled(self, text: str) -> str:
        """`text` with its placeholders made."""
        for name in {part.partition("}")[0] for part in text.split("{")[1:]}:
            if hasattr(self, name):
                text = text.replace(f"{{{name}}}", await getattr(self, name)())
        return text


@dataclass
class World:
    """The API, and a token for everybody."""

    api: web_api.WebApi
    things: Things
    tokens: dict[str, str]
    #: scope → tokens of applications that have only it, and all but it
    with_scope: dict[str, str]
    without_scope: dict[str, str]

    async def call(self, key: str, caller: str) -> httpx.Response:
        return await self.send(await self.request(key, caller))

    async def request(self, key: str, caller: str) -> httpx.Request:
        """A call that would work, for somebody who may; what it names is made now."""
        operation = OPERATIONS[key]
        method, _, path = key.partition(" ")
        url = (await self.things.filled(path)).replace("~", API)
        body = None
        if operation.body is not None:
            body = json.loads(await self.things.filled(json.dumps(operation.body)))
        headers = {"Accept": "application/json"} | ({"X-Sfp-Team": "beta"} if caller == "elsewhere" else {})
        token = await self._token(key, caller)
        async with self.api.client(token, **headers) as client:
            sent: dict[str, Any] = {"content": operation.content} if body is None else {"json": body}
            return client.build_request(method, url, params=operation.query or None, **sent)

    async def send(self, request: httpx.Request) -> httpx.Response:
        async with self.api.client() as client:
            return await client.send(request)

    async def _token(self, key: str, caller: str) -> str | None:
        scope = OPERATIONS[key].scope
        match caller:
            case "anonymous":
                return None
            case "application_with_one_scope":
                return self.with_scope.get(scope, self.tokens["application"])
            case "application_without_the_scope":
                return self.without_scope.get(scope, self.tokens["application"])
            case _ if OPERATIONS[key].ends_sessions and caller != "application":
                return await self._newcomer(caller)
            case _:
                return self.tokens[caller]

    async def _newcomer(self, caller: str) -> str:
        """A token of somebody new, who is what this caller is."""
        address = f"n{next(self.things.numbers)}@x.example"
        body = {"email": address, "password": PASSWORD, "role": "member" if caller == "member" else "owner"}
        async with self.api.client(self.tokens["foreign" if caller == "foreign" else "owner"]) as client:
            await client.post(f"{API}/users", json=body)
            if caller == "nobody":
                await client.delete(f"{API}/teams/acme/members/{address}")
        return (await self.api.login(address)).json()["access_token"]


@pytest.fixture
async def world(clone, admin, valkey_url, tmp_path) -> AsyncIterator[World]:
    unlimited = {"address_rate_limit": 0, "actor_rate_limit": 0}
    settings = web_api.settings_for(tmp_path, clone, valkey_url, **unlimited)
    (tmp_path / "run").mkdir()
    async with auditing.running(settings, clone), web_api.running(settings, admin) as api:
        owner = await api.owner()
        tokens = {
            "owner": owner,
            "elsewhere": owner,
            "member": await api.member(),
            "foreign": await api.owner("bob@beta.example", "beta"),
            "nobody": await api.member("eve@none.example"),
        }
        await admin.execute("DELETE FROM memberships USING users WHERE user_id = id AND email = 'eve@none.example'")
        allowed = sorted(SCOPES[Role.APPLICATION])
        tokens["application"] = (await api.application_token(owner))["token"]
        one = {scope: (await api.application_token(owner, scopes=[scope]))["token"] for scope in allowed}
        others = {
            scope: (await api.application_token(owner, scopes=[s for s in allowed if s != scope]))["token"]
            for scope in allowed
        }
        yield World(api, Things(api, owner), tokens, one, others)


def expected(operation: Operation, caller: str) -> int | str:
    """The status, or `answered`: the call is let through."""
    if operation.scope == PUBLIC:
        return "answered"
    role = {"foreign": "owner", "elsewhere": "owner"}.get(caller, caller).partition("_")[0]
    if caller == "anonymous":
        return 401
    if caller == "elsewhere":
        return 404
    if caller in operation.answers:
        return operation.answers[caller]
    if role not in SCOPE_ROLES[operation.scope].split() or caller == "application_without_the_scope":
        return 403
    return "answered"


def fits(key: str, caller: str, status: int) -> bool:
    operation = OPERATIONS[key]
    wanted = expected(operation, caller)
    if caller == "foreign" and "foreign" not in operation.answers and "{" in key:
        wanted = 404
    if wanted == "answered":
        return status < 500 and (status not in {401, 403, 404} or status in operation.also)
    # Of a team in the path that is not theirs, application and elsewhere hear the one or the other.
    return status == wanted or (caller == "elsewhere" and "{slug}" in key and fits(key, "owner", status))


def documented(document: dict[str, Any]) -> dict[str, str]:
    """`METHOD path` → scope, of every operation."""
    found = {}
    for path, item in document["paths"].items():
        short = path.replace(API, "~", 1)
        for method, operation in item.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                found[f"{method.upper()} {RENAMED.get(short, short)}"] = operation.get("x-sfp-scope", PUBLIC)
    return found


async def test_every_operation_is_declared_with_its_scope(world):
    async with world.api.client() as client:
        document = (await client.get("/sfp/apidocs-json")).json()
    found = documented(document)
    assert {key: scope for key, scope in found.items() if key not in SKIPPED} == {
        key: operation.scope for key, operation in OPERATIONS.items()
    }, "declare operations in tests/security/rights.py"


def test_every_scope_is_declared_with_its_roles():
    found = {scope.value: {role.value for role in Role if scope in SCOPES[role]} for scope in Scope}
    for scope in NO_TEAM:
        found[scope].add("nobody")
    assert found == {scope: set(roles.split()) for scope, roles in SCOPE_ROLES.items()}


async def test_every_operation_answers_everybody_as_declared(world):
    wrong = {}
    for key, caller in product(OPERATIONS, CALLERS):
        answer = await world.call(key, caller)
        if not fits(key, caller, answer.status_code):
            wrong[key, caller] = (answer.status_code, answer.text[:200])
    assert not wrong, "\n".join(f"{call}: {answer}" for call, answer in wrong.items())


async def test_every_scope_of_a_route_counts(world):
    """A route that loses its scope is noticed, whether it becomes open to everybody or to nobody."""
    unnoticed = []
    for key, handler in handlers(world.api.app):
        operation = OPERATIONS.get(key)
        if operation is None or operation.scope == PUBLIC:
            continue
        for scope, caller in ((PUBLIC, "anonymous"), (None, "owner")):
            request = await world.request(key, caller)
            handler.opt["scope"] = scope
            with capture_logs():  # of the bugs that this makes
                answer = await world.send(request)
            handler.opt["scope"] = operation.scope
            if fits(key, caller, answer.status_code):
                unnoticed.append((key, scope))
    assert unnoticed == []


def handlers(app: Any) -> list[tuple[str, Any]]:
    """(`METHOD path`, handler) of every route."""
    found = []
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            short = route.path_format.replace(API, "~", 1)
            found += [
                (f"{method} {RENAMED.get(short, short)}", handler)
                for handler in route.route_handlers
                for method in handler.http_methods
                if method != "OPTIONS"
            ]
    return found
