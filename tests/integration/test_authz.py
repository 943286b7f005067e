"""`POST /authz/check`: its answers are those of the routes themselves."""

import pytest

from web_api import API

CHECK = f"{API}/authz/check"
TASK = {
    "type": "command",
    "data": {"argv": ["true"]},
    "scheduleType": "scheduled",
    "scheduledFor": "2999-01-01T00:00:00Z",
}


async def ask(api, asks, /, **question):
    async with api.client(asks) as client:
        answer = await client.post(CHECK, json=question)
    return answer.json() if answer.status_code == 200 else answer.status_code


@pytest.mark.parametrize(
    ("operation", "member", "owner", "application"),
    [
        ("GET /tasks", True, True, True),
        ("POST /sfp/api/tasks", True, True, True),
        ("GET /secrets", False, True, False),
        ("POST /auth/admin/login", True, True, True),
        ("PATCH /queues/{name}", False, True, False),
        ("GET /users/me", True, True, False),
    ],
)
async def test_it_answers_as_the_guard_does(api, operation, member, owner, application):
    tokens = [await api.owner(), await api.member()]
    tokens.append((await api.application_token(tokens[0]))["token"])
    answers = [await ask(api, token, operation=operation) for token in tokens]
    assert [answer["allowed"] for answer in answers] == [owner, member, application]
    assert all(answer["rule"] == "public" or answer["rule"].startswith("scope:") for answer in answers)


async def test_somebody_elses_task_needs_more_and_another_teams_does_not_exist(api):
    ann, max_, eve = await api.owner(), await api.member(), await api.owner("eve@other.example", "other")
    async with api.client(ann) as client:
        task = (await client.post(f"{API}/tasks", json=TASK)).json()["operationId"]
    question = {"operation": "DELETE /tasks/{task_id}", "resource": f"task:{task}"}
    answers = {name: await ask(api, token, **question) for name, token in (("ann", ann), ("max", max_), ("eve", eve))}
    assert [answer["allowed"] for answer in answers.values()] == [True, False, False]
    assert answers["max"]["rule"] == "scope:tasks:cancel-any"
    assert answers["eve"]["rule"] == "team:other"
    for token, status in ((eve, 404), (max_, 403), (ann, 200)):
        async with api.client(token) as client:
            assert (await client.delete(f"{API}/tasks/{task}")).status_code == status


async def test_owners_ask_about_others_of_their_team_and_nobody_else_does(api):
    ann, max_, eve = await api.owner(), await api.member(), await api.owner("eve@other.example", "other")
    made = await api.application_token(ann, scopes=["tasks:read"])
    for actor, allowed in (
        ("max@acme.example", False),
        (f"application:{made['id']}", False),
        ("ann@acme.example", True),
    ):
        assert (await ask(api, ann, scope="queues:write", actor=actor))["allowed"] == allowed
        assert await ask(api, eve, scope="queues:write", actor=actor) == 404
    assert await ask(api, max_, scope="tasks:read", actor="ann@acme.example") == 403
    assert await ask(api, max_, scope="tasks:read", token=made["token"]) == 403
    assert (await ask(api, max_, scope="tasks:read", actor="max@acme.example"))["allowed"]
    shown = await ask(api, ann, scope="tasks:read", token=made["token"])
    assert (shown["allowed"], shown["actor"]) == (True, f"application:{made['id']}")
    assert (await ask(api, ann, scope="tasks:read", token="sfp_at_x"))["rule"] == "token:token_invalid"
    assert (await ask(api, eve, scope="tasks:read", token=made["token"]))["rule"] == "token:not_found"


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"scope": "x"},
        {"operation": "GET /nowhere"},
        {"operation": "GET /tasks", "scope": "tasks:read"},
        {"scope": "tasks:read", "resource": "task:1"},
        {"scope": "tasks:read", "resource": "user:x"},
        {"scope": "tasks:read", "actor": "a", "token": "b"},
    ],
    ids=str,
)
async def test_questions_that_make_no_sense_are_refused(api, question):
    assert await ask(api, await api.owner(), **question) == 400
