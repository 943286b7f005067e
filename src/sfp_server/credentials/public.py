"""The public key that the API seals with: what the database says, if the instance's own key vouches for it."""

from dataclasses import dataclass

import structlog

from sfp_server.credentials.ring import is_vouched, vouch
from sfp_server.credentials.vault import Sealer
from sfp_server.db.database import Tx
from sfp_server.db.queries import load
from sfp_server.errors import Unavailable

SQL = load("sfp_server.credentials", "keys.sql")

_log = structlog.get_logger("vault")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKeys:
    """Finds the key to seal with, in the transaction that stores what is sealed."""

    #: the secret file `broker-key`: what vouches for public keys
    vouching: bytes
    #: the first public key, as `init` made it; None: only the broker knows the keys, and puts them into the database
    first: bytes | None

    async def sealer(self, tx: Tx) -> Sealer:
        """For the key pair in use. Raises Unavailable while there is none, or when it cannot be trusted."""
        row = await tx.one(SQL["current_key"])
        if row is None:
            return await self._begin(tx)
        version, public_key = row["version"], row["public_key"]
        if not is_vouched(self.vouching, version, public_key, row["mac"]):
            _log.error("a public key in the database is not ours: somebody changed it", version=version)
            raise Unavailable("the vault's public key cannot be trusted; see the log", retry_after=60)
        return Sealer(public_key, version=version)

    async def _begin(self, tx: Tx) -> Sealer:
        """The first value of all is sealed to the key that `init` made."""
        if self.first is None:
            raise Unavailable("the vault has no key yet: the broker is still starting", retry_after=5)
        await tx.execute(SQL["add_key"], 1, self.first, vouch(self.vouching, 1, self.first))
        return Sealer(self.first, version=1)
