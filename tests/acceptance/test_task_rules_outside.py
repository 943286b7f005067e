"""Rules of the engine as a client meets them: places of mistakes, races of cancelling, series, links."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from acceptance.conftest import eventually

NIGHTLY = {"cron": "0 2 * * 1-5", "timezone": "Europe/Berlin"}


def body(**fields):
    return {"type": "command", "data": {"argv": ["true"]}, **fields}


def series(**config):
    return body(scheduleType="recurring", recurrenceConfig=config)


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (series(cron="0 2 * *"), "recurrenceConfig.cron"),
        (series(cron="0 0 2 * * 1-5"), "recurrenceConfig.cron"),
        (series(cron="61 * * * *"), "recurrenceConfig.cron"),
        (series(cron="0 0 30 2 *"), "recurrenceConfig.cron"),
        (series(**{**NIGHTLY, "timezone": "Mars/Base"}), "recurrenceConfig.timezone"),
        (series(**NIGHTLY, intervalSeconds=5), "recurrenceConfig.intervalSeconds"),
        (series(timezone="UTC"), "recurrenceConfig.cron"),
        (series(**NIGHTLY, startAt="0001-01-01T00:00:00+14:00"), "recurrenceConfig.startAt"),
        (series(**NIGHTLY, startAt="9999-12-31T23:59:59Z"), "recurrenceConfig.startAt"),
        (series(**NIGHTLY, startAt="2030-01-02T00:00:00Z", endAt="2030-01-01T00:00:00Z"), "recurrenceConfig.endAt"),
        (body(scheduleType="recurring"), "recurrenceConfig"),
        (body(recurrenceConfig=NIGHTLY), "recurrenceConfig"),
        (body(scheduleType="scheduled"), "scheduledFor"),
        (body(scheduledFor="2030-01-01T00:00:00Z"), "scheduledFor"),
        (body(scheduleType="scheduled", scheduledFor="9999-12-31T23:59:59-12:00"), "scheduledFor"),
    ],
)
def test_a_wrong_schedule_is_a_400_that_says_where(raw, task, path):
    one = raw.post("/tasks", json=task)
    many = raw.post("/tasks/bulk", json={"tasks": [body(), task]})
    assert (one.status_code, [error["path"] for error in one.json()["errors"]]) == (400, [path])
    assert (many.status_code, [error["path"] for error in many.json()["errors"]]) == (400, [f"tasks[1].{path}"])


def test_a_cancel_and_an_end_decide_between_them(raw, jobs):
    """200 means cancelled, 409 means that it had ended: never both, never neither."""

    def race(_):
        operation_id = raw.post("/tasks", json=body(data={"argv": ["sleep", "0.05"]})).json()["operationId"]
        eventually(lambda: raw.get(f"/tasks/{operation_id}/status").json()["status"] != "pending", 60)
        raw.get(f"/tasks/{operation_id}/result", params={"wait": random.uniform(0.01, 0.1)})
        answer = raw.delete(f"/tasks/{operation_id}")
        return answer.status_code, jobs.wait(operation_id).status

    with ThreadPoolExecutor(4) as pool:
        seen = set(pool.map(race, range(40)))
    assert seen <= {(200, "cancelled"), (409, "completed")}


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_a_workspace_that_never_comes_can_be_ended(raw, jobs, outside, end):
    outside.asked_for_silence.clear()
    workspace = {"git": {"url": f"{outside.url}/silence/x.git"}}
    limit = {"timeoutSeconds": 2} if end == "timeout" else {}
    task = raw.post("/tasks", json=body(data={"argv": ["true"], "workspace": workspace}, **limit)).json()["operationId"]
    assert outside.asked_for_silence.wait(20)
    if end == "cancel":
        assert raw.delete(f"/tasks/{task}").json()["status"] == "active"
    ended = jobs.wait(task)
    assert (ended.status, ended.code) == (("cancelled", "cancelled") if end == "cancel" else ("failed", "timeout"))


def test_a_series_from_its_preview_to_its_end(raw: httpx.Client, jobs):
    runs = raw.post("/tasks/preview-recurrence", json=NIGHTLY, params={"count": 3}).json()["nextRuns"]
    assert len(runs) == 3
    made = raw.post("/tasks", json=series(intervalSeconds=1, overlap="queue", maxRuns=3)).json()["operationId"]
    eventually(lambda: raw.get(f"/tasks/{made}/status").json()["status"] == "completed", 60)
    found = raw.get(f"/tasks/{made}/recurring-instances", params={"limit": 2}).json()
    rest = raw.get(f"/tasks/{made}/recurring-instances", params={"cursor": found["nextCursor"]}).json()
    ids = [item["operationId"] for item in [*found["items"], *rest["items"]]]
    assert (len(ids), rest["nextCursor"]) == (3, None)
    assert [jobs.wait(task).status for task in ids] == ["completed"] * 3
    assert raw.get(f"/tasks/{made}/result").json()["operationId"] == ids[0]
    again = [raw.post(f"/tasks/{made}/{verb}") for verb in ("stop-recurring", "retry")]
    assert [(answer.status_code, answer.json()["code"]) for answer in again] == [
        (409, "already_final"),
        (409, "conflict"),
    ]


def test_attempts_and_repetitions_are_told_apart(raw, jobs):
    retry = {"maxAttempts": 2, "backoff": "fixed", "delaySeconds": 0, "jitter": False}
    script = ["sh", "-c", "echo attempt $SFP_ATTEMPT; exit 3"]
    old = raw.post("/tasks", json=body(data={"argv": script}, retryConfig=retry, labels={"pr": "12"})).json()[
        "operationId"
    ]
    assert jobs.wait(old).code == "exit_code"
    attempts = raw.get(f"/tasks/{old}").json()["attempts"]
    assert [(one["attempt"], one["status"], one["exitCode"]) for one in attempts] == [
        (1, "failed", 3),
        (2, "failed", 3),
    ]
    assert [one["worker"] for one in attempts] == [f"{old}/1", f"{old}/2"]
    for one in attempts:
        entries = raw.get(f"/logs/{old}", params={"attempt": one["attempt"]}).json()["entries"]
        assert [entry["message"] for entry in entries] == [f"attempt {one['attempt']}"]
        assert all(one["firstSeq"] < entry["seq"] <= one["lastSeq"] for entry in entries)
    new = raw.post(f"/tasks/{old}/retry").json()["operationId"]
    assert raw.get(f"/tasks/{new}").json()["retryOf"] == old
    assert raw.get(f"/tasks/{old}").json()["retriedAs"] == [new]
    assert json.loads(raw.get(f"/tasks/{new}").text)["labels"] == {"pr": "12"}
