"""Choose the runtime of this machine: the sandbox where one can be built, else plain processes, and say why."""

from pathlib import Path

import structlog

from sfp_server.addresses import parse_allow
from sfp_server.runtimes.base import Limits, Runtime, RuntimeUnavailable
from sfp_server.runtimes.broker import BrokerDoor
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.image import nameservers
from sfp_server.runtimes.sandbox import SandboxRuntime
from sfp_server.runtimes.toolchains import of_machine
from sfp_server.settings import Settings

log = structlog.get_logger()


def policy(settings: Settings) -> EgressPolicy:
    """Where workers with `egress` may connect, beyond the public internet."""
    return EgressPolicy(allow=parse_allow(settings.egress_allow.split(",")), nameservers=frozenset(nameservers()))


async def detect(settings: Settings, limits: Limits, broker: BrokerDoor | None = None) -> Runtime:
    """An open runtime.

    Args:
        broker: how workers reach the broker; None: the instance's own socket.

    Raises RuntimeUnavailable when `worker.runtime` asks for one that does not work here.
    """
    if settings.worker_runtime == "process":
        return await _process(settings, limits, broker)
    if settings.worker_runtime == "container":
        runtime = container(settings, limits, broker)
        await runtime.open()
        return runtime
    try:
        return await _sandbox(settings, limits, broker)
    except RuntimeUnavailable as error:
        if settings.worker_runtime == "sandbox":
            raise
        log.warning("no sandbox on this machine: workers are plain processes", why=str(error))
        return await _process(settings, limits, broker)


def container(settings: Settings, limits: Limits, broker: BrokerDoor | None = None) -> Runtime:
    """The container runtime of `worker.container.*`, not open yet; the engine must be set."""
    from sfp_server.runtimes.container import ContainerRuntime, Supply

    supply = Supply(
        engine=settings.container_engine or "",
        image=settings.container_image,
        images=settings.images(),
        pull=settings.container_pull,
        python=settings.container_python,
        mounts=settings.mounts(),
    )
    return ContainerRuntime(
        broker or settings.broker_socket,
        policy(settings),
        settings.container_warm,
        scratch=settings.run_directory / "workers",
        supply=supply,
        defaults=limits,
    )


async def _sandbox(settings: Settings, limits: Limits, broker: BrokerDoor | None) -> Runtime:
    runtime = SandboxRuntime(
        broker or settings.broker_socket,
        policy(settings),
        settings.worker_warm,
        scratch=settings.run_directory / "workers",
        defaults=limits,
        extra_ca_file=Path(settings.extra_ca_file) if settings.extra_ca_file else None,
        toolchains=of_machine(settings),
    )
    await runtime.open()
    try:
        await runtime.probe()
    except BaseException:
        await runtime.close()
        raise
    return runtime


async def _process(settings: Settings, limits: Limits, broker: BrokerDoor | None) -> Runtime:
    from sfp_server.runtimes.process import ProcessRuntime

    runtime = ProcessRuntime(
        broker or settings.broker_socket,
        policy(settings),
        settings.worker_warm,
        scratch=settings.directory / "workers",
        defaults=limits,
        toolchains=of_machine(settings),
    )
    await runtime.open()
    return runtime
