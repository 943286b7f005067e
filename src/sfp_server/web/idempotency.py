"""Creating once: `Idempotency-Key` on a POST that creates.

The key is reserved in the caller's own transaction, so the key and what it made are committed together or not at
all. A second request with the same key waits in the database until the first has ended, then replays its answer,
or, when the first was rolled back, creates.

    async with db.transaction(actor) as tx:
        made = await once(tx, actor, request, lambda: submit(tx, …))
    return made.response()
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import Response

from sfp_server.actor import Actor
from sfp_server.db.database import Tx
from sfp_server.db.queries import load
from sfp_server.errors import FieldError, IdempotencyMismatch, Malformed
from sfp_server.web.wire import ApiRequest

SQL = load(__package__ or "", "idempotency.sql")

_KEY = re.compile(r"[!-~]{1,255}")

Transform = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a creating route answers: the same object whether it was made now or before."""

    body: dict[str, Any]
    status: int = 201
    replayed: bool = False

    def response(self) -> Response[Any]:
        headers = {"Idempotent-Replayed": "true"} if self.replayed else {}
        return Response(self.body, status_code=self.status, headers=headers)


async def once(
    tx: Tx,
    actor: Actor,
    request: ApiRequest,
    create: Callable[[], Awaitable[Any]],
    *,
    status: int = 201,
    seal: Transform | None = None,
    unseal: Transform | None = None,
    fingerprint: Callable[[bytes], bytes] = lambda text: hashlib.sha256(text).digest(),
) -> Answer:
    """Call `create` unless this actor has sent this key before; without the header, always.

    Args:
        tx: the transaction in which `create` works; commit it before answering.
        create: makes the thing and gives the answer's body (a wire struct or JSON-safe dictionary).
        fingerprint: what is stored of the request; a keyed one where it carries a secret that could be guessed.
        seal: what is stored instead of the body, where the body shows a secret once; `unseal` undoes it.

    Raises Malformed (a key that is none), IdempotencyMismatch (the same key came with another body).
    """
    key = key_of(request)
    if key is None:
        return Answer(body=_plain(await create()), status=status)
    digest = fingerprint(f"{request.method} {request.url.path}\n".encode() + await request.body())
    if await tx.one(SQL["reserve"], actor.label, key, digest) is None:
        return await _replay(tx, actor, key, digest, unseal)
    body = _plain(await create())
    await tx.execute(SQL["answer"], actor.label, key, status, seal(body) if seal else body)
    return Answer(body=body, status=status)


def key_of(request: ApiRequest) -> str | None:
    """The request's key. Raises Malformed unless it is 1 to 255 printable ASCII characters."""
    key = request.headers.get("idempotency-key")
    if key is not None and _KEY.fullmatch(key) is None:
        message = "must be 1 to 255 printable ASCII characters without spaces"
        raise Malformed(f"Idempotency-Key: {message}", errors=(FieldError(path="Idempotency-Key", message=message),))
    return key


async def _replay(tx: Tx, actor: Actor, key: str, digest: bytes, unseal: Transform | None) -> Answer:
    row = await tx.one(SQL["find"], actor.label, key)
    if row is None:
        raise RuntimeError("a reserved idempotency key has vanished")
    if row["body_hash"] != digest:
        raise IdempotencyMismatch("this Idempotency-Key was used with another request")
    body = row["response"]
    return Answer(body=unseal(body) if unseal else body, status=row["status"], replayed=True)


def _plain(body: Any) -> dict[str, Any]:
    """The body as the JSON-safe dictionary that is stored, so that the first answer and its replay are equal."""
    return msgspec.to_builtins(body)
