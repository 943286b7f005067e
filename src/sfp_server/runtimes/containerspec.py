"""How an engine is told to make a worker's container, as pure functions.

One container per worker: nothing of it can be written but sized tmpfs, it has no capability, no network
but what the gate lets through, ceilings for memory and processes, and a user that exists nowhere else.
The image brings the programs; the supervisor is process 1 whatever the image would have started.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfp_server.runtimes import bwrap, job, seccomp
from sfp_server.runtimes.base import Limits
from sfp_server.runtimes.cgroups import SUPERVISOR_MB, SUPERVISOR_PROCESSES

#: Where a worker finds its directory, the supervisor's code and its control socket. No image has these:
#: an OCI runtime gives a tmpfs the permissions of a directory that is there already.
ROOT, CODE_AT, CONTROL_AT = "/sfp-workspace", "/sfp-code", "/sfp-control"
SOCKET = "socket"
#: what programs expect to be able to write besides their own directory; each has a small tmpfs
SCRATCH = (bwrap.TMP, bwrap.VAR_TMP)
SCRATCH_BYTES = 64 * 1024 * 1024
RUN_BYTES = 1024 * 1024

INSTANCE, DISPATCHER, OPERATION, ATTEMPT = "sfp.instance", "sfp.dispatcher", "sfp.operation", "sfp.attempt"

ENTRY = f"import sys; sys.path.insert(0, '{CODE_AT}'); from sfp_worker.supervisor import entry; entry()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What is the same for all containers of a runtime."""

    #: directory with the supervisor's code, on this machine
    code: Path
    #: files of its /etc that engines would fill with what this machine knows
    etc: Sequence[Path] = ()
    #: directories of this machine that every container sees, read-only, at the same place
    mounts: Sequence[Path] = ()
    #: the interpreter, as the image knows it
    python: str = "python3"
    has_memory_limit: bool = True
    has_process_limit: bool = True
    #: hard limit of open files that the engine may set
    open_files: int = job.OPEN_FILES


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What is one container's own."""

    image: str
    #: directories that the image wants to be volumes
    volumes: Sequence[str] = ()
    #: directory with the control socket, on this machine
    control: Path
    user: int
    limits: Limits
    #: instance, dispatcher, operation and attempt
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    #: a seccomp profile in place of the engine's own
    profile: str | None = None


def spec(ground: Ground, container: Container) -> dict[str, Any]:
    """The body of `POST /containers/create`."""
    return {
        "Image": container.image,
        "Entrypoint": [ground.python],
        "Cmd": ["-I", "-S", "-X", "utf8", "-c", ENTRY, "container", f"{CONTROL_AT}/{SOCKET}"],
        "User": f"{container.user}:{container.user}",
        "Hostname": bwrap.HOSTNAME,
        "WorkingDir": "/",
        "Env": [],
        "Labels": dict(container.labels),
        "Healthcheck": {"Test": ["NONE"]},  # an image's own would be a second program in there
        "HostConfig": _host_config(ground, container),
    }


def _host_config(ground: Ground, container: Container) -> dict[str, Any]:
    limits = container.limits
    processes = limits.processes + SUPERVISOR_PROCESSES
    memory = (limits.memory_mb + SUPERVISOR_MB) << 20
    bounded: dict[str, Any] = {}
    if ground.has_memory_limit:
        bounded |= {"Memory": memory, "MemorySwap": memory}
    if ground.has_process_limit:
        bounded["PidsLimit"] = processes
    profile = [] if container.profile is None else [f"seccomp={container.profile}"]
    return {
        **bounded,
        "ReadonlyRootfs": True,
        "Tmpfs": _tmpfs(container),
        "Mounts": _mounts(ground, container),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", *profile],
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "ShmSize": bwrap.SHM_BYTES,
        "Ulimits": [
            {"Name": name, "Soft": value, "Hard": value}
            for name, value in (("nofile", ground.open_files), ("core", 0), ("nproc", processes))
        ],
        "LogConfig": {"Type": "none"},  # what a task prints goes through the redactor only
        "Init": False,
        "Privileged": False,
        # The exit status and the word about memory are asked for after the end: we remove it then, and
        # what a crash leaves, `open` finds by its labels.
        "AutoRemove": False,
        "RestartPolicy": {"Name": "no"},
    }


def _tmpfs(container: Container) -> dict[str, str]:
    small = f"rw,exec,nosuid,nodev,size={SCRATCH_BYTES},mode=1777"
    return {
        **{str(path): small for path in (*container.volumes, *SCRATCH)},
        "/run": f"rw,noexec,nosuid,nodev,size={RUN_BYTES},mode=1777",
        ROOT: f"rw,exec,nosuid,nodev,size={container.limits.disk_mb << 20},mode=1777",
    }


def _mounts(ground: Ground, container: Container) -> list[dict[str, Any]]:
    places = {
        **{str(path): path for path in ground.mounts},
        CODE_AT: ground.code,
        CONTROL_AT: container.control,
        **{f"/etc/{path.name}": path for path in ground.etc},
    }
    return [
        {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": True} for target, source in places.items()
    ]


def gate_profile() -> str:
    """A seccomp profile for engines whose own keeps the gate from taking a copy of a caller's socket.

    Docker's profile lets `pidfd_getfd` through to privileged containers only. This one refuses the calls
    that no worker may make; what depends on a call's arguments is refused by the filter that the
    supervisor loads before the program starts, as everywhere.
    """
    refused = {"names": list(seccomp.DENIED), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    unknown = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    return json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused, unknown]})
