"""The figures as one table for people, and as JSON for whoever compares two runs."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measures import percentile

#: the columns of peers, by the names of their scripts
PEERS = {"rq": "RQ", "celery": "Celery", "procrastinate": "Procrastinate", "dramatiq": "Dramatiq"}


@dataclass(slots=True)
class Report:
    """Rows in the order of their measuring; `values` is what goes to JSON."""

    rows: list[tuple[str, ...]] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def row(self, name: str, ours: str, *, aim: str = "", **peers: str) -> None:
        """`peers`: what each of them reached, by the name of its script."""
        self.rows.append((name, ours, *(peers.get(key, "") for key in PEERS), aim))

    def latency(self, key: str, name: str, samples: Sequence[Sequence[float]], aim: str = "") -> dict[str, float]:
        """A row of medians over rounds; p99 is taken over all samples together."""
        figures = summary(samples)
        self.values[key] = figures
        self.row(name, told(figures), aim=aim)
        return figures

    def text(self) -> str:
        head = ("measurement", "sfp server", *PEERS.values(), "aim")
        widths = [max(len(row[column]) for row in [head, *self.rows]) for column in range(len(head))]

        def line(row: Sequence[str]) -> str:
            return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

        ruler = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([line(head), ruler, *map(line, self.rows), "", *(f"* {note}" for note in self.notes)])

    def write(self, folder: Path, conditions: Mapping[str, str], *, name: str) -> Path:
        """`name`: `latest` for a whole run; parts have files of their own."""
        folder.mkdir(exist_ok=True)
        path = folder / f"{name}.json"
        document = {"conditions": conditions, "figures": self.values, "notes": self.notes}
        path.write_text(json.dumps(document, indent=1) + "\n")
        (folder / f"{name}.md").write_text(
            "\n".join(f"* {key}: {value}" for key, value in conditions.items()) + "\n\n" + self.text() + "\n"
        )
        return path


def summary(rounds: Sequence[Sequence[float]]) -> dict[str, float]:
    """p50: the median of the rounds' medians; p99: of all samples together. Milliseconds."""
    every = [sample for samples in rounds for sample in samples]
    return {
        "p50": statistics.median(statistics.median(samples) for samples in rounds),
        "p99": percentile(every, 0.99),
        "min": min(every),
        "n": len(every),
    }


def told(figures: Mapping[str, float]) -> str:
    return f"p50 {figures['p50']:.1f} ms, p99 {figures['p99']:.1f} ms, n {figures['n']:.0f}"
