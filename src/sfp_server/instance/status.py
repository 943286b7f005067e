"""`status`: what runs and how well, without a token: from supervisord, the sockets and the dispatcher's own file.

The dispatcher writes `run/dispatcher.json` every few seconds (slots, active, pending, isolation, `at`); a
file older than `STALE` seconds means that it hangs or is away.
"""

import json
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sfp_server.instance import configuration, edge, place, postgres, supervisor
from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.supervisor import Process
from sfp_server.settings import Settings

QUEUES = ("critical", "normal", "batch")
#: seconds
STALE = 20.0
#: so many quick restarts (launch.py counts them) are called restarting
RESTARTING = 2


def status(at: Place, environ: Mapping[str, str]) -> dict[str, Any]:
    """The report of the CLI contract; `status` is running, partial, stopped, error or unknown."""
    settings = configuration.settings(at, environ)
    processes = supervisor.Supervisor(at).processes()
    dispatcher = _dispatcher(at)
    services = _services(at, settings, processes, dispatcher)
    return {
        "tenant": at.tenant,
        "status": _overall(at, services, processes),
        "url": settings.origin,
        "services": services,
        "queues": _queues(dispatcher),
        "dispatchers": dispatcher.get("dispatchers", []),
        "resources": _resources(at, processes),
        "isolation": dispatcher.get("isolation", {}),
        "runtime": dispatcher.get("runtime"),
        "lastHealthCheck": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
    }


def overview(base: Path, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """One line for each instance below `base`."""
    found: list[dict[str, Any]] = []
    for at in place.all_places(base):
        try:
            url = configuration.settings(at, environ).origin
            state = "running" if supervisor.Supervisor(at).is_alive() else "stopped"
        except InstanceError:
            url, state = "", "unknown"
        found.append({"tenant": at.tenant, "status": state, "url": url, "directory": str(at.directory)})
    return found


def _dispatcher(at: Place) -> dict[str, Any]:
    """The dispatcher's own words; empty when there are none or they are too old."""
    try:
        document = json.loads((at.run / "dispatcher.json").read_text())
        age = datetime.now(UTC) - datetime.fromisoformat(document["at"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return document if age.total_seconds() < STALE else {}


def _services(
    at: Place, settings: Settings, processes: list[Process], dispatcher: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    names = ["api", "dispatcher", "broker", "deliverer", "auditor"]
    names += ["postgres"] if settings.database_url is None else []
    names += ["cache"] if settings.cache_url is None else []
    names += ["caddy"] if settings.caddy else []
    names += ["courier"] if settings.dispatchers_listen else []
    services = {name: _service(at, settings, name, processes, dispatcher) for name in names}
    # whether external servers answer is the API's word: it is the one that uses them
    external = {"status": "external", "uptime": 0, "health": services["api"]["health"]}
    services |= {} if settings.database_url is None else {"postgres": external}
    services |= {} if settings.cache_url is None else {"cache": external}
    for queue, slots in settings.slots().items():
        services[f"{queue}-worker"] = {**services["dispatcher"], "instances": slots}
    return services


def _service(
    at: Place, settings: Settings, name: str, processes: list[Process], dispatcher: dict[str, Any]
) -> dict[str, Any]:
    mine = [process for process in processes if process.service == name]
    running = [process for process in mine if process.is_running]
    restarting = any(_quick_restarts(at, process.name) >= RESTARTING for process in mine)
    if not running:
        state = "stopped" if all(process.state == "STOPPED" for process in mine) else "error"
    else:
        state = "restarting" if restarting else "running"
    report: dict[str, Any] = {
        "status": state,
        "uptime": min((process.uptime for process in running), default=0),
        "health": _health(at, settings, name, dispatcher) if running else "unhealthy",
    }
    if len(mine) > 1:
        report["instances"] = len(running)
    return report


def _health(at: Place, settings: Settings, name: str, dispatcher: dict[str, Any]) -> str:
    """healthy, degraded or unhealthy, by asking the service itself where it can be asked."""
    match name:
        case "api":
            return edge.health(settings.api_port) or "unhealthy"
        case "dispatcher":
            return "healthy" if dispatcher else "unhealthy"
        case "postgres":
            return "healthy" if postgres.is_ready(at) else "unhealthy"
        case "cache":
            return _reachable(at.run / "valkey.sock")
        case "broker":
            return _reachable(settings.broker_socket)
        case "auditor":
            return _auditor(settings.auditor_socket)
        case "caddy":
            return "healthy" if edge.answers(at, settings) else "unhealthy"
        case _:
            return "unhealthy" if _quick_restarts(at, name) >= RESTARTING else "healthy"


def _reachable(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return "unhealthy"
    return "healthy"


def _auditor(path: Path) -> str:
    """degraded: entries of the audit trail wait for their seals for longer than a minute."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
            probe.sendall(b'{"state": {}}\n')
            answer = json.loads(probe.makefile().readline())
            return "degraded" if answer["answer"]["late"] else "healthy"
        except (OSError, ValueError, KeyError):
            return "unhealthy"


def _quick_restarts(at: Place, process: str) -> int:
    """How often launch.py saw this process come back within seconds; 0 once it has stayed up."""
    marker = at.run / "starts" / process
    try:
        recent = datetime.now(UTC).timestamp() - marker.stat().st_mtime < STALE
        return int(marker.read_text() or 0) if recent else 0
    except (OSError, ValueError):
        return 0


def _overall(at: Place, services: dict[str, dict[str, Any]], processes: list[Process]) -> str:
    if not processes:
        return "unknown" if supervisor.leftovers(at) else "stopped"
    states = [service["status"] for service in services.values() if service["status"] != "external"]
    health = [service["health"] for service in services.values() if service["status"] != "external"]
    if all(state == "running" for state in states) and all(value == "healthy" for value in health):
        return "running"
    return "partial" if any(state in {"running", "restarting"} for state in states) else "error"


def _queues(dispatcher: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        queue: {name: dispatcher.get(name, {}).get(queue, 0) for name in ("slots", "active", "pending")}
        for queue in QUEUES
    }


def _resources(at: Place, processes: list[Process]) -> dict[str, Any]:
    """Memory (bytes, each shared page counted once over its sharers), processor (of one core, since start), disk."""
    import psutil

    memory, cpu, count = 0, 0.0, 0
    for pid in _family(at, processes):
        try:
            process = psutil.Process(pid)
            memory += process.memory_full_info().pss
            cpu += sum(process.cpu_times()[:2])
            count += 1
        except psutil.Error:
            continue
    disk = psutil.disk_usage(str(at.directory))
    return {
        "memoryBytes": memory,
        "cpuSeconds": round(cpu, 1),
        "processes": count,
        "disk": {"freeBytes": disk.free, "totalBytes": disk.total},
    }


def _family(at: Place, processes: list[Process]) -> list[int]:
    """Every process of the instance: supervisord and all below it, workers included."""
    import psutil

    root = supervisor.supervisor_pid(at) if processes else None
    if root is None:
        return []
    try:
        return [root, *(child.pid for child in psutil.Process(root).children(recursive=True))]
    except psutil.Error:
        return []


def show(report: dict[str, Any]) -> None:
    """The same for a person; colours only on a terminal (rich looks)."""
    from rich.console import Console
    from rich.table import Table

    colour = {"running": "green", "healthy": "green", "stopped": "dim", "external": "cyan"}
    console = Console()
    console.print(f"{report['tenant']}: {_coloured(report['status'], colour)}  {report['url']}", highlight=False)
    table = Table("service", "status", "health", "up", "instances", box=None, pad_edge=False)
    for name, service in report["services"].items():
        words = [_coloured(service[key], colour) for key in ("status", "health")]
        table.add_row(name, *words, _duration(service["uptime"]), str(service.get("instances", "")))
    console.print(table)
    queues = Table("queue", "slots", "active", "pending", box=None, pad_edge=False)
    for name, queue in report["queues"].items():
        queues.add_row(name, *(str(queue[key]) for key in ("slots", "active", "pending")))
    console.print(queues)
    machines = Table("dispatcher", "host", "slots", "active", "runtimes", "toolchains", box=None, pad_edge=False)
    for machine in report["dispatchers"]:
        slots = "all" if machine["slots"] is None else str(machine["slots"])
        tools = ", ".join(f"{name} {version}" for name, version in machine["toolchains"].items())
        host = str(machine["host"]).partition(":")[0]
        machines.add_row(machine["name"], host, slots, str(machine["active"]), ", ".join(machine["runtimes"]), tools)
    if report["dispatchers"]:
        console.print(machines)
    for wall, how in report["isolation"].items():
        console.print(f"{wall}: {how}", highlight=False, markup=False)
    console.print(f"memory {report['resources']['memoryBytes'] / 2**20:.0f} MiB", highlight=False)


def _coloured(word: str, colours: dict[str, str]) -> str:
    return f"[{colours.get(word, 'red')}]{word}[/]"


def _duration(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
