"""The OpenAPI 3.1 document and a page to read it, made from the routes when first asked for.

Litestar describes parameters and bodies; what only we know is added: the scope of each route, the error body, the
WebSocket. It is built by a second application that is thrown away, so that the running one keeps one
bytes object instead of the whole tree.
"""

import base64
import hashlib
import html
import inspect
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from litestar import Litestar, Response, Router, get
from litestar.di import NamedDependency, Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.routes import HTTPRoute, WebSocketRoute
from litestar.types import ControllerRouterHandler

from sfp_server.errors import Forbidden
from sfp_server.web.guard import PUBLIC
from sfp_server.web.problems import MEDIA_TYPE, Problem
from sfp_server.web.wire import ApiRequest

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
                _add_scopes(document, route)
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
    components["responses"] = {
        "Problem": {
            "description": "Any error: RFC 9457 problem details",
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    }
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "a user JWT or an application token"}
    }


def _socket(route: WebSocketRoute) -> dict[str, Any]:
    """OpenAPI has no word for a WebSocket: the request that opens one."""
    return {
        "summary": "WebSocket",
        "description": inspect.getdoc(route.route_handler.fn) or "",
        "operationId": route.route_handler.handler_name,
        "responses": {
            "101": {"description": "the WebSocket is open"},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }


def _add_scopes(document: dict[str, Any], route: HTTPRoute) -> None:
    item = cast("dict[str, Any]", document["paths"].get(route.path_format, {}))
    for handler in route.route_handlers:
        for method in handler.http_methods:
            operation = cast("dict[str, Any] | None", item.get(str(method).lower()))
            if operation is None:
                continue
            responses = cast("dict[str, Any]", operation.setdefault("responses", {}))
            responses.pop("400", None)  # Litestar's own error body, which is never sent
            responses["default"] = {"$ref": "#/components/responses/Problem"}
            scope = handler.opt.get("scope")
            if scope != PUBLIC:
                operation["security"] = [{"bearer": []}]
                operation["x-sfp-scope"] = scope
                operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`".strip()


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
        if code != "default"
    )
    text = html.escape(operation.get("description", ""))
    return (
        f"<details><summary><b>{method.upper()}</b>{html.escape(path)} "
        f"<span>{html.escape(operation.get('summary', ''))}</span></summary>"
        f"<div><p>{text}</p><table>{rows}</table>{sent}{answers}</div></details>"
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
