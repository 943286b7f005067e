"""The broker process: the only one that reads the vault's private keys."""

import asyncio

from sfp_server.credentials.broker import Broker, Listener
from sfp_server.credentials.desk import Desk
from sfp_server.credentials.keyring import KeyRing
from sfp_server.credentials.leasing import Leasing
from sfp_server.credentials.returns import Returns
from sfp_server.credentials.sources.choose import key_source, value_sources
from sfp_server.db.database import Database
from sfp_server.outgoing import Outgoing
from sfp_server.processes.signals import stop_signal, until_stopped
from sfp_server.settings import Settings


async def run(settings: Settings) -> None:
    """Serve redemptions until SIGTERM."""
    stopping = stop_signal()
    outgoing = Outgoing.of(settings)
    async with Database(
        settings.role_url("sfp_broker"), application="sfp broker", size=4, audit_key=settings.audit_key()
    ) as database:
        try:
            await until_stopped(stopping, _serve(settings, database, outgoing))
        finally:
            await outgoing.close()


async def _serve(settings: Settings, database: Database, outgoing: Outgoing) -> None:
    """For workers of this machine, and of others where there are any; and for the API."""
    key, sources = settings.secret("broker-key"), value_sources(settings, outgoing)
    keys = KeyRing(key_source(settings, outgoing), database, vouching=key.encode())
    broker = Broker(keys, Leasing(database, sources))
    desk = Listener(Desk(database=database, keys=keys, key=key).answer)
    async with asyncio.TaskGroup() as group:
        group.create_task(keys.run())
        group.create_task(Listener(broker.answer).serve(settings.broker_socket))
        group.create_task(desk.serve(settings.broker_desk))
        if sources:
            group.create_task(Returns(database, sources).run())
        if settings.listen_address() is not None:
            from sfp_server.remote.tls import serving  # 3 MB that an instance without other machines does without

            tls = serving(str(settings.secret_file("broker-tls.pem")))
            # with turns of its own: strangers who stall there hold nobody up here
            group.create_task(Listener(broker.answer).serve(settings.remote_broker_socket, tls=tls))
