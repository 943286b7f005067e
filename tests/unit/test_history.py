"""A checker that cannot fail is worthless: each rule is shown a history that breaks it, and one that does not."""

from dataclasses import replace
from typing import Any

import pytest

from history import RULES, Accepted, History, Run, violations


def task(ident: str = "a", status: str = "completed", **fields: Any) -> dict[str, Any]:
    return {"id": ident, "status": status, "attempt": 1, "series_id": None, "schedule_type": "immediate", **fields}


def event(ident: str, name: str, seq: int, channel: str | None = None) -> dict[str, Any]:
    return {"team": "t", "channel": channel or f"task:{ident}", "seq": seq, "event": name, "task": ident}


def attempt(ident: str, number: int, status: str = "completed") -> dict[str, Any]:
    return {"task": ident, "attempt": number, "status": status}


GOOD = History(
    accepted={"a": Accepted(id="a", key="k"), "b": Accepted(id="b", max_attempts=2, key="k")},
    tasks=[task("a"), task("b", "failed", attempt=2), task("c", series_id="s"), task("d", schedule_type="recurring", series_id="s")],
    attempts=[attempt("a", 1), attempt("b", 1, "lost"), attempt("b", 2, "failed"), attempt("b", 3, "preempted")],
    events=[
        event("a", "task.completed", 1),
        event("a", "task.completed", 1, "tasks"),
        event("b", "task.retrying", 1),
        event("b", "task.failed", 2),
        event("b", "task.failed", 2, "tasks"),
        event("c", "task.completed", 1),
        event("d", "task.completed", 1),
    ],
    channels={("t", "task:a"): 1, ("t", "task:b"): 2, ("t", "tasks"): 2},
    runs=[
        Run(task="a", attempt=1, began=1.0, ended=2.0),
        Run(task="b", attempt=1, began=2.0, ended=3.0),
        Run(task="b", attempt=2, began=3.0, ended=4.0),
        Run(task="c", attempt=1, began=1.0, ended=4.0),
    ],
    followed={"ann": [(1, "task.completed", "a"), (2, "task.failed", "b")]},
)  # fmt: skip

BAD: dict[str, History] = {
    "lost": replace(GOOD, tasks=GOOD.tasks[1:]),
    "doubled": replace(GOOD, tasks=[*GOOD.tasks, task("e")]),
    "stuck": replace(GOOD, tasks=[*GOOD.tasks[:2], task("c", "pending", series_id="s")]),
    "run_twice_at_once": replace(GOOD, runs=[*GOOD.runs, Run(task="a", attempt=2, began=1.5, ended=1.9)]),
    "attempt_run_twice": replace(GOOD, runs=[*GOOD.runs, Run(task="a", attempt=1, began=8.0, ended=9.0)]),
    "key_shared": replace(GOOD, runs=[*GOOD.runs, Run(task="b", attempt=3, began=1.9, ended=2.0)]),
    "finished_twice": replace(GOOD, events=[*GOOD.events, event("a", "task.failed", 2)]),
    "ended_in_silence": replace(GOOD, events=GOOD.events[2:]),
    "completed_unrun": replace(GOOD, runs=GOOD.runs[1:]),
    "tried_too_often": replace(GOOD, attempts=[*GOOD.attempts, attempt("a", 2)]),
    "attempt_open": replace(GOOD, attempts=[*GOOD.attempts, attempt("b", 4, "active")]),
    "attempts_overlap": replace(GOOD, attempts=[attempt("a", 1, "active"), attempt("a", 2, "active")]),
    "channel_with_hole": replace(GOOD, channels={**GOOD.channels, ("t", "task:a"): 2}),
    "followed_wrong": replace(GOOD, followed={"ann": [(1, "task.completed", "a"), (3, "task.failed", "b")]}),
    "end_unfollowed": replace(GOOD, followed={"ann": [(1, "task.completed", "a")]}),
    "leaked": replace(GOOD, left=[("the key k", "a")]),
    "remained": replace(GOOD, runs=[*GOOD.runs, Run(task="b", attempt=3, began=9.0)]),
}


def test_nothing_is_found_where_nothing_is_wrong():
    assert violations(GOOD) == {}


def test_every_rule_has_a_history_that_breaks_it():
    assert BAD.keys() == RULES.keys()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_finds_what_breaks_it(rule: str):
    assert list(RULES[rule](BAD[rule]))


def test_a_follower_that_saw_an_event_twice_is_found():
    twice = replace(GOOD, followed={"ann": [(1, "task.completed", "a"), (1, "task.completed", "a")]})
    assert list(RULES["followed_wrong"](twice))


def test_remains_of_the_machine_are_found():
    assert violations(replace(GOOD, remains=["process 7"])) == {"remained": ["process 7"]}
