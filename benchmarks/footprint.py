"""Memory and CPU time of a tree of processes, as the kernel counts them."""

import os
import re
import time
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")
#: of CPU time in /proc, per second
TICKS = os.sysconf("SC_CLK_TCK")
KIND = re.compile(r"sfp_server\.cli (\w+)")


def tree(root: int) -> list[int]:
    """`root` and everything below it."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children[parent].append(int(entry.name))
    found, open_ = [], [root]
    while open_:
        pid = open_.pop()
        found.append(pid)
        open_ += children[pid]
    return found


def name(pid: int) -> str:
    """Which part of the instance a process is."""
    try:
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return "gone"
    if kind := KIND.search(command):
        return {"serve": "api", "dispatch": "dispatcher", "deliver": "deliverer", "audit": "auditor"}.get(
            kind[1], kind[1]
        )
    for part in ("postgres", "valkey", "caddy", "supervisord", "guard.py"):
        if part in command:
            return {"guard.py": "guard", "valkey": "cache"}.get(part, part)
    return "warm workers"


def memory(root: int) -> dict[str, float]:
    """MiB of proportional set size per part: shared pages are counted once, shared out among their users."""
    parts: dict[str, float] = defaultdict(float)
    for pid in tree(root):
        try:
            text = (PROC / str(pid) / "smaps_rollup").read_text()
        except OSError:
            continue
        if match := re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE):
            parts[name(pid)] += int(match[1]) / 1024
    return dict(parts)


def cpu(root: int) -> dict[str, float]:
    """CPU seconds used until now, per part."""
    parts: dict[str, float] = defaultdict(float)
    for pid in tree(root):
        for thread in _threads(pid):
            try:
                parts[name(pid)] += int(thread.read_text().split()[0]) / 1e9
            except (OSError, IndexError):
                continue
    return dict(parts)


def idle_cpu(root: int, seconds: float) -> dict[str, float]:
    """Percent of one core that each part uses when nobody asks for anything."""
    before = cpu(root)
    began = time.perf_counter()
    time.sleep(seconds)
    after, span = cpu(root), time.perf_counter() - began
    return {part: max(0.0, used - before.get(part, 0.0)) / span * 100 for part, used in after.items()}


def spent(root: int) -> dict[str, float]:
    """CPU seconds used until now, per part, by what has ended meanwhile too: what a process reaped counts for its part.

    PostgreSQL is told apart by whom its processes serve, and what the dispatcher reaped are workers.
    """
    parts: dict[str, float] = defaultdict(float)
    for pid in tree(root):
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        own, reaped = (sum(int(field) for field in fields[at : at + 2]) / TICKS for at in (11, 13))
        part = name(pid)
        parts["workers" if part == "warm workers" else _served(pid) if part == "postgres" else part] += own
        parts["workers" if part in {"dispatcher", "warm workers"} else part] += reaped
    return dict(parts)


def machine() -> float:
    """CPU seconds that the whole machine has been busy until now, the kernel's own work included."""
    user, nice, system, _idle, _wait, irq, softirq = map(
        int, (PROC / "stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICKS


def _served(pid: int) -> str:
    """Which of PostgreSQL's processes this is, by its title: `postgres: sfp_api sfp [local] idle`."""
    try:
        title = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return "postgres"
    if role := re.match(r"postgres: sfp_(\w+)", title):
        return f"postgres for {role[1]}"
    if kind := re.match(r"postgres: ([\w ]+?)\s*$", title):
        return f"postgres {kind[1]}"
    return "postgres"


def _threads(pid: int) -> list[Path]:
    try:
        return [PROC / str(pid) / "task" / number / "schedstat" for number in os.listdir(PROC / str(pid) / "task")]
    except OSError:
        return []
