"""Slots are changed while the instance runs, and stay changed."""

import pytest

from acceptance.conftest import Instance

pytestmark = pytest.mark.acceptance


def test_scale_changes_slots_at_once_and_for_good(instance: Instance):
    answer = instance.json("scale", "--normal-workers", "5")
    try:
        assert (answer["status"], answer["current"]["normal"]) == ("scaled", 5)
        assert answer["workers"] == sum(answer["current"].values())
        assert instance.config["workerCounts"].split(",")[1] == "5"
        with instance.client() as client:
            queues = {item["name"]: item["slots"] for item in client.queues.list()}
        assert queues["normal"] == 5
    finally:
        instance.json("scale", "--normal-workers", str(answer["previous"]["normal"]))


def test_scale_says_what_is_missing(instance: Instance):
    done = instance.run("scale")
    assert done.returncode == 2
    assert "--normal-workers" in done.stderr
    assert instance.run("scale", "--normal-workers", "11").returncode == 2
