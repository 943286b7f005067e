"""Memory and CPU time of a tree of processes, as the kernel counts them."""

import os
import re
import time
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")
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
        return {"serve": "api", "dispatch": "dispatcher", "deliver": "deliverer"}.get(kind[1], kind[1])
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


def _threads(pid: int) -> list[Path]:
    try:
        return [PROC / str(pid) / "task" / number / "schedstat" for number in os.listdir(PROC / str(pid) / "task")]
    except OSError:
        return []
