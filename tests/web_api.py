"""The whole API in this process, on a real database and a real Valkey; spoken to over ASGI."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from litestar import Litestar

from sfp_server.app import create_app
from sfp_server.identity.bootstrap import create_owner
from sfp_server.identity.passwords import hash_now
from sfp_server.instance.keys import make_secrets
from sfp_server.instance.place import Place
from sfp_server.settings import Settings

PASSWORD = "correct horse battery"
API = "/sfp/api"


def settings_for(directory: Path, clone: Any, valkey_url: str, **changes: Any) -> Settings:
    """Settings of an instance that uses the test's database and cache."""
    make_secrets(Place(directory=directory, tenant="acme"))
    (directory / "secrets" / "db-sfp_api").write_text("role-password")
    settings = Settings(
        directory=directory, tenant="acme", database_url=clone.admin_url, cache_url=valkey_url, worker_counts="1,2,1"
    )
    return replace(settings, **changes)


@dataclass
class WebApi:
    """The running application, and shortcuts to people in it."""

    app: Litestar
    settings: Settings
    admin: asyncpg.Connection

    def client(self, token: str | None = None, *, address: str = "192.0.2.1", **headers: str) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 1234), raise_app_exceptions=False)
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=bearer | headers)

    async def owner(self, email: str = "ann@acme.example", team: str = "acme") -> str:
        """Make an owner; answers an access token."""
        await create_owner(
            self.settings.role_url("sfp_api"), email, PASSWORD, team_slug=team, audit_key=self.settings.audit_key()
        )
        return (await self.login(email)).json()["access_token"]

    async def member(self, email: str = "max@acme.example", team: str = "acme") -> str:
        """Make a member of a team that exists; answers an access token."""
        user = await self.admin.fetchval(
            "INSERT INTO users (email, password_hash) VALUES ($1, $2) RETURNING id", email, hash_now(PASSWORD)
        )
        await self.join(user, team, "member")
        return (await self.login(email)).json()["access_token"]

    async def join(self, user: Any, team: str, role: str) -> None:
        await self.admin.execute(
            "INSERT INTO memberships (team_id, user_id, role) SELECT id, $1, $3 FROM teams WHERE slug = $2",
            user,
            team,
            role,
        )

    async def login(self, email: str, password: str = PASSWORD, *, address: str = "192.0.2.1") -> httpx.Response:
        async with self.client(address=address) as client:
            return await client.post(f"{API}/auth/admin/login", json={"email": email, "password": password})

    async def application_token(self, owner: str, **body: Any) -> dict[str, Any]:
        async with self.client(owner) as client:
            answer = await client.post(f"{API}/application-tokens", json={"name": "ci", **body})
        assert answer.status_code == 201, answer.text
        return answer.json()


@asynccontextmanager
async def running(settings: Settings, admin: asyncpg.Connection) -> AsyncIterator[WebApi]:
    app = create_app(settings)
    started, ending = asyncio.Event(), asyncio.Event()

    async def live() -> None:  # one task from start to end: a fixture's two halves run in two
        async with app.lifespan():
            started.set()
            await ending.wait()

    living = asyncio.create_task(live())
    await started.wait()
    try:
        yield WebApi(app=app, settings=settings, admin=admin)
    finally:
        ending.set()
        await living
