"""Pace: bursts pass at once, a stream goes in rounds."""

import pytest

from sfp_server.pace import Pace


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_burst_passes_at_once_and_what_follows_waits_its_turn():
    pace = Pace(at_once=3, per_second=10, clock=Clock())
    assert [pace.wait() for _ in range(3)] == [0, 0, 0]
    assert pace.wait() == pytest.approx(0.1)


def test_turns_come_back_as_time_passes_but_no_more_than_at_once():
    clock = Clock()
    pace = Pace(at_once=2, per_second=10, clock=clock)
    for _ in range(2):
        pace.wait()
    clock.now = 0.1
    assert pace.wait() == 0
    clock.now = 60
    assert [pace.wait() for _ in range(3)] == pytest.approx([0, 0, 0.1])


def test_who_waits_as_told_keeps_the_rate():
    clock = Clock()
    pace = Pace(at_once=1, per_second=100, clock=clock)
    for _ in range(51):
        clock.now += pace.wait()
    assert clock.now == pytest.approx(0.5)
