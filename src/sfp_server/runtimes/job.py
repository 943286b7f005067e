"""From a workload to the job message: what one worker is told."""

import base64
import contextlib
import os
import resource
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from sfp_server.addresses import resolve, split_entry
from sfp_server.runtimes.base import Archive, Files, Git, Limits, Network, RuntimeUnavailable, Workload
from sfp_server.runtimes.broker import BrokerDoor, RemoteBroker, connect
from sfp_server.runtimes.egress import Closed, EgressPolicy, OnlyTo, Policies, Policy

_MEGABYTE = 1024 * 1024
#: open files of one process of a worker
OPEN_FILES = 4096
_PORTS = {"http": 80, "https": 443, "git": 9418}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """A toolchain as the worker sees it: what goes in front of its PATH, and its environment."""

    path: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a runtime runs its workers, as the supervisor must know it."""

    #: the worker's private directory, as the worker sees it
    root: str
    #: whether it has a network namespace, and a tmpfs of the size of its disk limit
    own_network: bool
    sized_disk: bool
    #: whether the kernel counts memory and processes for the worker
    has_memory_limit: bool
    has_process_limit: bool
    #: BPF programs to load before the program starts (by network) and before git, where bubblewrap does not
    filters: Mapping[Network, bytes] = field(default_factory=dict[Network, bytes])
    #: ask about connects even for a program without network
    always_gated: bool = False
    tools: Tools = field(default_factory=Tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """A job message, the descriptors that go with it, and whom the worker may then reach."""

    message: dict[str, Any]
    descriptors: tuple[int, ...]
    policies: Policies = field(default_factory=Policies)

    def close(self) -> None:
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)


async def brief(
    workload: Workload, ticket: str | None, terms: Terms, *, broker: BrokerDoor | None, egress: EgressPolicy
) -> Brief:
    """Everything for one attempt.

    Raises:
        RuntimeUnavailable: the broker cannot be reached, or the input artifact is not there.
    """
    policies, found = await _policies(workload, egress)
    descriptors: dict[str, int] = {}
    try:
        if ticket is not None:
            descriptors["broker"] = await connect(broker)
        if isinstance(workload.workspace, Archive):
            descriptors["archive"] = _open_archive(workload.workspace)
        message = _message(workload, ticket, terms, resolved=found)
    except BaseException:
        for descriptor in descriptors.values():
            os.close(descriptor)
        raise
    message["descriptors"] = list(descriptors)
    if ticket is not None and isinstance(broker, RemoteBroker):
        message["broker"] = broker.introduction(ticket)
    return Brief(message=message, descriptors=tuple(descriptors.values()), policies=policies)


def _message(workload: Workload, ticket: str | None, terms: Terms, *, resolved: Sequence[str]) -> dict[str, Any]:
    limits = workload.limits
    return {
        "t": "job",
        "operation_id": workload.operation_id,
        "attempt": workload.attempt,
        "argv": list(workload.argv),
        "path": list(terms.tools.path),
        "env": {**terms.tools.env, **workload.env},
        "stdin": workload.stdin,
        "workdir": workload.workdir,
        "workspace": _workspace(workload, resolved),
        "artifacts": list(workload.artifacts),
        "limits": {
            "memory_mb": limits.memory_mb,
            "disk_mb": limits.disk_mb,
            "output_bytes": limits.output_bytes,
            "artifact_bytes": limits.artifact_bytes,
        },
        "grace_seconds": workload.grace_seconds,
        "ticket": ticket,
        "broker": None,
        "root": terms.root,
        "own_network": terms.own_network,
        "sized_disk": terms.sized_disk,
        "has_memory_counter": terms.has_memory_limit,
        "filters": _texts(terms, workload.network),
        "clone_filters": _texts(terms, Network.EGRESS),
        "gated": workload.network is Network.EGRESS or terms.always_gated,
        "rlimits": rlimits(limits, terms),
    }


def _texts(terms: Terms, network: Network) -> list[str]:
    program = terms.filters.get(network)
    return [] if program is None else [base64.b64encode(program).decode()]


def rlimits(limits: Limits, terms: Terms) -> list[list[int]]:
    """[resource, value] for the program. Address space is limited only where nobody counts memory."""
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: min(OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        resource.RLIMIT_FSIZE: limits.disk_mb * _MEGABYTE,
    }
    if limits.cpu_seconds is not None:
        values[resource.RLIMIT_CPU] = limits.cpu_seconds
    if not terms.has_memory_limit:
        values[resource.RLIMIT_AS] = limits.memory_mb * _MEGABYTE
    if not terms.has_process_limit:
        values[resource.RLIMIT_NPROC] = limits.processes
    return [[number, value] for number, value in values.items()]


def _workspace(workload: Workload, resolved: Sequence[str]) -> Mapping[str, Any] | None:
    match workload.workspace:
        case None:
            return None
        case Files(files=files):
            return {"kind": "files", "files": dict(files)}
        case Archive(name=name):
            return {"kind": "archive", "name": name}
        case Git(url=url, ref=ref, depth=depth):
            return {"kind": "git", "url": url, "ref": ref, "depth": depth, "resolve": list(resolved)}


async def _policies(workload: Workload, egress: EgressPolicy) -> tuple[Policies, Sequence[str]]:
    program: Policy = egress if workload.network is Network.EGRESS else Closed()
    if not isinstance(workload.workspace, Git):
        return Policies(program=program), ()
    try:
        parts = urlsplit(workload.workspace.url)
        host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return Policies(program=program), ()  # the worker says that the address is none
    found = await resolve(host, port)
    clone = OnlyTo(base=egress, addresses=found, port=port, names=parts.scheme == "git")
    return Policies(program=program, clone=clone), _curl_entries(host, port, found)


def _curl_entries(host: str, port: int, addresses: frozenset[str]) -> Sequence[str]:
    """For git's `http.curloptResolve`: the name, as we looked it up."""
    if not addresses or host in addresses or split_entry(host)[1] is not None or ":" in host:
        return ()
    listed = ",".join(f"[{address}]" if ":" in address else address for address in sorted(addresses))
    return (f"{host}:{port}:{listed}",)


def _open_archive(archive: Archive) -> int:
    try:
        return os.open(archive.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise RuntimeUnavailable("the input artifact is not there") from error
