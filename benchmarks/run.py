"""`make bench`: the figures of docs/performance.md, on an instance that lives only for the measurement.

    make bench                                everything, in less than ten minutes
    make bench ARGS="--only queue,stored"     some parts: idle, latency, throughput, rates, queue, stored
    make bench ARGS=--quick                   few samples: does it work?

Our rounds and the peers' take turns, so that whatever else the machine does hits all. All load goes to this machine's
loopback. A whole run writes benchmarks/results/latest.*, parts write files of their own name.
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

import asyncpg
import uvloop

import clients
import footprint
import measures
import queue_alone
import rates
import store
import stored
from instance import Instance
from report import PEERS, Report, summary, told
from sfp_server.settings import Settings

HERE = Path(__file__).parent
sys.path.append(str(HERE / "peers"))

from celery_peer import CeleryPeer  # noqa: E402 (a script's folder, not a package)
from dramatiq_peer import DramatiqPeer  # noqa: E402
from peer import Measured, Processes  # noqa: E402
from procrastinate_peer import ProcrastinatePeer  # noqa: E402
from rq_peer import RqPeer  # noqa: E402

PARTS = ("idle", "latency", "throughput", "rates", "queue", "stored")
#: seconds after the beginning of a part after which it begins no further round
BUDGET = 110.0
#: seconds in which an idle instance is watched
WATCH = 10.0
#: slots of the queue `normal`, in which all tasks run, with what the peers get as workers
SLOTS = {"1,2,1": 2, "1,4,1": 4}
#: tasks of a throughput measurement of a peer that is slow by design
FEW = {"celery": 60}


class Bench:
    def __init__(self, base: Path, *, quick: bool, parts: tuple[str, ...]) -> None:
        self._base = base
        self._parts = parts
        self._report = Report()
        self._began = time.monotonic()
        self._quick = quick
        self._rounds, self._count, self._tasks = (1, 12, 60) if quick else (3, 34, 500)
        self._starts: list[float] = []

    def run(self, load_before: float) -> None:
        """The parts; prints the table and writes it to benchmarks/results/."""
        conditions = {"load": f"load average {load_before:.1f} when it began (0: nobody else)"}
        if set(self._parts) & {"idle", "latency", "throughput", "rates"}:
            conditions |= self._with_instance()
        if "queue" in self._parts:
            self._queue()
        if "stored" in self._parts:
            self._stored()
        print(f"\n{self._report.text()}")
        name = "quick" if self._quick else "latest" if self._parts == PARTS else "-".join(self._parts)
        print(f"\nwritten: {self._report.write(HERE / 'results', conditions, name=name)}")

    def _with_instance(self) -> dict[str, str]:
        base = self._base / "instance"
        base.mkdir()
        instance = self._instance = Instance(base)
        self._starts.append(instance.start())
        try:
            instance.sign_in()
            conditions = measures.conditions(instance)
            for part in ("idle", "latency", "throughput", "rates"):
                if part in self._parts:
                    self._began = time.monotonic()
                    getattr(self, f"_{part}")()
        finally:
            instance.stop()
        self._report.values["start"] = self._starts
        each = ", ".join(f"{seconds:.1f}" for seconds in self._starts)
        self._report.row("start to healthy", f"{statistics.median(self._starts):.1f} s ({each})", aim="< 6 s")
        return conditions

    # -------------------------------------------------------------------------------------------- idle

    def _idle(self) -> None:
        say("memory and CPU of the idle instance")
        time.sleep(3)  # what starting left to do is done
        root = self._instance.supervisor_pid
        used = footprint.idle_cpu(root, WATCH)
        memory = footprint.memory(root)
        busy = measures.busy(self._instance, 2)
        self._report.values["idle"] = {"memory_mib": memory, "cpu_percent": used, "busy_slot_mib": busy}
        total = sum(memory.values())
        self._report.row("memory of the idle stack (PSS)", f"{total:.0f} MiB", aim="< 350 MB")
        self._report.row("memory per busy slot, besides (PSS)", f"{busy:.1f} MiB")
        self._report.row("CPU of the idle stack, of one core", f"{sum(used.values()):.1f} %", aim="near zero")
        parts = sorted(memory, key=lambda part: -memory[part])
        listed = ", ".join(f"{part} {memory[part]:.0f} MiB {used.get(part, 0):.2f} %" for part in parts)
        self._report.notes.append(f"idle, memory and CPU: {listed}")

    # ----------------------------------------------------------------------------------------- latency

    def _peers(self, stack: ExitStack, workers: int) -> dict[str, Measured]:
        """All peers, each with `workers` workers, until the stack ends."""
        server = Settings.load(self._instance.directory, {}).role_url("postgres")
        made: dict[str, Processes] = {
            "rq": RqPeer(self._base / f"rq-{workers}", workers),
            "celery": CeleryPeer(self._base / f"ce-{workers}", workers),
            "procrastinate": ProcrastinatePeer(self._base / f"pr-{workers}", workers, server),
            "dramatiq": DramatiqPeer(self._base / f"dr-{workers}", workers),
        }
        return {key: stack.enter_context(peer) for key, peer in made.items()}

    def _latency(self) -> None:
        tls = ssl.create_default_context(cafile=str(self._instance.ca_file))
        api, edge, token = self._instance.api_url, self._instance.url, self._instance.token
        with ExitStack() as stack:
            peers = self._peers(stack, 1)
            followed = stack.enter_context(clients.Socket(api, token, channel="tasks"))
            waited = stack.enter_context(clients.Waited(api, token))
            secure = stack.enter_context(clients.Socket(edge, token, tls, channel="tasks"))
            each = stack.enter_context(clients.Socket(api, token, channel=None))
            stream = stack.enter_context(clients.Stream(api, token))
            polling = stack.enter_context(clients.Polling(api, token))
            sdk = clients.Sdk(stack.enter_context(self._instance.client()))
            half, few = self._count // 2, max(5, self._count // 4)
            ways = {
                **{key: (peer.run, few if key in FEW else self._count) for key, peer in peers.items()},
                "websocket": (followed.run, self._count),
                "http_wait": (waited.run, self._count),
                "websocket_https": (secure.run, half),
                "websocket_each": (each.run, half),
                "sse": (stream.run, half),
                "polling": (polling.run, half),
                "sdk": (sdk.run, few),
                "cold": (lambda: followed.run(measures.COLD), few),
            }
            samples: dict[str, list[list[float]]] = defaultdict(list)
            for _ in self._take_rounds("latency", self._rounds):
                samples["bare"].append(measures.bare(20))
                for key, (run, count) in ways.items():
                    samples[key].append(measures.latencies(run, count))
                samples["first_line"].append(measures.first_lines(self._instance, few))
                medians = (f"{key} {statistics.median(found[-1]):.1f}" for key, found in samples.items())
                say(f"  median ms: {', '.join(medians)}")
        self._tell(samples)

    def _tell(self, samples: dict[str, list[list[float]]]) -> None:
        report = self._report
        peers = {key: summary(samples[key]) for key in PEERS}
        report.values["peers"] = peers
        words = {key: told(figures) for key, figures in peers.items()}
        figures = report.values["websocket"] = summary(samples["websocket"])
        report.row("submit → result, WebSocket", told(figures), aim="p50 below all peers", **words)
        report.latency("http_wait", "  POST, then GET result?wait=20", samples["http_wait"])
        report.latency("websocket_https", "  WebSocket through the edge, HTTPS", samples["websocket_https"])
        report.latency("websocket_each", "  WebSocket, subscribing to each task", samples["websocket_each"])
        report.latency("sse", "  server-sent events", samples["sse"])
        report.latency("polling", f"  polling every {clients.POLL_SECONDS * 1000:.0f} ms", samples["polling"])
        report.latency("sdk", "  SDK submit + wait, HTTPS", samples["sdk"])
        report.latency("cold", "  WebSocket, worker built on demand", samples["cold"])
        report.latency("first_line", "first log line, written → at the client", samples["first_line"], "< 100 ms")
        report.latency("bare", "for scale: start `true` and reap it", samples["bare"])

    # -------------------------------------------------------------------------------------- throughput

    def _throughput(self) -> None:
        for slots, workers in SLOTS.items():
            self._instance.stop()
            self._instance.set_slots(slots)
            self._starts.append(self._instance.start())
            ours: list[float] = []
            theirs: dict[str, list[float]] = defaultdict(list)
            with ExitStack() as stack:
                peers = self._peers(stack, workers)
                measures.throughput(self._instance, 20)
                for _ in self._take_rounds(f"throughput with slots {slots}", min(2, self._rounds)):
                    ours.append(measures.throughput(self._instance, self._tasks))
                    for key, peer in peers.items():
                        theirs[key].append(peer.throughput(min(FEW.get(key, self._tasks), self._tasks)))
                    each = ", ".join(f"{key} {rates[-1]:.0f}" for key, rates in theirs.items())
                    say(f"  tasks per second: {ours[-1]:.0f}, {each}")
            self._report.values[f"throughput_{workers}"] = {"ours": ours, **theirs}
            self._report.row(
                f"{self._tasks} tasks, {workers} at a time (slots {slots})",
                f"{statistics.median(ours):.0f} tasks/s",
                aim="above all peers",
                **{key: f"{statistics.median(rates):.0f}/s" for key, rates in theirs.items()},
            )

    # ------------------------------------------------------------------------------- rates, queue, stored

    def _rates(self) -> None:
        """Last on the instance: what is handed in waits, and goes with it."""
        uvloop.run(_pause(self._instance))
        found: dict[str, list[float]] = defaultdict(list)
        for _ in self._take_rounds("submit rate", self._rounds):
            for number in (1, 4):
                found[f"clients_{number}"].append(rates.single(self._instance, number, 100 if self._quick else 400))
            found["bulk"].append(rates.bulk(self._instance, 1 if self._quick else 3))
        self._report.values["submit_rate"] = found
        for key, name in {"clients_1": "1 client", "clients_4": "4 clients", "bulk": "1,000 at once"}.items():
            self._report.row(f"submit rate, {name}", f"{statistics.median(found[key]):.0f} tasks/s")

    def _queue(self) -> None:
        say("the queue alone")
        base = self._base / "queue"
        base.mkdir()
        with store.database(base) as settings:
            count, times = (300, 1) if self._quick else (2000, 3)
            found = uvloop.run(queue_alone.measure(settings, hands=[1, 8], count=count, rounds=times))
        self._report.values["queue_alone"] = found
        for hands, each in found.items():
            text = f"{each['ours']:.0f}/s, {each['share']:.0%} of the bare loop's {each['bare']:.0f}/s"
            self._report.row(f"claim + finish alone, {hands} in hand", text, aim="≥ 60 %")

    def _stored(self) -> None:
        say("the cost of a task by how many are stored")
        sizes, pending = ([1000, 20_000], 2000) if self._quick else ([1000, 100_000, 1_000_000], 100_000)
        found = stored.run(
            sizes=sizes, pending=pending, count=20 if self._quick else 40, rounds=1 if self._quick else 3
        )
        self._report.values["stored"] = found
        for step in stored.STEPS:
            each = " · ".join(f"{steps[step]:.2f}" for steps in found.values())
            self._report.row(f"{step}, ms with {' · '.join(found)} stored", each, aim="flat within 20 %")

    def _take_rounds(self, what: str, most: int) -> Iterator[int]:
        """The numbers of the rounds; fewer, and said so, when the part's time is nearly used up."""
        for number in range(most):
            if number and time.monotonic() - self._began > BUDGET:
                self._report.notes.append(f"{what}: {number} of {most} rounds, the time was up")
                return
            say(f"{what}, round {number + 1} of {most}")
            yield number


async def _pause(instance: Instance) -> None:
    admin = await asyncpg.connect(Settings.load(instance.directory, {}).role_url("postgres"))
    await admin.execute("UPDATE sfp.queues SET paused = true")
    await admin.close()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure an instance beside RQ, Celery, Procrastinate and Dramatiq.")
    parser.add_argument("--quick", action="store_true", help="few samples: does it work?")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, with commas between: {', '.join(PARTS)}")
    wish = parser.parse_args()
    parts = tuple(part for part in PARTS if part in wish.only.split(","))
    if len(parts) != len(wish.only.split(",")):
        parser.error(f"the parts are {', '.join(PARTS)}")
    load = os.getloadavg()[0]
    base = Path(tempfile.mkdtemp(prefix="sfp-bench-"))
    try:
        Bench(base, quick=wish.quick, parts=parts).run(load)
    finally:
        shutil.rmtree(base, ignore_errors=True)


if __name__ == "__main__":
    main()
