"""Integrations and projects: sealed, shown by the broker to whoever may ask, leased to tasks, used by git."""

import asyncio
import json
from uuid import uuid4

import pytest

from sfp_server.credentials.broker import Broker
from sfp_server.credentials.desk import Desk
from sfp_server.credentials.leasing import Leasing, Presented, Refused
from sfp_server.credentials.providers import Credentials, GitLogin, git_login, provider_of, variables
from sfp_server.credentials.returns import Returns
from sfp_server.credentials.sources.base import Fetched, SourceError
from sfp_server.db.database import Database
from sfp_server.errors import Unavailable
from vaults import Vault
from web_api import API


@pytest.fixture
def vault(api) -> Vault:
    return Vault.of(api.settings, api.settings.secret("broker-key"))


@pytest.fixture
async def brokering(clone):
    async with Database(clone.role_url("sfp_broker"), application="test") as database:
        yield database


@pytest.fixture
async def broker(api, vault, brokering):
    """A broker that the API can ask."""
    api.settings.run_directory.mkdir(exist_ok=True)
    async with vault.running(brokering, api.settings):
        yield


@pytest.fixture
async def owner(api):
    async with api.client(await api.owner()) as client:
        yield client


async def made(client, path, body, status=201):
    answer = await client.post(f"{API}{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def connect(client, token, **more):
    body = {"provider": "github", "authType": "token", "credentials": {"token": token}, **more}
    return await made(client, "/integrations", body)


async def project(client, identifier="acme/core", url="https://github.com/acme/core.git"):
    return await made(client, "/projects", {"identifier": identifier, "remoteUrl": url})


async def test_credentials_of_the_project_come_before_the_global_ones(api, owner, broker):
    await project(owner)
    everywhere = await connect(owner, "global-token")
    await connect(owner, "project-token", projects=["acme/core"])
    assert (everywhere["isGlobal"], everywhere["projects"]) == (True, [])
    assert "token" not in json.dumps((await owner.get(f"{API}/integrations")).json()["items"]).replace('"token"', "")
    application = await api.application_token(api_token_of(owner), scopes=["integrations:credentials"])
    async with api.client(application["token"]) as client:
        for query, token in (
            ("", "global-token"),
            ("&project=acme/core", "project-token"),
            ("&project=x", "global-token"),
        ):
            answer = await client.get(f"{API}/integrations/credentials?provider=github{query}")
            assert answer.json()["credentials"] == {"token": token}
            assert answer.headers["cache-control"] == "no-store"
        assert (await client.get(f"{API}/integrations/credentials?provider=gitlab")).status_code == 404
        login = (await client.get(f"{API}/repository/auth-token?repositoryIdentifier=acme/core")).json()
    assert (login["token"], login["username"]) == ("project-token", "x-access-token")
    rows = await api.admin.fetch("SELECT actor, subject FROM audit_log WHERE action = 'integration.credentials'")
    assert {tuple(row) for row in rows} == {(f"application:{application['id']}", "integration:github")}
    assert len(rows) == 4


def api_token_of(client):
    return client.headers["authorization"].removeprefix("Bearer ")


async def test_nothing_leaves_without_its_audit_entry(api, owner, broker):
    await connect(owner, "global-token")
    await api.admin.execute("REVOKE INSERT ON audit_log FROM sfp_broker")
    answer = await owner.get(f"{API}/integrations/credentials?provider=github")
    assert answer.status_code == 503
    assert "global-token" not in answer.text


async def test_an_application_has_credentials_only_if_somebody_said_so(api, owner, broker):
    await connect(owner, "global-token")
    application = await api.application_token(api_token_of(owner))
    async with api.client(application["token"]) as client:
        assert (await client.get(f"{API}/integrations/credentials?provider=github")).status_code == 403


async def test_another_teams_credentials_do_not_exist(api, owner, broker):
    await connect(owner, "global-token")
    async with api.client(await api.owner("bob@beta.example", "beta")) as other:
        assert (await other.get(f"{API}/integrations/credentials?provider=github")).status_code == 404


async def test_the_desk_answers_nobody_without_its_key(vault, brokering):
    desk = Desk(database=brokering, keys=vault.keyring(brokering), key="right")
    for asked in ({"ask": "rotate"}, {"ask": "keys"}, {"ask": "integration", "provider": "github"}):
        line = json.dumps({"key": "wrong", "actor": "user:x", **asked}).encode()
        assert await desk.answer(line, False) == {"error": {"code": "credential", "message": "the key is wrong"}}
    assert "error" in await desk.answer(b"not json\n", False)


@pytest.mark.parametrize(
    "change",
    ['config = \'{"url": "https://evil.example"}\'', "provider = 'gitlab'", "id = uuid7()"],
)
async def test_what_decides_where_credentials_go_cannot_be_changed_in_the_database(api, owner, broker, change):
    await connect(owner, "global-token")
    await api.admin.execute(f"UPDATE integrations SET {change}")
    answer = await owner.get(f"{API}/integrations/credentials?provider={'gitlab' if 'gitlab' in change else 'github'}")
    if "config" in change:
        assert answer.json()["config"] == {}
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, "credential")


async def test_one_of_each_provider_for_a_project_and_for_all(owner):
    await project(owner)
    await connect(owner, "global-token")
    body = {"provider": "github", "authType": "token", "credentials": {"token": "second-token"}}
    await made(owner, "/integrations", body, 409)
    await connect(owner, "project-token", projects=["acme/core"])
    await made(owner, "/integrations", {**body, "projects": ["acme/core"]}, 409)
    await made(owner, "/integrations", {**body, "projects": ["nothing"]}, 422)
    for wrong in ({"credentials": {"token": "abc"}}, {"authType": "basic"}, {"credentials": {}}, {"provider": "X"}):
        await made(owner, "/integrations", {**body, **wrong}, 400)


async def test_a_project_is_moved_by_who_knows_its_version(owner):
    found = await project(owner)
    path = f"{API}/projects/{found['id']}"
    moved = await owner.patch(path, json={"remoteUrl": "https://gitlab.com/a/b"}, headers={"If-Match": '"1"'})
    assert (moved.status_code, moved.headers["etag"]) == (200, '"2"')
    assert (await owner.patch(path, json={"remoteUrl": "https://x.example", "version": 1})).status_code == 409
    assert (await owner.patch(path, json={"remoteUrl": "https://u:p@x.example"})).status_code == 400
    assert (await owner.get(f"{API}/projects?identifier=acme/core")).json()["items"][0]["version"] == 2
    await made(owner, "/projects", {"identifier": "acme/core", "remoteUrl": "https://x.example"}, 409)
    assert (await owner.delete(path)).status_code == 204


class Elsewhere:
    """A source whose values are made for each fetch, with leases."""

    name = "vault"

    def __init__(self):
        self.fetched, self.revoked = [], []
        self.fails = False

    async def fetch(self, path):
        if self.fails:
            raise SourceError("HashiCorp Vault cannot be reached")
        self.fetched.append(path)
        return Fetched(values={"password": "made-elsewhere"}, lease_id=f"lease-{len(self.fetched)}")

    async def revoke(self, lease_id):
        self.revoked.append(lease_id)


async def running_task(api, credentials):
    """A task that runs in the database; answers its id. Its ticket is `ticket`."""
    team = await api.admin.fetchval("SELECT id FROM teams WHERE slug = 'acme'")
    async with api.client(api_token_of_team(api)) as client:
        body = {"type": "command", "data": {"argv": ["x"]}, "credentials": credentials}
        task = (await made(client, "/tasks", body))["operationId"]
    await api.admin.execute("UPDATE tasks SET status = 'active', reason = NULL, attempt = 1 WHERE id = $1", task)
    await api.admin.execute(
        "INSERT INTO attempts (task_id, attempt, team_id, queue, dispatcher_id, runtime, lease_expires_at)"
        " VALUES ($1, 1, $2, 'normal', uuid7(), 'sandbox', now() + interval '1 minute')",
        task,
        team,
    )
    await api.admin.execute(
        "INSERT INTO worker_tickets (token_hash, team_id, task_id, attempt, expires_at)"
        " VALUES (sha256('ticket'), $1, $2, 1, now() + interval '1 minute')",
        team,
        task,
    )
    return task


def api_token_of_team(api):
    return api.owner_token


async def test_a_task_gets_the_variables_of_its_provider_and_git_signs_in(api, owner, vault, brokering):
    api.owner_token = api_token_of(owner)
    await project(owner)
    await connect(owner, "global-token")
    credential = {"type": "integration", "provider": "github", "project": "acme/core"}
    await made(
        owner,
        "/tasks",
        {"type": "command", "data": {"argv": ["x"]}, "credentials": [{**credential, "provider": "jira"}]},
        422,
    )
    task = await running_task(api, [credential])
    drawn = await Leasing(brokering).redeem(vault.opener, Presented(ticket="ticket", connection=uuid4()))
    assert {item["env"]: item["value"] for item in drawn.credentials} == dict.fromkeys(
        ("GITHUB_TOKEN", "GH_TOKEN"), "global-token"
    )
    assert [login["base"] for login in drawn.git] == ["https://github.com"]
    (lease,) = (await owner.get(f"{API}/tasks/{task}/leases")).json()["items"]
    assert (lease["kind"], lease["name"], lease["endedAt"]) == ("integration", "github", None)


@pytest.fixture
async def referring(api, owner):
    """A running task whose secret is kept elsewhere; answers the source."""
    api.owner_token = api_token_of(owner)
    object.__setattr__(api.settings, "references", "vault=sfp/{team}/,vault=/database/creds/{team}_")
    for path, status in (("sfp/beta/x", 400), ("sfp/acme/", 400), ("/database/creds/acme_ro", 200)):
        body = {"reference": {"source": "vault", "path": path, "key": "password"}}
        assert (await owner.put(f"{API}/secrets/DB", json=body)).status_code == status, path
    await running_task(api, [{"type": "secret", "name": "DB", "env": "DB_PASSWORD"}])
    return Elsewhere()


async def test_a_reference_is_fetched_when_it_is_drawn_and_given_back_at_the_end(api, vault, brokering, referring):
    presented = Presented(ticket="ticket", connection=uuid4())
    drawn = await Leasing(brokering, {"vault": referring}).redeem(vault.opener, presented)
    assert [item["value"] for item in drawn.credentials] == ["made-elsewhere"]
    assert referring.fetched == ["/database/creds/acme_ro"]
    returns = Returns(brokering, {"vault": referring})
    await returns.give_back()
    assert referring.revoked == []
    await api.admin.execute("SELECT end_leases(array_agg(id)) FROM tasks")
    await returns.give_back()
    await returns.give_back()
    assert referring.revoked == ["lease-1"]


async def test_what_cannot_be_fetched_is_not_drawn(api, vault, brokering, referring):
    referring.fails = True
    with pytest.raises(Refused, match="cannot be reached"):
        await Leasing(brokering, {"vault": referring}).redeem(
            vault.opener, Presented(ticket="ticket", connection=uuid4())
        )
    assert await api.admin.fetchval("SELECT drawn_at FROM worker_tickets") is None
    assert await api.admin.fetchval("SELECT count(*) FROM leases") == 0


async def test_what_was_fetched_for_nothing_is_given_back(api, vault, brokering, referring):
    await api.admin.execute("REVOKE INSERT ON leases FROM sfp_broker")
    with pytest.raises(Exception, match="permission denied"):
        await Leasing(brokering, {"vault": referring}).redeem(
            vault.opener, Presented(ticket="ticket", connection=uuid4())
        )
    assert referring.revoked == ["lease-1"]


def test_variables_are_named_by_provider_and_only_secret_ones_are_hidden():
    assert variables("bitbucket", {"username": "ann", "appPassword": "p4ss"}) == {
        "BITBUCKET_USERNAME": ("ann", False),
        "BITBUCKET_APP_PASSWORD": ("p4ss", True),
    }


@pytest.mark.parametrize(
    ("url", "covered"),
    [
        ("https://git.example/a/b", True), ("https://git.example", True), ("https://GIT.example/a", True),
        ("http://git.example/a", False), ("https://git.example:8443/a", False), ("https://git.example.evil/a", False),
        ("https://evil.example/git.example", False), ("https://git.example@evil.example/a", False),
    ],
)  # fmt: skip
def test_git_signs_in_below_its_address_only(url, covered):
    assert GitLogin(base="https://git.example", username="u", password="p").covers(url) == covered


def test_git_signs_in_where_the_credentials_say():
    opened = Credentials(auth_type="token", credentials={"token": "t0ken"}, config={"url": "https://git.example/"})
    assert git_login("gitlab", opened) == GitLogin(base="https://git.example", username="oauth2", password="t0ken")
    assert git_login("jira", opened) is None
    assert provider_of("https://acme.github.com/a/b") == "github"
    assert provider_of("https://notgithub.com/a/b") is None


async def test_keys_that_change_while_something_is_fetched_fail_nothing(api, vault, brokering, referring):
    keys = vault.keyring(brokering)
    running = asyncio.create_task(keys.run())
    fetch = referring.fetch

    async def rotating(path):
        await keys.rotate(team_id=None, actor="command:test")
        async with asyncio.timeout(20):
            while len(vault.ring.keys) > 1:  # until nothing is sealed to the old key
                await asyncio.sleep(0.01)
        referring.fetch = fetch
        return await fetch(path)

    referring.fetch = rotating
    async with asyncio.timeout(20):
        while keys.broken or not _is_there(keys):
            await asyncio.sleep(0.01)
    answer = await Broker(keys, Leasing(brokering, {"vault": referring})).answer(b'{"ticket":"ticket"}', False)
    running.cancel()
    assert [item["value"] for item in answer["credentials"]] == ["made-elsewhere"]
    assert vault.ring.current == 2


def _is_there(keys):
    try:
        return keys.opener
    except Unavailable:
        return None
