"""`make soak`: random work, random faults, and a checker over all that happened.

    python tests/soak.py [--minutes 10] [--seed N] [--in-flight 300] [--pause 2 12] [--only NAME …]

The seed decides the order of tasks and of faults. Exit status: 0 nothing was found, 1 something was, and it is printed.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

from acceptance.conftest import Instance
from breakage import FAKETIME, FAULTS, full_disk, give_clock, set_clock
from history import violations
from load import Load, ends, unexpected
from sfp_client.errors import ClientError
from stage import own_disk, running, tokens

#: what a clock may jump by, seconds
JUMPS = (3600, -3600, 86400, -86400)
#: seconds that a disk stays full, and a clock wrong
BAD_SECONDS = 4.0
CLOCKED = ("api", "dispatcher", "broker", "deliverer")


class Soak:
    def __init__(self, instance: Instance, load: Load, disk: Path | None, seed: int) -> None:
        self._instance = instance
        self._load = load
        self._disk = disk
        self._random = random.Random(seed)
        self.recoveries: dict[str, list[float]] = defaultdict(list)
        self.slow: list[str] = []

    def names(self) -> list[str]:
        names = list(FAULTS)
        if self._disk is not None:
            names.append("full-disk")
        if FAKETIME is not None:
            names += [f"clock-{name}" for name in CLOCKED]
        return names

    def strike(self, name: str) -> None:
        """Strike, and measure how long a new task takes to get through."""
        print(f"{time.strftime('%H:%M:%S')} {name}", end="", flush=True)
        limit = 15.0
        if name == "full-disk":
            assert self._disk is not None
            with full_disk(self._disk):
                time.sleep(BAD_SECONDS)
            began = time.monotonic()
        elif name.startswith("clock-"):
            set_clock(self._instance, name.removeprefix("clock-"), self._random.choice(JUMPS))
            began = time.monotonic()
        else:
            fault = FAULTS[name]
            fault.strike(self._instance)
            began, limit = time.monotonic(), fault.recovery
        try:
            self._load.canary(60)
        except ClientError as error:
            self.slow.append(f"{name}: no task got through within 60 s ({error})")
        seconds = time.monotonic() - began
        print(f"  {seconds:.1f} s", flush=True)
        self.recoveries[name].append(seconds)
        if seconds > limit:
            self.slow.append(f"{name}: {seconds:.1f} s, promised are {limit:.0f} s")
        if name.startswith("clock-"):
            time.sleep(BAD_SECONDS)
            set_clock(self._instance, name.removeprefix("clock-"), 0)


def main() -> int:
    asked = _arguments()
    print(f"seed {asked.seed}, {asked.minutes:g} minutes")
    with tempfile.TemporaryDirectory(prefix="sfp-soak-", ignore_cleanup_errors=True) as top:
        base = Path(top) / "disk"
        with own_disk(base) as is_mounted, running(base) as instance:
            return _soak(instance, base if is_mounted else None, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--in-flight", type=int, default=300)
    parser.add_argument("--pause", type=float, nargs=2, default=(1, 8), help="seconds between two faults")
    parser.add_argument("--only", nargs="*", help="these faults alone")
    return parser.parse_args()


def _soak(instance: Instance, disk: Path | None, asked: argparse.Namespace) -> int:
    names = tokens(instance)
    if FAKETIME is not None and not asked.only:
        for service in CLOCKED:
            give_clock(instance, service)
    load = Load(instance, asked.seed, names)
    soak = Soak(instance, load, disk, asked.seed)
    faults = random.Random(asked.seed)
    until = time.monotonic() + asked.minutes * 60
    try:
        with load.run(asked.in_flight):
            load.canary(60)
            while time.monotonic() < until:
                time.sleep(faults.uniform(*asked.pause))
                soak.strike(faults.choice(asked.only or soak.names()))
        began = time.monotonic()
        load.settle(180)
        print(f"all ended {time.monotonic() - began:.0f} s after the last fault")
        return _report(load, soak)
    finally:
        load.close()


def _report(load: Load, soak: Soak) -> int:
    history = load.history()
    print(f"\n{'fault':26}{'times':>6}{'median s':>10}{'worst s':>9}")
    for name, seconds in sorted(soak.recoveries.items()):
        print(f"{name:26}{len(seconds):6}{median(seconds):10.1f}{max(seconds):9.1f}")
    print(f"\ntasks {len(history.tasks)}, attempts {len(history.attempts)}, events {len(history.events)}, ", end="")
    print(f"runs seen {len(history.runs)}, refused and tried again {dict(load.refused)}")
    by_status: dict[str, int] = defaultdict(int)
    for (sort, status, code), count in sorted(ends(history).items()):
        by_status[f"{sort} {status} {code}".strip()] += count
    print(", ".join(f"{words}: {count}" for words, count in by_status.items()))
    found = {
        **violations(history),
        **{k: v for k, v in {"slow": soak.slow, "failed": unexpected(history)}.items() if v},
    }
    for rule, words in found.items():
        print(f"\nFOUND {rule}: {len(words)}", *words[:10], sep="\n  ")
    print(
        "\nnothing was lost, run twice, finished twice, stuck or left" if not found else f"\n{len(found)} rules broken"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
