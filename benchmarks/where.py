"""Where the CPU time of a task goes: milliseconds per task and service, from /proc, on a throw-away instance.

    .venv/bin/python benchmarks/where.py [--tasks 500] [--slots 1,2,1] [--rounds 2] [--paced]

Runs trivial tasks (`command ["true"]`) through the whole path, as many at once as there are slots, or `--paced` one by
one with pauses. What a dead process used counts for the part that reaped it, so every worker is in it. `the rest of
the machine` is the kernel's own work (clearing away namespaces, say) and whoever else uses the machine: run it alone.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import clients
import footprint
import measures
from instance import Instance


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time per service and task.")
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--slots", default="1,2,1", help="critical,normal,batch; all tasks run in normal")
    parser.add_argument("--rounds", type=int, default=2, help="the first one also warms up")
    parser.add_argument("--paced", action="store_true", help="one by one, with pauses, instead of all at once")
    parser.add_argument("--json", action="store_true", help="the last round as one object")
    wish = parser.parse_args()
    base = Path(tempfile.mkdtemp(prefix="sfp-where-"))
    instance = Instance(base)
    try:
        instance.set_slots(wish.slots)
        instance.start()
        instance.sign_in()
        measures.throughput(instance, 20)  # connections, prepared statements, caches: not part of the figures
        for number in range(wish.rounds):
            found = _round(instance, wish.tasks, paced=wish.paced)
            if not wish.json:
                print(f"\nround {number + 1}")
                print(_table(found))
        if wish.json:
            print(json.dumps(found, indent=1))
    finally:
        instance.stop()
        shutil.rmtree(base, ignore_errors=True)


def _round(instance: Instance, count: int, *, paced: bool) -> dict[str, float]:
    """Milliseconds of CPU per task and part; `wall` is of the clock."""
    root = instance.supervisor_pid
    before, all_before, own_before = Counter(footprint.spent(root)), footprint.machine(), _own()
    began = time.perf_counter()
    if paced:
        with clients.Socket(instance.api_url, instance.token, channel="tasks") as client:
            found = measures.latencies(client.run, count)
        print(
            f"p50 {measures.percentile(found, 0.5):.2f} ms, p99 {measures.percentile(found, 0.99):.2f} ms",
            file=sys.stderr,
        )
    else:
        measures.throughput(instance, count)
    wall = time.perf_counter() - began
    time.sleep(0.5)  # the last workers are reaped
    used = Counter(footprint.spent(root))
    used.subtract(before)
    used["this client"] = _own() - own_before
    rest = footprint.machine() - all_before - sum(used.values())
    ordered = dict(used.most_common()) | {"the rest of the machine": rest}
    return {"wall": wall / count * 1000} | {part: seconds / count * 1000 for part, seconds in ordered.items()}


def _own() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _table(found: dict[str, float]) -> str:
    total = sum(ms for part, ms in found.items() if part != "wall")
    lines = [
        f"{part:28} {ms:7.2f} ms {ms / total:5.0%}" for part, ms in found.items() if part != "wall" and ms >= 0.005
    ]
    head = f"{1000 / found['wall']:.0f} tasks/s, {found['wall']:.2f} ms of the clock per task; CPU per task:"
    return "\n".join([head, *lines, f"{'together':28} {total:7.2f} ms"])


if __name__ == "__main__":
    main()
