"""A throw-away instance to measure: made, started, asked and removed through its own command line and SDK."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sfp_client import Client

PROGRAM = Path(sys.executable).with_name("sfp-server")
TENANT = "bench"
#: no limit on requests: the load comes from one address and one token
UNLIMITED = {"api": {"actorRateLimit": 0, "addressRateLimit": 0}}


class Instance:
    """Lives below `base`, which must be empty and is the caller's to remove."""

    def __init__(self, base: Path) -> None:
        self.base = base
        wish = base / "wish.json"
        wish.write_text(json.dumps(UNLIMITED))
        self._made = json.loads(
            self._run("init", "--tenant", TENANT, "--config-file", str(wish), "--base-dir", str(base), "--json")
        )
        self.directory = Path(self._made["directory"])
        self.url = self.api_url = ""
        self.token = ""

    def start(self) -> float:
        """Start it and return how many seconds the command took, from the shell's view, until it was healthy."""
        began = time.perf_counter()
        started = json.loads(self._run("start", "-t", TENANT, "--base-dir", str(self.base), "--json"))
        seconds = time.perf_counter() - began
        self.url = started["url"]
        self.api_url = f"http://127.0.0.1:{self._config()['apiPort']}"
        return seconds

    def stop(self) -> None:
        self._run("stop", "-t", TENANT, "--base-dir", str(self.base), "-f")

    def sign_in(self) -> None:
        """Get an application token, as a pipeline would use it."""
        with self._client() as client:
            admin = self._made["admin"]
            client.auth.login(admin["email"], admin["password"])
            self.token = client.tokens.create("benchmark")["token"]

    def client(self) -> Client:
        """The SDK with the application token, over HTTPS."""
        return Client(self.url, self.token, ca_file=self.ca_file)

    def set_slots(self, counts: str) -> None:
        """Slots `critical,normal,batch`, from the next start on."""
        path = self.directory / "config.json"
        path.write_text(json.dumps({**self._config(), "workerCounts": counts}))

    def status(self) -> dict[str, Any]:
        return json.loads(self._run("status", "-t", TENANT, "--base-dir", str(self.base), "--json"))

    @property
    def ca_file(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def supervisor_pid(self) -> int:
        return int((self.directory / "run" / "supervisord.pid").read_text())

    def _client(self) -> Client:
        return Client(self.url, ca_file=self.ca_file)

    def _config(self) -> dict[str, Any]:
        return json.loads((self.directory / "config.json").read_text())

    @staticmethod
    def _run(*arguments: str) -> str:
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            [str(PROGRAM), *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"sfp-server {arguments[0]} failed: {done.stderr.strip()}")
        return done.stdout
