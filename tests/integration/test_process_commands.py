"""`python -m sfp_server.cli migrate | create-owner`, as processes."""

import os
import subprocess
import sys
import uuid

import asyncpg
import pytest

import web_api
from sfp_server.db.migrate import SERVICE_ROLES, migrations


@pytest.fixture
def directory(tmp_path, clone, valkey_url):
    web_api.settings_for(tmp_path, clone, valkey_url)
    for role in SERVICE_ROLES:  # roles belong to the whole cluster: keep the password that other tests use
        (tmp_path / "secrets" / f"db-{role}").write_text("role-password")
    return tmp_path


def run(directory, url, *arguments, stdin=""):
    return subprocess.run(
        [sys.executable, "-m", "sfp_server.cli", *arguments, "--directory", str(directory)],
        input=stdin,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_migrate_makes_the_database_and_twice_is_fine(directory, cluster):
    url = cluster.url(f"fresh_{uuid.uuid4().hex}")
    first = run(directory, url, "migrate")
    second = run(directory, url, "migrate")
    expected = [f"{migration.version}_{migration.name}" for migration in migrations()]
    assert (first.returncode, first.stdout.split()) == (0, expected)
    assert (second.returncode, second.stdout) == (0, "")


async def test_the_owner_is_made_once_and_recovered_after(directory, clone, admin):
    for password in ("first password", "second password"):
        done = run(directory, clone.admin_url, "create-owner", "--email", "Ann@Acme.example", stdin=password + "\n")
        assert (done.returncode, done.stderr) == (0, "")
    rows = await admin.fetch(
        "SELECT email, role, slug FROM users JOIN memberships m ON user_id = users.id JOIN teams t ON t.id = team_id"
    )
    assert [tuple(row) for row in rows] == [("ann@acme.example", "owner", "default")]
    actions = [row["action"] for row in await admin.fetch("SELECT action FROM audit_log ORDER BY id")]
    assert actions == [
        "user.created",
        "team.created",
        "membership.owner",
        "user.password_replaced",
        "membership.owner",
    ]


@pytest.mark.parametrize(
    ("email", "password", "sentence"),
    [
        ("no address", "long enough by far", "e-mail"),
        ("a@b.example", "short", "12 to 1024"),
        ("a@b.example", "", "12 to 1024"),
    ],
)
def test_a_refusal_is_one_sentence(directory, clone, email, password, sentence):
    refused = run(directory, clone.admin_url, "create-owner", "--email", email, stdin=password + "\n")
    assert refused.returncode == 1
    assert sentence in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_team_of_others_is_not_taken_over(directory, clone):
    assert (
        run(directory, clone.admin_url, "create-owner", "--email", "a@b.example", stdin="a password 1\n").returncode
        == 0
    )
    refused = run(directory, clone.admin_url, "create-owner", "--email", "c@d.example", stdin="a password 2\n")
    assert refused.returncode == 1
    assert "other owners" in refused.stderr


def test_an_absent_database_is_one_sentence(directory):
    refused = run(
        directory,
        "postgresql://nobody@/x?host=/nowhere",
        "create-owner",
        "--email",
        "a@b.example",
        stdin="a long password\n",
    )
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    refused = run(directory, "postgresql://nobody@/x?host=/nowhere", "migrate")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr


async def test_a_wrong_password_of_a_role_is_unavailable_not_a_crash(directory, clone):
    (directory / "secrets" / "db-sfp_api").write_text("wrong")
    refused = run(directory, clone.admin_url, "create-owner", "--email", "a@b.example", stdin="a long password\n")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(clone.cluster.url(clone.name, "sfp_api", "wrong"))
