"""HashiCorp Vault and Infisical, as far as we use them, on a real socket: faithful in tokens, versions, leases and paths."""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit


class Double:
    """Answers (status, document) to a call; `broken`: something that is no JSON object."""

    def __init__(self, *, broken=False):
        self.broken = broken
        self.tokens = set()
        self.kept = {}

    def token(self):
        made = secrets.token_hex(16)
        self.tokens.add(made)
        return made


class VaultDouble(Double):
    """KV version 2 at `secret`, AppRole, one engine of short-lived credentials."""

    def __init__(self, *, race=False, **more):
        super().__init__(**more)
        self.race = race
        self.leases = set()

    def answer(self, method, path, headers, body):
        if path == "/v1/auth/approle/login":
            if (body["role_id"], body["secret_id"]) != ("role", "role-secret"):
                return 400, {"errors": ["invalid role or secret ID"]}
            return 200, {"auth": {"client_token": self.token(), "lease_duration": 1200, "renewable": True}}
        if headers.get("x-vault-token") not in {"root", *self.tokens}:
            return 403, {"errors": ["permission denied"]}
        if path == "/v1/database/creds/readonly":
            lease = f"database/creds/readonly/{secrets.token_hex(8)}"
            self.leases.add(lease)
            return 200, {
                "lease_id": lease,
                "lease_duration": 3600,
                "data": {"username": "u", "password": "short-lived"},
            }
        if path == "/v1/sys/leases/revoke":
            if body["lease_id"] not in self.leases:
                return 400, {"errors": ["invalid lease"]}
            self.leases.discard(body["lease_id"])
            return 204, None
        return self._kv(method, path, body) if path.startswith("/v1/secret/data/") else (404, {"errors": []})

    def _kv(self, method, path, body):
        version, data = self.kept.get(path, (0, None))
        if method == "GET":
            if not version:
                return 404, {"errors": []}
            return 200, {"data": {"data": data, "metadata": {"version": version, "destroyed": False}}}
        cas = body.get("options", {}).get("cas")
        if cas is not None and cas != version + self.race:
            return 400, {"errors": ["check-and-set parameter did not match the current version"]}
        self.kept[path] = (version + 1, body["data"])
        return 200, {"data": {"version": version + 1}}


class InfisicalDouble(Double):
    """Raw secrets of one project, with universal auth."""

    def answer(self, method, path, headers, body):
        parts = urlsplit(path)
        if parts.path == "/api/v1/auth/universal-auth/login":
            if (body["clientId"], body["clientSecret"]) != ("client-id", "client-secret"):
                return 401, {"statusCode": 401, "message": "Invalid credentials"}
            return 200, {"accessToken": self.token(), "expiresIn": 7200, "tokenType": "Bearer"}
        if headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return 401, {"statusCode": 401, "message": "Token missing or expired"}
        where = body or {name: values[0] for name, values in parse_qs(parts.query).items()}
        if (where.get("workspaceId"), where.get("environment")) != ("project", "prod"):
            return 403, {"statusCode": 403, "message": "You are not allowed to access this resource"}
        key = (where["secretPath"], parts.path.removeprefix("/api/v3/secrets/raw/"))
        if (key in self.kept) == (method == "POST"):
            return (400 if method == "POST" else 404), {"message": "Secret not found" if method != "POST" else "exists"}
        if method != "GET":
            self.kept[key] = body["secretValue"]
        return 200, {"secret": {"secretKey": key[1], "secretValue": self.kept[key], "version": 1}}


DOUBLES = {"vault": VaultDouble, "infisical": InfisicalDouble}


@asynccontextmanager
async def served(double) -> AsyncIterator[str]:
    """The double on a port of this machine; answers its address."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self):
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, document = double.answer(self.command, self.path, headers, body)
            content = b"" if document is None else json.dumps(document).encode()
            content = b"<html>" if double.broken else content
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = _answer  # noqa: N815 (names that http.server asks for)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
