"""Pages for people, made by the server: nothing loaded from anywhere, no scripts but one, every form with a proof.

    return page("Hello", heading("Hello"), form("/sfp/api/x", visitor.csrf, field("name", "Name"), button("Go")))

Everything that is put into a page goes through these functions, which escape it. Routes that answer with pages take
`ERRORS` as their exception handlers, so that a person sees a sentence, and `opt=PAGE_OPT | {...}` for the document.
"""

import base64
import hashlib
import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from litestar import Request, Response
from litestar.exceptions import HTTPException

from sfp_server.actor import Actor
from sfp_server.db.database import Violation
from sfp_server.errors import SfpError
from sfp_server.web import problems
from sfp_server.web.asgi import Scope

HTML = "text/html"  # Litestar adds the charset
#: what the document says of a route that answers with a page
ANSWERS: Mapping[int, str] = dict.fromkeys((200, 400, 401, 403, 404, 409, 415, 422, 429, 502, 503), "text/html")

_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 26rem; margin: 12vh auto 4rem; padding: 0 1.2rem }
h1 { font-size: 1.35rem; margin: 0 0 1rem }
p.who, p.small, footer { opacity: .75; font-size: .9rem }
form, a.button { display: block; margin: 0 0 .8rem }
label { display: block; margin: 0 0 .8rem }
input { display: block; width: 100%; box-sizing: border-box; padding: .55rem .7rem; margin-top: .2rem; font: inherit;
  border: 1px solid #8888; border-radius: .4rem; background: transparent; color: inherit }
button, a.button { width: 100%; box-sizing: border-box; padding: .6rem .7rem; font: inherit; text-align: center;
  cursor: pointer; border: 1px solid #8888; border-radius: .4rem; background: #8881; color: inherit;
  text-decoration: none }
button.main { background: #1f5fd0; border-color: #1f5fd0; color: #fff }
button:focus-visible, a.button:focus-visible, input:focus-visible { outline: 3px solid #4d8dff; outline-offset: 1px }
code.big { display: block; font-size: 1.6rem; letter-spacing: .12em; text-align: center; padding: .6rem;
  background: #8882; border-radius: .4rem }
p.warning { border-left: 4px solid #d08a1f; padding-left: .8rem }
p.error { border-left: 4px solid #c83232; padding-left: .8rem }
hr { border: 0; border-top: 1px solid #8884; margin: 1.2rem 0 }
footer { margin-top: 2rem }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: the one script that there is; without scripts a person presses the button
_SEND = "document.forms[0].submit()"
_SEND_HASH = base64.b64encode(hashlib.sha256(_SEND.encode()).digest()).decode()


class Markup(str):
    """Text that is HTML already: only the functions of this module make it."""

    __slots__ = ()


def page(
    title: str,
    *parts: Markup,
    status: int = 200,
    form_targets: Iterable[str] = (),
    sends_itself: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response[bytes]:
    """A whole page.

    Args:
        form_targets: origins beside our own that a form of this page may lead to in the end.
        sends_itself: its only form is sent at once, where scripts run.
    """
    script = f"<script>{_SEND}</script>" if sends_itself else ""
    # `same-origin`: with `no-referrer` browsers send forms from nowhere (`Origin: null`), and those are refused
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<meta name="referrer" content="same-origin"><title>{html.escape(title)}</title><style>{_STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main>{script}</body></html>"
    )
    forms = " ".join(["'self'", *form_targets])
    policy = (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {forms}; "
        + (f"script-src 'sha256-{_SEND_HASH}'; " if sends_itself else "")
        + "base-uri 'none'; frame-ancestors 'none'"
    )
    sent = {"Content-Security-Policy": policy, "Cache-Control": "no-store", **(headers or {})}
    return Response(text.encode(), status_code=status, media_type=HTML, headers=sent)


def redirect(url: str) -> Response[bytes]:
    """Send the browser on; the URL was checked by the caller."""
    return Response(b"", status_code=303, headers={"Location": url, "Cache-Control": "no-store"})


def heading(text: str) -> Markup:
    return Markup(f"<h1>{html.escape(text)}</h1>")


def paragraph(text: str, kind: str = "") -> Markup:
    """`kind`: `small`, `who`, `warning` or `error`."""
    return Markup(f'<p class="{html.escape(kind)}">{html.escape(text)}</p>')


def big_code(text: str) -> Markup:
    """A code for a person to compare."""
    return Markup(f'<code class="big">{html.escape(text)}</code>')


def rule() -> Markup:
    return Markup("<hr>")


def link(text: str, url: str) -> Markup:
    """A link that looks like a button."""
    return Markup(f'<a class="button" href="{html.escape(url)}">{html.escape(text)}</a>')


def form(action: str, csrf: str, *parts: Markup, hidden: Mapping[str, str | None] | None = None) -> Markup:
    """A form that posts to a path of ours, with its proof; hidden fields that are None are left out."""
    values = {"csrf": csrf, **{name: value for name, value in (hidden or {}).items() if value is not None}}
    kept = "".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
        for name, value in values.items()
    )
    return Markup(f'<form method="post" action="{html.escape(action)}">{kept}{"".join(parts)}</form>')


def field(name: str, label: str, *, kind: str = "text", autocomplete: str = "off", value: str = "") -> Markup:
    """A field that must be filled in."""
    attributes = {"name": name, "type": kind, "autocomplete": autocomplete, "value": value}
    shown = " ".join(f'{key}="{html.escape(text)}"' for key, text in attributes.items())
    return Markup(f"<label>{html.escape(label)}<input {shown} required></label>")


def button(text: str, *, name: str = "", value: str = "", is_main: bool = True) -> Markup:
    """A button that sends its form, with a value of its own when it has a name."""
    own = f' name="{html.escape(name)}" value="{html.escape(value)}"' if name else ""
    kind = ' class="main"' if is_main else ""
    return Markup(f'<button type="submit"{own}{kind}>{html.escape(text)}</button>')


def _said(error: SfpError, request: Request[Any, Any, Any]) -> Response[bytes]:
    scope = cast("Scope", request.scope)
    shown = problems.describe(
        error,
        instance=request.url.path,
        request_id=problems.request_id(scope),
        known=isinstance(scope.get("user"), Actor) or error.is_for_people,
    )
    return page(
        shown.title,
        heading(shown.title),
        paragraph(shown.detail, "error"),
        paragraph(f"{shown.code} · request {shown.request_id}", "small"),
        status=error.status,
        headers=problems.extra_headers(error),
    )


def _expected(request: Request[Any, Any, Any], error: SfpError) -> Response[bytes]:
    return _said(error, request)


def _of_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return _said(problems.of_framework(request, error), request)


def _of_database(request: Request[Any, Any, Any], error: Violation) -> Response[bytes]:
    return _said(problems.of_database(error), request)


def _bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    return _said(problems.logged_bug(request, error), request)


#: how errors become pages, for `exception_handlers` of a route
ERRORS: Mapping[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[bytes]]] = {
    SfpError: _expected,
    HTTPException: _of_framework,
    Violation: _of_database,
    Exception: _bug,
}
