"""The dispatcher process on another machine than the instance's: it has a database URL, an address and a token.

What the instance asks of it (leases, ceilings, its slots) the courier says. It keeps nothing but a work directory, and
ends its workers as soon as it knows, or must assume, that they count no more: when it was removed, and when it has not
reached the database for as long as their leases last.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import structlog

from sfp_server.db.database import Database
from sfp_server.kinds import KINDS
from sfp_server.processes.dispatch import STOP_SECONDS, limits_of, only_one, opened, then
from sfp_server.processes.leash import leash
from sfp_server.processes.signals import stop_signal
from sfp_server.remote import client, tls
from sfp_server.remote.client import Address, CourierClient
from sfp_server.remote.delivery import RemoteDelivery
from sfp_server.remote.token import Token
from sfp_server.remote.wire import Facts
from sfp_server.runtimes.base import Limits
from sfp_server.runtimes.broker import RemoteBroker
from sfp_server.runtimes.toolchains import of_machine, versions
from sfp_server.settings import Settings, SettingsError
from sfp_server.tasks.artifacts import ArtifactStore
from sfp_server.tasks.attempt import Engine
from sfp_server.tasks.dispatcher import Dispatcher
from sfp_server.tasks.model import Machine

log = structlog.get_logger()

#: seconds between two tries to reach the instance at the beginning, and between two questions whether we still count
_TRY_SECONDS, _ASK_SECONDS = 1.0, 5.0
#: seconds beyond the running tasks' own after which a dispatcher that cannot say goodbye leaves without
_FAREWELL_SECONDS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """With whom this dispatcher works."""

    database_url: str = field(repr=False)
    address: Address
    token: Token


async def run(settings: Settings, contract: Contract) -> None:
    """Work until SIGTERM. Raises SettingsError when the instance does not want us (any more)."""
    stopping = stop_signal()
    (settings.directory / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    with await only_one(settings.run_directory / "dispatcher.lock"):
        courier = CourierClient(contract.address, contract.token)
        facts = await _met(courier, stopping)
        if facts is not None:
            log.info("accepted", name=facts.name, slots=facts.slots, instance=facts.version)
            async with leash(facts.lease_seconds):  # while nothing is open but the lock, which the child gives up
                await _work(settings, contract, courier, facts, stopping)


async def _met(courier: CourierClient, stopping: asyncio.Event) -> Facts | None:
    """What the instance asks; it may be away at first. None: we were stopped meanwhile. Raises SettingsError."""
    told = False
    while not stopping.is_set():
        try:
            await courier.meet()
            return await courier.enter()
        except (client.NotOurs, client.Refused) as error:
            raise SettingsError(str(error)) from error
        except client.Unreachable as error:
            if not told:
                log.warning("waiting for the instance", why=str(error))
                told = True
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _TRY_SECONDS)
    return None


async def _work(
    settings: Settings, contract: Contract, courier: CourierClient, facts: Facts, stopping: asyncio.Event
) -> None:
    spool = ArtifactStore(settings.directory / "spool")
    delivery = RemoteDelivery(courier, spool)
    delivery.remove_leftovers()
    limits = _limits(settings, facts)
    door = RemoteBroker(
        host=contract.address.host, port=contract.address.port, ca=courier.ca, prove=contract.token.prove
    )
    database = Database(
        contract.database_url,
        application="sfp dispatcher",
        size=6,
        schema="sfp_remote",
        access=access(contract, courier.ca),
    )
    async with database, opened(settings, limits, door) as runtimes:
        dispatcher = Dispatcher(
            Engine(
                database=database,
                runtimes=runtimes,
                default_runtime=next(iter(runtimes)),
                kinds=KINDS,
                store=spool,
                limits=limits,
                grace_seconds=facts.grace_seconds,
                delivery=delivery,
            ),
            lease_seconds=facts.lease_seconds,
            state_file=None,
            place=str(settings.directory),
            team_limit=facts.team_active_max,
            preemptions_at_most=facts.preemptions_max,
            machine=Machine(slots=settings.dispatcher_slots, toolchains=versions(of_machine(settings)), remote=True),
        )
        await _until_over(dispatcher, courier, stopping)


async def _until_over(dispatcher: Dispatcher, courier: CourierClient, stopping: asyncio.Event) -> None:
    """Until we are stopped and have drained, or the instance has removed us. Raises SettingsError for the latter."""
    running = asyncio.create_task(dispatcher.run(stop_seconds=STOP_SECONDS))
    removed = asyncio.create_task(_removed(courier))
    stopper = asyncio.create_task(then(stopping, dispatcher.stop))
    leaving = asyncio.create_task(_patience(stopping))
    try:
        await asyncio.wait({running, removed, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if removed.done():
            why = removed.result()
            log.warning("the instance has removed this dispatcher: its workers end", why=why)
            dispatcher.end_all()
            raise SettingsError(why)
        if running.done():
            await running
    finally:
        for task in (running, removed, stopper, leaving):
            task.cancel()
        await asyncio.gather(running, removed, stopper, leaving, return_exceptions=True)


async def _patience(stopping: asyncio.Event) -> None:
    await stopping.wait()
    await asyncio.sleep(STOP_SECONDS + _FAREWELL_SECONDS)


async def _removed(courier: CourierClient) -> str:
    """Return, with the reason, once the courier does not know us any more."""
    while True:
        await asyncio.sleep(_ASK_SECONDS)
        try:
            await courier.enter()
        except client.Refused as error:
            return str(error)
        except client.Unreachable:
            continue  # the leases say how long we may go on without


def _limits(settings: Settings, facts: Facts) -> Limits:
    """The instance's ceilings; what this machine's own environment says may be lower, never higher."""
    own, asked = limits_of(settings), facts.limits
    values: dict[str, Any] = {}
    for name in Limits.__dataclass_fields__:
        pair = [value for value in (getattr(own, name), asked.get(name)) if value is not None]
        values[name] = min(pair, default=None)
    return replace(own, **values)


def access(contract: Contract, ca: str) -> Mapping[str, Any]:
    """What a database connection needs beside the URL: what the URL says itself counts.

    Without `sslmode` the connection is TLS with a certificate of the instance's own authority, or none.
    """
    parts = urlsplit(contract.database_url)
    found: dict[str, Any] = {}
    if parts.password is None:
        found["password"] = contract.token.password()
    if "sslmode" not in parse_qs(parts.query):
        found["ssl"] = tls.trusting(ca, check_name=False)
    return found


def agreed(environ: Mapping[str, str], *, token_file: Path | None, directory: Path | None) -> tuple[Settings, Contract]:
    """What was asked for, by environment and files. Raises SettingsError."""
    url, broker = environ.get("SFP_DISPATCH_DATABASE_URL"), environ.get("SFP_BROKER")
    if not url or not broker:
        raise SettingsError(
            "on the instance's machine name its --directory; on another one --database-url, --broker and --token-file, "
            "as `sfp-server dispatcher add` printed them"
        )
    try:
        address = Address.parse(broker)
        token = Token.parse(_token(environ, token_file))
    except ValueError as error:
        raise SettingsError(str(error)) from error
    place = directory or _work_directory(environ, address)
    known = {name: value for name, value in environ.items() if name not in {"DATABASE_URL", "VALKEY_URL"}}
    return Settings.load(place.absolute(), known), Contract(database_url=url, address=address, token=token)


def _token(environ: Mapping[str, str], file: Path | None) -> str:
    if file is None:
        text = environ.get("SFP_DISPATCHER_TOKEN")
        if not text:
            raise SettingsError("the token is missing: name its file with --token-file, or set SFP_DISPATCHER_TOKEN")
        return text
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"the token file {file} cannot be read") from error


def _work_directory(environ: Mapping[str, str], address: Address) -> Path:
    """One for each instance that this user works for: the lock in it keeps a second dispatcher out."""
    state = environ.get("XDG_STATE_HOME")
    base = Path(state) if state else Path(environ.get("HOME") or "/var/lib") / ".local" / "state"
    return base / "sfp-dispatcher" / f"{address.host}-{address.port}"
