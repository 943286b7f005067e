"""The broker process: the only one that reads the vault's private key."""

import asyncio

from sfp_server.credentials.broker import Broker
from sfp_server.credentials.vault import Opener
from sfp_server.db.database import Database
from sfp_server.processes.signals import stop_signal, until_stopped
from sfp_server.settings import Settings


async def run(settings: Settings) -> None:
    """Serve redemptions until SIGTERM."""
    stopping = stop_signal()
    opener = Opener(settings.secret("vault-private.pem"))
    async with Database(
        settings.role_url("sfp_broker"), application="sfp broker", size=4, audit_key=settings.audit_key()
    ) as database:
        await until_stopped(stopping, _serve(Broker(database, opener), settings))


async def _serve(broker: Broker, settings: Settings) -> None:
    """For workers of this machine, and of others where there are any."""
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.serve(settings.broker_socket))
        if settings.listen_address() is not None:
            from sfp_server.remote.tls import serving  # 3 MB that an instance without other machines does without

            tls = serving(str(settings.secret_file("broker-tls.pem")))
            group.create_task(broker.serve(settings.remote_broker_socket, tls=tls))
