"""`make bench`: the figures of docs/performance.md, on an instance that lives only for the measurement.

Ours and the peer's rounds take turns, so that whatever else the machine does hits both. All load goes to this
machine's loopback. Ends by itself in a few minutes; `--quick` takes fewer samples to see that it works.
"""

import argparse
import os
import shutil
import ssl
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import clients
import footprint
import measures
from instance import Instance
from report import Report, summary, told

HERE = Path(__file__).parent
sys.path.append(str(HERE / "peers"))

from rq_peer import RqPeer  # noqa: E402 (a script's folder, not a package)

#: seconds after which no further round is begun
BUDGET = 200.0
#: seconds in which an idle instance is watched
WATCH = 10.0
#: slots of the queue `normal`, in which all tasks run, with what RQ gets as many workers
SLOTS = {"1,2,1": 2, "1,4,1": 4}


class Bench:
    def __init__(self, base: Path, *, quick: bool) -> None:
        self._base = base
        self._report = Report()
        self._began = time.monotonic()
        self._rounds, self._count, self._tasks = (1, 12, 60) if quick else (3, 34, 500)
        self._instance = Instance(base)

    def run(self, load_before: float) -> None:
        """Everything; prints the table and writes it to benchmarks/results/."""
        instance = self._instance
        try:
            starts = [instance.start()]
            instance.sign_in()
            self._idle()
            conditions = measures.conditions(instance)
            conditions["load"] = f"load average {load_before:.1f} when it began (0: nobody else)"
            self._latency()
            self._throughput(starts)
        finally:
            instance.stop()
        self._report.values["start"] = starts
        each = ", ".join(f"{seconds:.1f}" for seconds in starts)
        self._report.row("start to healthy", f"{statistics.median(starts):.1f} s ({each})", "", "< 6 s")
        print(f"\n{self._report.text()}")
        print(f"\nwritten: {self._report.write(HERE / 'results', conditions)}")

    # -------------------------------------------------------------------------------------------- idle

    def _idle(self) -> None:
        say("memory and CPU of the idle instance")
        time.sleep(3)  # what starting left to do is done
        root = self._instance.supervisor_pid
        used = footprint.idle_cpu(root, WATCH)
        memory = footprint.memory(root)
        self._report.values["idle"] = {"memory_mib": memory, "cpu_percent": used}
        total = sum(memory.values())
        self._report.row("memory of the idle stack (PSS)", f"{total:.0f} MiB", "", "< 350 MB")
        self._report.row("CPU of the idle stack, of one core", f"{sum(used.values()):.1f} %", "", "near zero")
        parts = sorted(memory, key=lambda part: -memory[part])
        listed = ", ".join(f"{part} {memory[part]:.0f} MiB {used.get(part, 0):.2f} %" for part in parts)
        self._report.notes.append(f"idle, memory and CPU: {listed}")

    # ----------------------------------------------------------------------------------------- latency

    def _latency(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._instance.ca_file))
        api, edge, token = self._instance.api_url, self._instance.url, self._instance.token
        with ExitStack() as stack:
            followed = stack.enter_context(clients.Socket(api, token, channel="tasks"))
            secure = stack.enter_context(clients.Socket(edge, token, tls, channel="tasks"))
            each = stack.enter_context(clients.Socket(api, token, channel=None))
            stream = stack.enter_context(clients.Stream(api, token))
            polling = stack.enter_context(clients.Polling(api, token))
            sdk = clients.Sdk(stack.enter_context(self._instance.client()))
            peer = stack.enter_context(RqPeer(self._base / "rq-latency", 1))
            half, few = self._count // 2, max(5, self._count // 4)
            ways = {
                "peer": (peer.run, self._count),
                "websocket": (followed.run, self._count),
                "websocket_https": (secure.run, self._count),
                "websocket_each": (each.run, half),
                "sse": (stream.run, self._count),
                "polling": (polling.run, half),
                "sdk": (sdk.run, few),
                "cold": (lambda: followed.run(measures.COLD), few),
            }
            samples: dict[str, list[list[float]]] = defaultdict(list)
            for run, _ in ways.values():
                run()  # connections, prepared statements, imports: not part of any figure
            for _ in self._take_rounds("latency", self._rounds):
                samples["bare"].append(measures.bare(20))
                for key, (run, count) in ways.items():
                    samples[key].append(measures.latencies(run, count))
                samples["first_line"].append(measures.first_lines(self._instance, few))
                medians = (f"{key} {statistics.median(found[-1]):.1f}" for key, found in samples.items())
                say(f"  median ms: {', '.join(medians)}")
        self._tell(samples)

    def _tell(self, samples: dict[str, list[list[float]]]) -> None:
        report, peer = self._report, summary(samples["peer"])
        report.values["rq"] = peer
        figures = report.values["websocket"] = summary(samples["websocket"])
        report.row("submit → result, WebSocket", told(figures), told(peer), "p50 below RQ")
        report.latency("websocket_https", "  the same through the edge, HTTPS", samples["websocket_https"])
        report.latency("websocket_each", "  WebSocket, subscribing to each task", samples["websocket_each"])
        report.latency("sse", "  server-sent events", samples["sse"])
        report.latency("polling", f"  polling every {clients.POLL_SECONDS * 1000:.0f} ms", samples["polling"])
        report.latency("sdk", "  SDK submit + wait, HTTPS", samples["sdk"])
        report.latency("cold", "  WebSocket, worker built on demand", samples["cold"])
        report.latency("first_line", "first log line, written → at the client", samples["first_line"], "< 100 ms")
        report.latency("bare", "for scale: start `true` and reap it", samples["bare"])

    # -------------------------------------------------------------------------------------- throughput

    def _throughput(self, starts: list[float]) -> None:
        for slots, workers in SLOTS.items():
            self._instance.stop()
            self._instance.set_slots(slots)
            starts.append(self._instance.start())
            ours: list[float] = []
            theirs: list[float] = []
            with RqPeer(self._base / f"rq-{workers}", workers) as peer:
                peer.run()
                for _ in self._take_rounds(f"throughput with slots {slots}", min(2, self._rounds)):
                    ours.append(measures.throughput(self._instance, self._tasks))
                    theirs.append(peer.throughput(self._tasks))
                    say(f"  tasks per second: {ours[-1]:.0f}, RQ {theirs[-1]:.0f}")
            self._report.values[f"throughput_{workers}"] = {"ours": ours, "rq": theirs}
            self._report.row(
                f"{self._tasks} tasks, {workers} at a time (slots {slots})",
                f"{statistics.median(ours):.0f} tasks/s",
                f"{statistics.median(theirs):.0f} jobs/s",
            )

    def _take_rounds(self, what: str, most: int) -> Iterator[int]:
        """The numbers of the rounds; fewer, and said so, when the time is nearly used up."""
        for number in range(most):
            if number and time.monotonic() - self._began > BUDGET:
                self._report.notes.append(f"{what}: {number} of {most} rounds, the time was up")
                return
            say(f"{what}, round {number + 1} of {most}")
            yield number


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an instance beside RQ.")
    parser.add_argument("--quick", action="store_true", help="few samples: does it work?")
    quick = parser.parse_args().quick
    load = os.getloadavg()[0]
    base = Path(tempfile.mkdtemp(prefix="sfp-bench-"))
    try:
        bench = Bench(base, quick=quick)
        bench.run(load)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
