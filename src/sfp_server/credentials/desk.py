"""The broker's desk: what the API and the instance's own commands may ask, each with the key that both have as a file.

Nobody gets a secret here. An integration's credentials leave by it, because the contract has a route for them: the
entry in the audit trail is committed before they do. Who has the API has them, and shows it.
"""

import hmac
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
import structlog

from sfp_server.audit import service as audit
from sfp_server.credentials.keyring import KeyRing
from sfp_server.credentials.leasing import Refused, open_integration
from sfp_server.credentials.service import SQL
from sfp_server.credentials.sources.base import SourceError
from sfp_server.db.database import Database
from sfp_server.errors import Conflict, NotFound, SfpError, Unavailable

log = structlog.get_logger()


class Question(msgspec.Struct, forbid_unknown_fields=True, tag_field="ask"):
    """Who asks, for whom."""

    key: str
    #: label of the actor, for the audit trail
    actor: str
    team: UUID | None = None
    request_id: str = ""


class AskIntegration(Question, tag="integration", kw_only=True):
    """The credentials of a provider: the project's before the global ones."""

    provider: str
    project: str | None = None


class AskRotate(Question, tag="rotate"):
    """Begin a rotation of the master key."""


class AskKeys(Question, tag="keys"):
    """Which key pairs there are, and how much is sealed to each."""


_Asked = AskIntegration | AskRotate | AskKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """Answers those who have the key."""

    database: Database
    keys: KeyRing
    #: the secret file `broker-key`
    key: str

    async def answer(self, line: bytes, remote: bool) -> dict[str, Any]:  # a call by position, as `Answering` says
        """`{"answer": …}` or `{"error": {"code", "message"}}`; never raises."""
        del remote
        try:
            asked = msgspec.json.decode(line, type=_Asked)
            if not hmac.compare_digest(asked.key.encode(), self.key.encode()):
                raise Refused("the key is wrong")  # noqa: TRY301 (told like every refusal)
            with structlog.contextvars.bound_contextvars(request_id=asked.request_id):
                return {"answer": await self._answer(asked)}
        except (Refused, SourceError) as error:
            return {"error": {"code": "credential", "message": str(error)}}
        except SfpError as error:
            return {"error": {"code": error.code, "message": str(error)}}
        except (msgspec.DecodeError, ValueError):
            return {"error": {"code": "credential", "message": "the request is not understood"}}
        except Exception:
            log.exception("a request to the broker failed")
            return {"error": {"code": "unavailable", "message": "the broker failed; see its log"}}

    async def _answer(self, asked: _Asked) -> object:
        match asked:
            case AskIntegration():
                return await self._integration(asked)
            case AskRotate():
                return {"version": await self.keys.rotate(team_id=asked.team, actor=asked.actor)}
            case AskKeys():
                states = [msgspec.to_builtins(state) for state in await self.keys.states()]
                return {"keys": states, "broken": self.keys.broken}

    async def _integration(self, asked: AskIntegration) -> object:
        """Raises NotFound, Refused, Unavailable."""
        if asked.team is None:
            raise NotFound("there is no such integration")
        opener = self.keys.opener
        async with self.database.serving(asked.team) as tx:
            row = await tx.one(SQL["find_integration"], asked.provider, asked.project)
            if row is None:
                raise NotFound(f"there is no integration {asked.provider}")
            opened = open_integration(opener, asked.team, row)
            detail = {"integration": str(row["id"]), "project": asked.project}
            await audit.record(tx, asked.actor, "integration.credentials", f"integration:{asked.provider}", detail)
        return {"id": str(row["id"]), **msgspec.to_builtins(opened)}


#: what an error of the desk becomes for whoever asked
ERRORS: dict[str, type[SfpError]] = {kind.code: kind for kind in (NotFound, Conflict, Unavailable)}
