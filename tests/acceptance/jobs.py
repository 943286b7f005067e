"""Running tasks as a user does, and looking at all that came of them."""

from dataclasses import dataclass
from typing import Any

from sfp_client import Client


@dataclass(frozen=True)
class Ran:
    """A task that has ended, with everything it said."""

    id: str
    status: str
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    lines: list[tuple[str, str]]

    @property
    def code(self) -> str | None:
        """The error's code; None when it succeeded."""
        return None if self.error is None else self.error["code"]

    @property
    def stdout(self) -> list[str]:
        return [message for stream, message in self.lines if stream == "stdout"]

    @property
    def text(self) -> str:
        return "\n".join(message for _, message in self.lines)


class Jobs:
    """Commands through the SDK."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def submit(self, argv: list[str], **options: Any) -> str:
        """Submit a `command`; the options of `Tasks.submit` are taken out, the others are its data."""
        named = {
            "priority",
            "credentials",
            "labels",
            "timeout_seconds",
            "network",
            "limits",
            "retry",
            "key",
            "concurrency_key",
        }
        given = {name: options.pop(name) for name in named & options.keys()}
        return self.client.tasks.submit("command", {"argv": argv, **options}, **given)["operationId"]

    def wait(self, operation_id: str, *, timeout: float = 60) -> Ran:
        ended = self.client.tasks.wait(operation_id, timeout=timeout)
        lines = [(entry["stream"], entry["message"]) for entry in self.client.tasks.logs(operation_id)]
        return Ran(operation_id, ended["status"], ended["error"], ended["result"], lines)

    def run(self, argv: list[str], **options: Any) -> Ran:
        return self.wait(self.submit(argv, **options))

    def sh(self, script: str, **options: Any) -> Ran:
        return self.run(["sh", "-c", script], **options)

    def python(self, script: str, **options: Any) -> Ran:
        return self.run(["python3", "-c", script], **options)
