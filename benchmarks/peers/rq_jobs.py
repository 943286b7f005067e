"""What the RQ workers run: the same trivial command that our tasks run."""

import subprocess


def trivial() -> int:
    return subprocess.run(["true"], check=False).returncode
