"""How workers are made. Start at `base.py` (the seam), then `sandbox.py` (the default runtime).

base         the seam: workload in, exit out            supervised   what both runtimes share
sandbox      bubblewrap (bwrap, image, seccomp)          process      without namespaces
warm         pristine workers in waiting                 worker       one worker, from pristine to used up
job          workload → message                          conversation message → exit; reports parses
egress       who may be reached, and the dialling        cgroups, launch, folders, channel: the kernel's part
"""

from dataclasses import dataclass
from pathlib import Path

from sfp_server.runtimes.base import RuntimeUnavailable
from sfp_server.runtimes.egress import EgressPolicy
from sfp_server.runtimes.process import ProcessRuntime
from sfp_server.runtimes.sandbox import SandboxRuntime


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """An open runtime, and why it is this one."""

    runtime: SandboxRuntime | ProcessRuntime
    reason: str


async def detect(
    *,
    broker_socket: Path | None,
    egress: EgressPolicy,
    scratch: Path,
    warm: int = 2,
    extra_ca_file: Path | None = None,
    wanted: str | None = None,
) -> Detected:
    """Open the best runtime that works here: `wanted`, or the sandbox, or else the process runtime.

    Whether a sandbox works is not guessed: one is started.

    Raises:
        RuntimeUnavailable: the wanted one, or none at all, works here.
        ValueError: `wanted` is no runtime's name.
    """
    if wanted not in {None, "sandbox", "process"}:
        raise ValueError(f"no such runtime: {wanted}")
    reason = "asked for"
    if wanted != "process":
        sandbox = SandboxRuntime(broker_socket, egress, warm, scratch=scratch, extra_ca_file=extra_ca_file)
        try:
            await sandbox.open()
            await sandbox.probe()
        except RuntimeUnavailable as error:
            await sandbox.close()
            if wanted == "sandbox":
                raise
            reason = f"no sandbox: {error}"
        else:
            return Detected(runtime=sandbox, reason="a sandbox was started and works")
    process = ProcessRuntime(broker_socket, egress, warm, scratch=scratch, extra_ca_file=extra_ca_file)
    await process.open()
    return Detected(runtime=process, reason=reason)
