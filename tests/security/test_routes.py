"""Every route, as it is registered: none is open by accident."""

import uuid

import pytest
from litestar.routes import HTTPRoute, WebSocketRoute

from sfp_server.actor import Actor, Role
from sfp_server.identity.model import SCOPES, Scope
from sfp_server.web.guard import PUBLIC
from web_api import API

MEANT_TO_BE_PUBLIC = {
    ("GET", "/health"),
    ("GET", "/sfp/api"),
    ("GET", "/sfp/api/ping"),
    ("GET", "/sfp/api/config"),
    ("GET", "/sfp/apidocs"),
    ("GET", "/sfp/apidocs-json"),
    ("POST", "/sfp/api/auth/admin/login"),
    ("POST", "/sfp/api/auth/token"),
    ("POST", "/sfp/api/auth/oidc/exchange"),
    ("POST", "/sfp/api/auth/callback"),
    # where browsers sign in: with cookies, and a proof in every form
    ("GET", "/sfp/api/auth/authorize"),
    ("GET", "/sfp/api/auth/callback/{provider_id:str}"),
    ("GET", "/sfp/api/auth/continue"),
    ("GET", "/sfp/api/auth/sign-in"),
    ("GET", "/sfp/api/auth/saml/{provider_id:str}/metadata"),
    ("POST", "/sfp/api/auth/saml/{provider_id:str}/acs"),
    ("GET", "/sfp/api/auth/device"),
    ("POST", "/sfp/api/auth/device"),
    ("GET", "/sfp/api/auth/sign-in/{provider_id:str}"),
    ("POST", "/sfp/api/auth/sign-in"),
    ("POST", "/sfp/api/auth/sign-out"),
    ("GET", "/sfp/api/auth/.well-known/jwks.json"),
    ("POST", "/sfp/api/auth/device/code"),
    ("POST", "/sfp/api/auth/device/token"),
    ("GET", "/sfp/api/audit/.well-known/jwks.json"),
    ("WEBSOCKET", "/sfp/api/realtime"),  # asks for the token in its first message
}


def declared(app):
    """(method, path, declared scope) of every route but the OPTIONS that the framework adds."""
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    if method != "OPTIONS":
                        yield str(method), route.path, handler.opt.get("scope")
        elif isinstance(route, WebSocketRoute):
            yield "WEBSOCKET", route.path, route.route_handler.opt.get("scope")
        else:
            pytest.fail(f"a mounted application has no guard: {route.path}")


def example(path):
    return path.replace(":uuid}", "}").replace(":path}", "}").replace(":str}", "}").format_map(_Examples())


class _Examples(dict):
    def __missing__(self, key):
        return str(uuid.uuid4()) if key.endswith("id") else "x"


async def test_every_route_declares_a_known_scope_or_is_meant_to_be_public(api):
    routes = list(declared(api.app))
    assert {(method, path) for method, path, scope in routes if scope == PUBLIC} == MEANT_TO_BE_PUBLIC
    unknown = [route for route in routes if route[2] != PUBLIC and route[2] not in set(Scope)]
    assert unknown == []


async def test_without_a_token_every_route_but_the_public_ones_answers_401(api):
    answers = {}
    async with api.client() as client:
        for method, path, scope in declared(api.app):
            if scope != PUBLIC:
                answer = await client.request(method, example(path), content=b"not json at all")
                answers[method, path] = (answer.status_code, answer.json()["code"], answer.headers["www-authenticate"])
    assert set(answers.values()) == {(401, "unauthenticated", "Bearer")}


async def test_without_scopes_every_route_answers_403_before_it_reads_the_request(api):
    guard = api.app.routes[0].route_handlers[0].resolve_guards()[0]
    nobody = Actor(id=uuid.uuid4(), role=Role.APPLICATION, team_id=None, team_slug="", name="", scopes=frozenset())

    async def authenticate(token, *, team, address=""):
        return nobody

    object.__setattr__(guard, "authenticate", authenticate)
    answers = {}
    async with api.client("any") as client:
        for method, path, scope in declared(api.app):
            if scope != PUBLIC:
                answer = await client.request(method, example(path), content=b"not json at all")
                answers[method, path] = (answer.status_code, answer.json()["code"])
    assert {route: answer for route, answer in answers.items() if answer != (403, "forbidden")} == {}


@pytest.mark.parametrize("role", [Role.MEMBER, Role.APPLICATION])
def test_only_owners_manage_what_gives_power(role):
    powers = {
        Scope.APPLICATION_TOKENS_MANAGE,
        Scope.SECRETS_MANAGE,
        Scope.QUEUES_WRITE,
        Scope.DISPATCHERS_READ,
        Scope.AUDIT_READ,
    }
    assert powers <= SCOPES[Role.OWNER]
    assert not powers & SCOPES[role]


async def test_framework_paths_are_closed_too(api):
    async with api.client() as client:
        assert (await client.get("/schema")).status_code == 404
        assert (await client.get("/sfp/apidocs/x")).status_code == 404
        assert (await client.request("TRACE", "/sfp/api/tasks")).status_code == 405
        options = await client.options(f"{API}/tasks")
    assert "access-control-allow-origin" not in options.headers


async def test_every_operation_is_documented_with_its_scope(api):
    async with api.client(await api.owner()) as client:
        await client.get(f"{API}/tasks")  # so that what handlers are given is in use
        document = (await client.get("/sfp/apidocs-json")).json()
        page = await client.get("/sfp/apidocs")
    assert document["openapi"].startswith("3.1")
    for method, path, scope in declared(api.app):
        if path.startswith("/sfp/apidocs") or method == "WEBSOCKET":
            continue
        plain = path.replace(":uuid}", "}").replace(":path}", "}").replace(":str}", "}")
        operation = document["paths"][plain][method.lower()]
        assert operation.get("x-sfp-scope", PUBLIC) == scope
        expected = {"400", "421", "429", "503"} | ({"401", "403", "404"} if scope != PUBLIC else set())
        assert expected <= set(operation["responses"])
        assert "default" not in operation["responses"]  # what is not listed is not answered
        problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
        assert operation["responses"]["429"]["content"]["application/problem+json"] == problem
        assert operation["summary"] or operation["description"]
    assert "101" in document["paths"][f"{API}/realtime"]["get"]["responses"]
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
