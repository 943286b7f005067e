"""The whole OpenAPI document against the running API: no 5xx, and no answer that the document does not list.

schemathesis makes requests that fit the document and requests that nearly do, for every operation, as each kind of
caller; always the same ones (`derandomize`).
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi import checks

import auditing
from web_api import API, WebApi

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
    checks.response_headers_conformance,
]
#: examples of each operation: as the document has it, and wrong in one place
EXAMPLES = {"anonymous": (2, 2), "member": (4, 2), "application": (4, 2), "owner": (8, 6)}
#: these ask the broker, a process that is not there in these tests: they say so (503), and nothing else may
ASK_THE_BROKER = {f"{API}/secrets/rotate-keys", f"{API}/integrations/credentials"}
TASK = {"type": "command", "data": {"argv": ["true"]}, "priority": "batch"}


@dataclass
class World:
    """Callers, and things that exist: paths that name nothing only ever lead to 404."""

    api: WebApi
    owner: str = ""
    names: dict[str, list[str]] = field(default_factory=dict)
    made: int = 0

    async def fill(self) -> None:
        async with self.api.client(self.owner) as client:
            task = (await client.post(f"{API}/tasks", json=TASK)).json()["operationId"]
            gone = (await client.post(f"{API}/tasks", json=TASK)).json()["operationId"]
            await client.delete(f"{API}/tasks/{gone}")
            artifact = (await client.post(f"{API}/artifacts?name=a", content=b"bytes")).json()
            token = (await client.post(f"{API}/application-tokens", json={"name": "ci"})).json()
            await client.put(f"{API}/secrets/known", json={"value": "value"})
            await client.post(f"{API}/users", json={"email": "other@acme.example", "role": "owner"})
        self.names = {
            "task_id": [task, gone],
            "artifact_id": [next(value for key, value in artifact.items() if key.lower().endswith("id"))],
            "token_id": [token["id"]],
            "name": ["known", "batch"],
            "slug": ["acme"],
            "email": ["other@acme.example"],
        }

    async def caller(self, who: str) -> str | None:
        """A token of a new caller of this kind."""
        self.made += 1
        match who:
            case "anonymous":
                return None
            case "member":
                return await self.api.member(f"member{self.made}@acme.example")
            case "application":
                return (await self.api.application_token(self.owner))["token"]
            case _:
                user = await self.api.member(f"owner{self.made}@acme.example")
                await self.api.admin.execute(
                    "UPDATE memberships SET role = 'owner' FROM users WHERE users.id = user_id AND email = $1",
                    f"owner{self.made}@acme.example",
                )
                return user


@pytest.fixture
async def world(api, clone, tmp_path) -> AsyncIterator[World]:
    (tmp_path / "run").mkdir()
    async with auditing.running(api.settings, clone):
        made = World(api, await api.owner())
        await made.fill()
        yield made


async def document(api: WebApi) -> dict:
    async with api.client() as client:
        return (await client.get("/sfp/apidocs-json")).json()


def operations(raw: dict):
    """Every operation of the document; a WebSocket is none that HTTP could call."""
    schema = schemathesis.openapi.from_dict(raw)
    found = [result.ok() for result in schema.get_all_operations()]
    return [item for item in found if not item.path.endswith("/realtime")]


def prepared(case, world: World, number: int) -> requests.PreparedRequest:
    """The request of a case; in two of three the path names something that exists, and nobody waits for long."""
    for name in case.path_parameters or {}:
        if number % 3 and name in world.names:
            case.path_parameters[name] = world.names[name][number % len(world.names[name])]
    if isinstance(case.query, dict) and isinstance(case.query.get("wait"), int | float):
        case.query["wait"] = min(case.query["wait"], 0.01)
    kwargs = case.as_transport_kwargs(base_url="http://localhost")
    known = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")
    request = requests.Request(**{name: kwargs[name] for name in known if name in kwargs})
    if case.operation.path.endswith("/events"):
        request.headers = {**(request.headers or {}), "Accept": "application/json"}  # the other one never ends
    return request.prepare()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", EXAMPLES)
async def test_every_operation_answers_as_documented(world, who):
    loop = asyncio.get_running_loop()
    wrong: dict[str, str] = {}
    answered: dict[str, set[int]] = {}
    token = await world.caller(who)

    async def exchange(request: requests.PreparedRequest) -> httpx.Response:
        async with world.api.client(token) as client:
            headers = {name: value for name, value in request.headers.items() if name.lower() != "authorization"}
            body = request.body.encode() if isinstance(request.body, str) else request.body
            return await client.request(request.method, request.url, headers=headers, content=body)

    def explore(operation, mode: GenerationMode, examples: int) -> None:
        number = 0

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def once(case) -> None:
            nonlocal number
            number += 1
            request = prepared(case, world, number)
            answer = asyncio.run_coroutine_threadsafe(exchange(request), loop).result(30)
            answered.setdefault(operation.label, set()).add(answer.status_code)
            is_away = answer.status_code == 503 and operation.path in ASK_THE_BROKER
            case.validate_response(answer, checks=CHECKS[1:] if is_away else CHECKS)

        try:
            once()
        except FailureGroup as failures:
            wrong[f"{operation.label} ({mode.value})"] = " ".join(str(failures).split())[:600]

    every = operations(await document(world.api))
    for operation in every:
        for mode, examples in zip(GenerationMode, EXAMPLES[who], strict=True):
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.headers):
                continue  # nothing could be wrong with it
            await asyncio.to_thread(explore, operation, mode, examples)
        async with world.api.client(token) as client:  # some operations end the rights of who calls them
            if token and (await client.get(f"{API}/tasks?limit=1")).status_code != 200:
                token = await world.caller(who)
    assert wrong == {}, "\n\n".join(wrong.values())
    assert set(answered) == {operation.label for operation in every}
    closed = {label for label, statuses in answered.items() if min(statuses) >= 400}
    most = {"owner": 1 / 2, "application": 3 / 4}.get(who, 1)
    assert len(closed) < len(every) * most, closed


async def test_other_methods_than_the_documented_ones_are_405(api):
    raw = await document(api)
    answers = {}
    async with api.client() as client:
        for path, item in raw["paths"].items():
            for method in {"get", "post", "put", "patch", "delete"} - set(item):
                answer = await client.request(method, path.replace("{", "").replace("}", ""))
                answers[method, path] = (answer.status_code, "allow" in answer.headers)
    wrong = {key: seen for key, seen in answers.items() if seen not in {(405, True), (404, False)}}
    assert wrong == {}
