"""`/secrets`: write-only for everybody. Names, versions and times come back; values never do."""

from datetime import datetime
from typing import Annotated
from urllib.parse import unquote

from litestar import delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta

from sfp_server.actor import Actor
from sfp_server.credentials import service
from sfp_server.credentials.vault import Sealer
from sfp_server.db.database import Database
from sfp_server.errors import FieldError, Malformed
from sfp_server.web.paging import DEFAULT_LIMIT, Cursor, Limit, Page, after_text, page
from sfp_server.web.wire import Wire


class PutSecret(Wire):
    """A new value; 64 KiB at most."""

    value: Annotated[str, Meta(min_length=1, max_length=65_536)]


class SecretAnswer(Wire):
    name: str
    version: int
    created_by: str
    created_at: datetime
    updated_at: datetime


def _answer(secret: service.Secret) -> SecretAnswer:
    return SecretAnswer(**{name: getattr(secret, name) for name in SecretAnswer.__struct_fields__})


def _checked(name: str) -> str:
    text = unquote(name)
    allowed = text.isascii() and text.replace("_", "a").replace(".", "a").replace("-", "a").isalnum()
    if not allowed or not (text[0].isalpha() or text[0] == "_") or len(text) > 128:
        message = "must begin with a letter or _ and have letters, digits, _ . - only, 128 at most"
        raise Malformed(f"name: {message}", errors=(FieldError(path="name", message=message),))
    return text


@put("/secrets/{name:str}", opt={"scope": "secrets:manage"}, status_code=200)
async def put_secret(
    name: FromPath[str],
    data: JSONBody[PutSecret],
    actor: NamedDependency[Actor],
    db: NamedDependency[Database],
    sealer: NamedDependency[Sealer],
) -> SecretAnswer:
    """Store a value, or replace the one that is stored."""
    checked = _checked(name)
    async with db.transaction(actor) as tx:
        return _answer(await service.put(tx, actor, sealer, name=checked, value=data.value))


@get("/secrets", opt={"scope": "secrets:manage"})
async def list_secrets(
    actor: NamedDependency[Actor], db: NamedDependency[Database], limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None
) -> Page[SecretAnswer]:
    """Names, versions and times."""
    async with db.transaction(actor) as tx:
        secrets = await service.listed(tx, after=after_text(cursor) or "", limit=limit + 1)
    return page([_answer(secret) for secret in secrets], limit, key=lambda answer: answer.name)


@delete("/secrets/{name:str}", opt={"scope": "secrets:manage"})
async def delete_secret(name: FromPath[str], actor: NamedDependency[Actor], db: NamedDependency[Database]) -> None:
    """Forget a secret; tasks that declare it fail from now on."""
    checked = _checked(name)
    async with db.transaction(actor) as tx:
        await service.delete(tx, actor, checked)


ROUTES = [put_secret, list_secrets, delete_secret]
