"""The OpenAPI 3.1 document and a page to read it, made from the routes when first asked for.

Litestar describes parameters and bodies; what only we know is added: the scope of each route, every status that it can
answer with, the error body, the WebSocket. A route names the errors that are its own, beside those that follow from
what it is (a scope, a parameter in the path, a body), and answers that are no JSON:

    @get("/tasks/{id}/result", opt={"scope": "tasks:read", "errors": (NotFinished,), "answers": {206: "text/plain"}})

It is built by a second application that is thrown away, so that the running one keeps one
bytes object instead of the whole tree.
"""

import base64
import hashlib
import html
import http
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from litestar import Litestar, Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.routes import HTTPRoute, WebSocketRoute
from litestar.types import ControllerRouterHandler

from sfp_server.errors import (
    BodyTimeout,
    Forbidden,
    IdempotencyMismatch,
    Malformed,
    NotFound,
    SfpError,
    TooLarge,
    TooManyRequests,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from sfp_server.web.guard import PUBLIC, SAFE
from sfp_server.web.origins import ForeignOrigin, Misdirected
from sfp_server.web.problems import MEDIA_TYPE, Problem
from sfp_server.web.wire import ApiRequest

_PROBLEM_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_METHODS = ("get", "post", "put", "patch", "delete")


class ApiDocument:
    """The document of these routes, built once."""

    def __init__(self, routes: Sequence[ControllerRouterHandler], dependencies: Sequence[str], *, version: str) -> None:
        self._routes = routes
        self._dependencies = dependencies
        self._version = version
        self._json: bytes | None = None
        self._page: bytes | None = None

    def as_json(self) -> bytes:
        if self._json is None:
            self._json = msgspec.json.encode(self._build())
        return self._json

    def as_page(self) -> bytes:
        if self._page is None:
            self._page = _page(msgspec.json.decode(self.as_json())).encode()
        return self._page

    def _build(self) -> dict[str, Any]:
        # Names alone: Litestar copies deeply what it registers, and nothing is called here.
        named = {name: _provide_nothing() for name in self._dependencies}
        root = Router("/", route_handlers=list(self._routes), dependencies=named)
        config = OpenAPIConfig(title="sfp server", version=self._version, use_handler_docstrings=True)
        app = Litestar(
            route_handlers=[root],
            openapi_config=config,
            request_class=ApiRequest,
            guards=[_closed],
            logging_config=None,
        )
        document = app.openapi_schema.to_schema()
        _add_errors(document)
        for route in app.routes:
            if isinstance(route, HTTPRoute):
                _complete(document, route)
            elif isinstance(route, WebSocketRoute):
                document["paths"][route.path_format] = {"get": _socket(route)}
        return document


def _provide_nothing() -> Provide:
    """A dependency of the application that only describes; Litestar wants a function of its own for each name."""
    return Provide(lambda: None, sync_to_thread=False)


def _closed(_connection: object, _handler: object) -> None:
    """Nothing is served by the application that only describes."""
    raise Forbidden("not served")


def _add_errors(document: dict[str, Any]) -> None:
    _, schemas = msgspec.json.schema_components([Problem], ref_template="#/components/schemas/{name}")
    components = cast("dict[str, Any]", document.setdefault("components", {}))
    components.setdefault("schemas", {}).update(schemas)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "a user JWT or an application token"}
    }


def _socket(route: WebSocketRoute) -> dict[str, Any]:
    """OpenAPI has no word for a WebSocket: the request that opens one."""
    refusals: set[type[SfpError]] = {Malformed, ForeignOrigin, NotFound, Misdirected, TooManyRequests}
    return {
        "summary": "WebSocket",
        "description": inspect.getdoc(route.route_handler.fn) or "",
        "operationId": route.route_handler.handler_name,
        "responses": {"101": {"description": "the WebSocket is open"}, **_problems(refusals)},
    }


def _complete(document: dict[str, Any], route: HTTPRoute) -> None:
    """Scopes, and every status, of the operations of a path."""
    item = cast("dict[str, Any]", document["paths"].get(route.path_format, {}))
    for handler in route.route_handlers:
        for method in handler.http_methods:
            operation = cast("dict[str, Any] | None", item.get(str(method).lower()))
            if operation is None:
                continue
            responses = cast("dict[str, Any]", operation.setdefault("responses", {}))
            responses.pop("400", None)  # Litestar's own error body, which is never sent
            _add_answers(responses, cast("dict[int, str]", handler.opt.get("answers", {})))
            for status, problem in _problems(_errors_of(operation, str(method), handler.opt)).items():
                if status not in responses:
                    responses[status] = problem
                else:  # a status of its own and an error's, as the 503 of /health
                    responses[status].setdefault("content", {}).update(_PROBLEM_CONTENT)
            scope = handler.opt.get("scope")
            if scope != PUBLIC:
                operation["security"] = [{"bearer": []}]
                operation["x-sfp-scope"] = scope
                operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`".strip()


def _add_answers(responses: dict[str, Any], answers: dict[int, str]) -> None:
    """Answers that are no JSON, by their status; a status may have several media types."""
    for status, media_type in answers.items():
        answer = responses.setdefault(str(status), {"description": http.HTTPStatus(status).phrase})
        if media_type:
            answer.setdefault("content", {})[media_type] = {"schema": {"type": "string"}}


def _errors_of(operation: dict[str, Any], method: str, opt: Mapping[str, Any]) -> set[type[SfpError]]:
    """What can go wrong with any route that is like this one, and what this one says of itself."""
    errors: set[type[SfpError]] = {Malformed, Misdirected, TooManyRequests, Unavailable, *opt.get("errors", ())}
    if method not in SAFE:
        errors.add(Forbidden)
    if opt.get("scope") != PUBLIC:
        errors |= {Unauthenticated, Forbidden, NotFound}
    if any(parameter["in"] == "path" for parameter in operation.get("parameters", [])):
        errors.add(NotFound)
    if "requestBody" in operation:
        errors |= {BodyTimeout, TooLarge, UnsupportedMediaType}
    if "201" in operation["responses"] and method == "POST":
        errors.add(IdempotencyMismatch)
    return errors


def _problems(errors: set[type[SfpError]]) -> dict[str, Any]:
    statuses = sorted({error.status for error in errors})
    return {
        str(status): {"description": http.HTTPStatus(status).phrase, "content": dict(_PROBLEM_CONTENT)}
        for status in statuses
    }


@get("/sfp/apidocs-json", opt={"scope": PUBLIC}, include_in_schema=False)
async def document_json(api_document: NamedDependency[ApiDocument]) -> Response[bytes]:
    """The OpenAPI document."""
    return Response(api_document.as_json(), media_type="application/json")


@get("/sfp/apidocs", opt={"scope": PUBLIC}, include_in_schema=False)
async def document_page(api_document: NamedDependency[ApiDocument]) -> Response[bytes]:
    """The same for people; it loads nothing from anywhere."""
    policy = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'"
    return Response(
        api_document.as_page(),
        media_type="text/html",
        headers={"Content-Security-Policy": policy},
    )


ROUTES = [document_json, document_page]

_STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
summary { cursor: pointer; padding: .4rem 0; font-family: ui-monospace, monospace }
summary b { display: inline-block; min-width: 4.5rem }
summary span { opacity: .7; font-family: system-ui, sans-serif }
details { border-top: 1px solid #8884 }
details > div { padding: 0 0 1rem 4.5rem }
pre { overflow: auto; background: #8882; padding: .6rem; border-radius: .3rem }
table { border-collapse: collapse } td { padding: .1rem 1rem .1rem 0; vertical-align: top }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def _page(document: dict[str, Any]) -> str:
    parts: list[str] = []
    for path, item in sorted(document["paths"].items()):
        parts += [_operation(path, method, item[method]) for method in _METHODS if method in item]
    schemas = [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{title}</h1>'
        '<p>The same for programs: <a href="/sfp/apidocs-json">OpenAPI 3.1</a>.</p>'
        f"<h2>Calls</h2>{''.join(parts)}<h2>Bodies</h2>{''.join(schemas)}</html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(item['name'])}</code><td>{item['in']}<td>{_kind(item.get('schema', {}))}"
        f"<td>{html.escape(item.get('description', ''))}"
        for item in operation.get("parameters", [])
    )
    body = operation.get("requestBody", {}).get("content", {})
    sent = "".join(f"<p>Body ({html.escape(kind)}): {_kind(media['schema'])}" for kind, media in body.items())
    answers = "".join(
        f"<p>{code}: {html.escape(answer.get('description', ''))} "
        + ", ".join(_kind(media.get("schema", {})) for media in answer.get("content", {}).values())
        for code, answer in operation.get("responses", {}).items()
        if int(code) < 400
    )
    text = html.escape(operation.get("description", ""))
    errors = ", ".join(code for code in operation.get("responses", {}) if int(code) >= 400)
    return (
        f"<details><summary><b>{method.upper()}</b>{html.escape(path)} "
        f"<span>{html.escape(operation.get('summary', ''))}</span></summary>"
        f"<div><p>{text}</p><table>{rows}</table>{sent}{answers}<p>Errors: {errors}</div></details>"
    )


def _kind(schema: dict[str, Any]) -> str:
    """A schema in a few words; a reference is a link to its place below."""
    if reference := schema.get("$ref"):
        name = html.escape(str(reference).rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    kinds = schema.get("oneOf") or schema.get("anyOf")
    if kinds:
        return " | ".join(_kind(kind) for kind in kinds)
    if schema.get("type") == "array":
        return f"[{_kind(schema.get('items', {}))}]"
    return html.escape(str(schema.get("format") or schema.get("type") or "any"))


def _schema(name: str, schema: dict[str, Any]) -> str:
    shown = html.escape(msgspec.json.format(msgspec.json.encode(schema), indent=2).decode())
    name = html.escape(name)
    return f'<details id="{name}"><summary>{name}</summary><div><pre>{shown}</pre></div></details>'
