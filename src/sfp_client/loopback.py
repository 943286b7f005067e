"""Signing in through a browser on this machine (RFC 8252): a listener on loopback that the browser is sent back to.

The listener takes one answer, and only one that names our state; the code in it is of use to nobody without the
verifier (PKCE), which never leaves this process before the exchange.
"""

import base64
import hashlib
import queue
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlencode, urlsplit

from sfp_client.errors import Refused, TimedOut

#: where providers and firewalls expect us; any other port does when it is taken
PORT = 54329
#: seconds for a person to sign in
PATIENCE = 600.0
_PATH = "/callback"


class Loopback:
    """One sign-in: listens from `__enter__` on; `url` is for the browser, `wait` gives what the exchange needs."""

    def __init__(self, server_url: str, provider: str | None, *, port: int = PORT) -> None:
        """`server_url`: with the API's prefix; `provider`: None lets the person choose."""
        self._verifier = secrets.token_urlsafe(32)
        self._state = secrets.token_urlsafe(32)
        self._answers: queue.Queue[dict[str, str]] = queue.Queue()
        self._listener = _listen(port, self._taken)
        self.redirect_uri = f"http://127.0.0.1:{self._listener.server_address[1]}{_PATH}"
        self._url = server_url
        self._provider = provider

    @property
    def url(self) -> str:
        """Where to send the browser."""
        digest = hashlib.sha256(self._verifier.encode()).digest()
        parameters = {
            "redirect_to": self.redirect_uri,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "state": self._state,
        }
        if self._provider is not None:
            parameters["provider"] = self._provider
        return f"{self._url}/auth/authorize?{urlencode(parameters)}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def wait(self, patience: float = PATIENCE) -> tuple[str, str]:
        """The code, and the verifier that proves it ours. Raises Refused (the sign-in ended otherwise), TimedOut."""
        try:
            answer = self._answers.get(timeout=patience)
        except queue.Empty:
            raise TimedOut(f"nobody signed in within {patience:.0f} seconds: run the command again") from None
        code = answer.get("code")
        if code is None:
            reason = answer.get("error_description") or answer.get("error") or "without a reason"
            raise Refused(f"the sign-in was refused: {reason[:300]}")
        return code, self._verifier

    def _taken(self, path: str) -> tuple[int, str]:
        """What a request gets for an answer: status and sentence."""
        parts = urlsplit(path)
        answer = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path != _PATH:
            return 404, "There is nothing here."
        if not secrets.compare_digest(answer.get("state", "").encode(), self._state.encode()):
            return 400, "This is not the sign-in that the command line waits for. Begin again there."
        self._answers.put(answer)
        if "code" in answer:
            return 200, "You are signed in. You can close this page and go back to the command line."
        return 200, f"The sign-in was refused: {answer.get('error_description') or answer.get('error', '')}"


def _listen(port: int, taken: Callable[[str], tuple[int, str]]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # seconds: who connects and says nothing
        server_version, sys_version = "sfp", ""

        def do_GET(self) -> None:
            status, said = taken(self.path)
            body = _PAGE.format(said=escape(said)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
            self.send_header("Cache-Control", "no-store")
            self.send_header("Referrer-Policy", "no-referrer")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the library's name)
            """Say nothing: the path has the code in it."""

    with suppress(OSError):
        return _Listener(("127.0.0.1", port), Handler)
    return _Listener(("127.0.0.1", 0), Handler)


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False  # newer Pythons share it with whoever listens there already


_PAGE = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>sfp server</title>'
    "<style>:root{{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}}body{{max-width:26rem;margin:20vh auto}}"
    "</style><h1>sfp server</h1><p>{said}</p></html>"
)
