"""An instance to be broken: with two teams, on a disk of its own that can be full."""

import asyncio
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acceptance.conftest import Instance, make
from sfp_client import Client
from sfp_server.identity.bootstrap import create_owner
from sfp_server.settings import Settings

#: bytes of the instance's disk: its database, and room to work
DISK = 2 << 30
SECRET = "a value that is long enough"


@contextmanager
def own_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system on `folder`; False where we may not."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0700", "faults", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False)


@contextmanager
def running(folder: Path, *, slots: str = "2,4,2", api_processes: int = 2) -> Iterator[Instance]:
    """A running instance below `folder`, stopped at the end."""
    more = folder / "more.json"
    # nobody outside but the recorder, on whatever port it gets
    settings = {
        "egress": {"allow": "127.0.0.1"},
        "tasks": {"graceSeconds": 2},
        "apiProcesses": api_processes,
    }
    more.write_text(json.dumps(settings))
    made = make(folder, "faults", "--config-file", str(more), "--worker-counts", slots)
    started = made.run("start")
    assert started.returncode == 0, started.stderr
    try:
        yield made
    finally:
        made.run("stop", "-f")


def tokens(instance: Instance) -> list[str]:
    """An application token for each of two teams; each has a secret for its tasks."""
    password = uuid.uuid4().hex
    url = Settings.load(instance.place.directory, {}).role_url("sfp_api")
    asyncio.run(create_owner(url, "second@faults.example", password, team_slug="second"))
    made = instance.made["admin"]
    return [_token(instance, made["email"], made["password"]), _token(instance, "second@faults.example", password)]


def _token(instance: Instance, email: str, password: str) -> str:
    with Client(instance.url, ca_file=instance.place.edge_root_copy) as client:
        client.auth.login(email, password)
        client.secrets.set("THROUGH_FAULTS", SECRET)
        return client.tokens.create("faults")["token"]
