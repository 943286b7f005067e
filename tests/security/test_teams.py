"""What belongs to another team does not exist: every route that names a thing answers 404, and no list shows it."""

import asyncio
from uuid import uuid4

import pytest

from web_api import API

TASK = {"type": "command", "data": {"argv": ["true"]}}
LATER = {**TASK, "scheduleType": "scheduled", "scheduledFor": "2999-01-01T00:00:00Z"}

#: method and path of each route that names a task or artifact
NAMED = [
    ("GET", "/tasks/{task}"),
    ("GET", "/tasks/{task}/status"),
    ("GET", "/tasks/{task}/result"),
    ("GET", "/tasks/{task}/result?wait=5"),
    ("GET", "/tasks/{task}/explain"),
    ("GET", "/tasks/{task}/events"),
    ("GET", "/tasks/{task}/artifacts"),
    ("GET", "/tasks/{task}/artifacts/a/b"),
    ("GET", "/tasks/{task}/leases"),
    ("GET", "/tasks/{task}/recurring-instances"),
    ("POST", "/tasks/{task}/retry"),
    ("POST", "/tasks/{task}/stop-recurring"),
    ("DELETE", "/tasks/{task}"),
    ("GET", "/logs/{task}"),
    ("DELETE", "/logs/{task}"),
    ("GET", "/events?channel=task:{task}"),
    ("GET", "/artifacts/{artifact}"),
    ("DELETE", "/artifacts/{artifact}"),
]


@pytest.fixture
async def teams(api):
    """Two owners, and what the first one's team has."""
    ann, bob = await api.owner(), await api.owner("bob@beta.example", "beta")
    async with api.client(ann) as client:
        task = (await client.post(f"{API}/tasks", json=LATER)).json()["operationId"]
        artifact = (await client.post(f"{API}/artifacts", content=b"bytes")).json()["id"]
        assert (await client.put(f"{API}/secrets/TOKEN", json={"value": "value"})).status_code == 200
    return ann, bob, {"task": task, "artifact": artifact}


async def test_every_route_that_names_a_task_or_artifact_is_tried(api):
    async with api.client() as client:
        paths = (await client.get("/sfp/apidocs-json")).json()["paths"]
    named = {path for path in paths if "{task_id}" in path or "{artifact_id}" in path}
    tried = {path.partition("?")[0].partition("/a/b")[0] for _, path in NAMED}
    tried.add("/tasks/{task}/receipt")  # needs the auditor: tests/integration/test_audit_routes.py
    for path in named:
        plain = path.removeprefix(API).replace("{task_id}", "{task}").replace("{artifact_id}", "{artifact}")
        assert plain.removesuffix("/{path}") in tried, path


@pytest.mark.parametrize(("method", "path"), NAMED)
async def test_another_teams_thing_is_as_if_it_were_not_there(api, teams, method, path):
    _, bob, ids = teams
    absent = {"task": str(uuid4()), "artifact": str(uuid4())}
    async with api.client(bob) as client:
        foreign = await client.request(method, API + path.format(**ids))
        missing = await client.request(method, API + path.format(**absent))
    assert (foreign.status_code, missing.status_code) == (404, 404)
    text = [answer.json()["detail"] for answer in (foreign, missing)]
    for given in (ids, absent):
        text = [line.replace(given["task"], "ID").replace(given["artifact"], "ID") for line in text]
    assert text[0] == text[1]


async def test_no_list_shows_another_teams_things(api, teams):
    _, bob, _ = teams
    async with api.client(bob) as client:
        for path in ("/tasks", "/secrets", "/application-tokens", "/events?channel=tasks"):
            assert (await client.get(API + path)).json()["items"] == [], path
        queues = (await client.get(f"{API}/queues")).json()["items"]
    assert [item["pending"] for item in queues] == [0, 0, 0]


async def test_another_teams_secret_and_artifact_cannot_be_used(api, teams):
    _, bob, ids = teams
    secret = {**TASK, "credentials": [{"type": "secret", "name": "TOKEN", "env": "T"}]}
    artifact = {"type": "command", "data": {"argv": ["true"], "workspace": {"artifact": ids["artifact"]}}}
    async with api.client(bob) as client:
        for body in (secret, artifact):
            assert (await client.post(f"{API}/tasks", json=body)).status_code == 422


async def test_a_member_acts_within_its_role(api, teams):
    ann, _, ids = teams
    member = await api.member()
    async with api.client(member) as client:
        own = (await client.post(f"{API}/tasks", json=LATER)).json()["operationId"]
        assert (await client.get(f"{API}/tasks/{ids['task']}")).status_code == 200
        assert (await client.delete(f"{API}/tasks/{ids['task']}")).status_code == 403
        assert (await client.delete(f"{API}/tasks/{own}")).json()["status"] == "cancelled"
        assert (await client.put(f"{API}/secrets/X", json={"value": "value"})).status_code == 403
        assert (await client.patch(f"{API}/queues/normal", json={"slots": 9})).status_code == 403
    async with api.client(ann) as client:
        other = (await client.post(f"{API}/tasks/{own}/retry")).json()["operationId"]
        assert (await client.patch(f"{API}/queues/normal", json={"slots": 3})).json()["slots"] == 3
    async with api.client(member) as client:
        assert (await client.delete(f"{API}/tasks/{other}")).status_code == 403


async def test_who_waits_for_a_result_is_told_when_it_is_there(api, teams):
    ann, _, ids = teams
    async with api.client(ann) as client:
        early = await client.get(f"{API}/tasks/{ids['task']}/result", params={"wait": 0.2})
        assert (early.status_code, early.json()["code"]) == (409, "not_finished")
        waiting = client.get(f"{API}/tasks/{ids['task']}/result", params={"wait": 20})
        ended = client.delete(f"{API}/tasks/{ids['task']}")
        answer, _ = await asyncio.gather(waiting, ended)
    assert answer.json()["status"] == "cancelled"
