"""After a run with recognisable secrets of every kind, none is anywhere but where it has to be.

What has to be: the edge and the API carry them in requests, and the broker opens them for a task, so their memory may
still hold freed bytes. No other process may, and nothing may be in a file, the database, a log, an event, an argument
or an environment.
"""

import os
import secrets
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from acceptance.conftest import Instance
from acceptance.jobs import Jobs
from planted import Planted, Search
from sfp_client import Client
from sfp_server.instance import supervisor

#: their memory may hold what they carried or opened
CARRIERS = {"caddy", "api", "broker"}
#: prints, keeps and returns what it was given, in every dress
LEAKY = """
import base64, json, os, sys, urllib.parse
it = os.environ["IT"]
for text in (it, it.encode().hex(), urllib.parse.quote(it, safe=""), it[::1]):
    print(text)
    print(text, file=sys.stderr)
for lead in range(3):
    print(base64.b64encode(b"x" * lead + it.encode()).decode())
    print(base64.urlsafe_b64encode(b"x" * lead + it.encode()).decode())
open(os.environ["SFP_PROGRESS"], "w").write("50 " + it + chr(10))
json.dump({"said": it}, open(os.environ["SFP_RESULT"], "w"))
"""


def new() -> str:
    """A secret with letters that encodings change, and a part that they leave."""
    return f'p+/ä"{secrets.token_hex(20)} &%'


@pytest.fixture(scope="module")
def before() -> set[Path]:
    """What lay in the public directories before."""
    return {path for folder in ("/tmp", "/dev/shm") for path in Path(folder).iterdir()}


@pytest.fixture(scope="module")
def planted(before: set[Path], instance: Instance, owner: Client) -> Planted:
    """Every kind of secret that an instance is given or makes, used once."""
    made = Planted()
    jobs = Jobs(owner)
    made.add("password of the owner", instance.made["admin"]["password"], whole=True)
    with instance.http() as http:
        login = http.post("/sfp/api/auth/admin/login", json={
            "email": instance.made["admin"]["email"], "password": instance.made["admin"]["password"]}).json()  # fmt: skip
        http.headers["Authorization"] = f"Bearer {made.add('access token', login['access_token'])}"
        renewed = http.post("/sfp/api/auth/token", json={
            "grant_type": "refresh_token", "refresh_token": made.add("refresh token", login["refresh_token"])}).json()  # fmt: skip
        http.headers["Authorization"] = f"Bearer {made.add('renewed access token', renewed['access_token'])}"
        made.add("renewed refresh token", renewed["refresh_token"])
        token = http.post("/sfp/api/application-tokens", json={"name": "planted"}).json()["token"]
        made.add("application token", token)
        assert http.get("/sfp/api/tasks", headers={"Authorization": f"Bearer {token}"}).status_code == 200
        integration = {"provider": "github", "authType": "token", "isGlobal": True,
                       "credentials": {"token": made.add("credential of an integration", new())}}  # fmt: skip
        assert http.post("/sfp/api/integrations", json=integration).status_code == 201
        provider = {"kind": "github", "providerId": "planted", "clientId": "x", "domains": ["acme.example"],
                    "clientSecret": made.add("secret of an OAuth client", new())}  # fmt: skip
        assert http.post("/sfp/api/sso/providers", json=provider).status_code == 201
        assert http.delete("/sfp/api/sso/providers/planted").status_code == 200
        wrong = {"email": f"{uuid.uuid4().hex}@acme.example", "password": made.add("mistyped password", new())}
        assert http.post("/sfp/api/auth/admin/login", json=wrong).status_code == 401
        lost = secrets.token_hex(20)
        http.get(f"/sfp/api/tasks?token={made.add('token in a query', lost)}")
        http.get(
            "/sfp/api/tasks", headers={"Authorization": f"Bearer {made.add('wrong token', secrets.token_hex(20))}"}
        )
    value = made.add("secret of a task", new())
    owner.secrets.set("PLANTED_EVERYWHERE", value)
    ran = jobs.python(LEAKY, credentials=[{"type": "secret", "name": "PLANTED_EVERYWHERE", "env": "IT"}])
    assert (ran.status, ran.lines != []) == ("completed", True)
    owner.secrets.set("PLANTED_EVERYWHERE", made.add("newer value of a secret", new()))
    return made


def told(search: Search) -> str:
    return "\n".join(f"{name} in {where}" for where, name in sorted(search.found))


def test_no_file_of_the_instance_holds_any(planted: Planted, instance: Instance):
    search = planted.search()
    search.files({instance.place.directory, instance.place.run})
    assert search.seen["files"] > 30_000_000  # the database's files and its WAL among them
    assert search.found == set(), told(search)


def test_nothing_was_left_in_public_directories(planted: Planted, before: set[Path]):
    search = planted.search()
    now = {path for folder in ("/tmp", "/dev/shm") for path in Path(folder).iterdir()}
    fresh = {path for path in now - before if path.stat().st_mtime < Path("/proc/self").stat().st_mtime + 600}
    search.files(path for path in fresh if path.is_dir())
    for path in fresh:
        if path.is_file():
            search.look(str(path), path.read_bytes(), kind="files")
    assert search.found == set(), told(search)


async def test_no_row_of_the_database_shows_any(planted: Planted, instance: Instance):
    search = planted.search()
    connection = await asyncpg.connect(
        host=str(instance.place.run / "postgres"), user="postgres", database="sfp",
        password=(instance.place.secrets / "db-postgres").read_text().strip(),
    )  # fmt: skip
    tables = await connection.fetch(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')"
    )
    try:
        for table in tables:  # bytes show as hex in a row's text, and as themselves in its binary form
            for row in await connection.fetch(f"SELECT t::text AS text, t.* FROM {table['name']} t"):
                search.look(table["name"], row["text"].encode(), kind="rows")
                for value in row.values():
                    if isinstance(value, bytes):
                        search.look(table["name"], value, kind="rows")
    finally:
        await connection.close()
    assert len(tables) > 20
    assert search.seen["rows"] > 10_000
    assert search.found == set(), told(search)


def processes(instance: Instance) -> Iterator[tuple[int, str]]:
    """Everything that belongs to the instance, with its service's name where it has one."""
    services = {process.pid: process.service for process in supervisor.Supervisor(instance.place).processes()}
    mine = {*supervisor.leftovers(instance.place), *services}
    for pid in sorted({int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()}):
        ancestors = []
        above = pid
        while above > 1 and above not in mine:
            try:
                above = int(Path(f"/proc/{above}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                break
            ancestors.append(above)
        if above in mine:
            yield pid, services.get(above, "supervisord") + (f", child {pid}" if ancestors else "")


def test_no_process_has_any_in_its_arguments_environment_or_memory(planted: Planted, healthy: Instance):
    search = planted.search()
    looked_at = set()
    for pid, name in processes(healthy):
        if pid != os.getpid():
            service = name.partition(",")[0]
            looked_at.add(service)
            memory = os.geteuid() == 0 and service not in CARRIERS
            search.process(pid, name, memory=memory, shared="child" not in name)
    assert looked_at >= {"api", "broker", "cache", "caddy", "deliverer", "dispatcher", "guard", "postgres", "auditor"}
    assert os.geteuid() != 0 or search.seen["memory"] > 20_000_000
    assert search.found == set(), told(search)


def test_the_scan_would_have_found_them(planted: Planted, healthy: Instance):
    """Planted where it must not be, each of them is seen; tests/unit/test_planted.py has the encodings."""
    log = healthy.place.logs / "planted.log"
    log.write_bytes(b"\n".join(planted.parts.values()))
    search = planted.search()
    search.files([healthy.place.logs])
    log.unlink()
    assert {name for _, name in search.found} == set(planted.parts)
