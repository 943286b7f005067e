"""Tasks: submit, look, follow, wait, cancel."""

import builtins
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from sfp_client.access import new_key
from sfp_client.errors import ApiError, TimedOut
from sfp_client.live import HOLD, NOT_HELD, PAGE, Event, Follower
from sfp_client.shapes import FINAL, LogEntry, Page, Priority, Submitted, TaskResult, TaskStatus
from sfp_client.transport import Transport, given

#: events after which a task's channel tells nothing more
FINAL_EVENTS = frozenset(f"task.{status}" for status in FINAL)


class Tasks:
    """The tasks of the team."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(
        self,
        kind: str,
        data: Mapping[str, Any] | None = None,
        *,
        priority: Priority | None = None,
        credentials: Sequence[Mapping[str, Any]] | None = None,
        labels: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        network: str | None = None,
        runtime: str | None = None,
        toolchain: str | None = None,
        limits: Mapping[str, int] | None = None,
        retry: Mapping[str, Any] | None = None,
        concurrency_key: str | None = None,
        queue_timeout_seconds: float | None = None,
        scheduled_for: str | None = None,
        recurrence: Mapping[str, Any] | None = None,
        key: str | None = None,
    ) -> Submitted:
        """Submit a task. Tried again until the server took it, and it takes it once.

        Args:
            kind: the task type, as in `command`.
            data: its input; see `types()`.
            credentials: as in `{"type": "secret", "name": "NPM_TOKEN", "env": "NPM_TOKEN"}`.
            network: `none` or `egress`.
            toolchain: name of what its worker must find beside the system's own tools.
            retry: `retryConfig` of the API.
            queue_timeout_seconds: seconds in line after which it fails instead of starting.
            scheduled_for: ISO 8601 time with a zone; the task runs once, then.
            recurrence: `recurrenceConfig` of the API; the task becomes a series.
            key: the Idempotency-Key; one is made when it is not given.
        """
        body: dict[str, Any] = {
            "type": kind,
            "data": dict(data or {}),
            **given(
                {
                    "priority": priority,
                    "credentials": [dict(item) for item in credentials] if credentials else None,
                    "labels": dict(labels) if labels else None,
                    "timeoutSeconds": timeout_seconds,
                    "network": network,
                    "runtime": runtime,
                    "toolchain": toolchain,
                    "limits": dict(limits) if limits else None,
                    "retryConfig": dict(retry) if retry else None,
                    "concurrencyKey": concurrency_key,
                    "queueTimeoutSeconds": queue_timeout_seconds,
                    "scheduleType": "recurring" if recurrence else "scheduled" if scheduled_for else None,
                    "scheduledFor": scheduled_for,
                    "recurrenceConfig": dict(recurrence) if recurrence else None,
                }
            ),
        }
        return self._transport.json("POST", "/tasks", body=body, key=key or new_key())

    def list(
        self,
        *,
        status: str | None = None,
        kind: str | None = None,
        priority: str | None = None,
        label: str | None = None,
        created_after: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """One page, newest first; `label` as `key:value`."""
        params = {
            "status": status,
            "type": kind,
            "priority": priority,
            "label": label,
            "createdAfter": created_after,
            "limit": limit,
            "cursor": cursor,
        }
        return self._transport.json("GET", "/tasks", params=params)

    def get(self, operation_id: str) -> dict[str, Any]:
        """Everything that is known of a task."""
        return self._transport.json("GET", _path(operation_id))

    def status(self, operation_id: str) -> TaskStatus:
        return self._transport.json("GET", _path(operation_id) + "/status")

    def result(self, operation_id: str, *, wait: float | None = None) -> TaskResult:
        """Status and result, waiting for it up to `wait` seconds (30 at most).

        Raises ApiError `not_finished` (409) when there is none then.
        """
        return self._transport.json("GET", _path(operation_id) + "/result", params={"wait": wait})

    def cancel(self, operation_id: str) -> dict[str, Any]:
        """Raises ApiError `already_final` (409)."""
        return self._transport.json("DELETE", _path(operation_id))

    def retry(self, operation_id: str) -> Submitted:
        """Run a finished task again, as a new one. Raises ApiError `not_finished` (409)."""
        return self._transport.json("POST", _path(operation_id) + "/retry", key=new_key())

    def explain(self, operation_id: str) -> dict[str, Any]:
        """Why it is not running, where it stands, and when it will probably start."""
        return self._transport.json("GET", _path(operation_id) + "/explain")

    def stop_recurring(self, operation_id: str) -> dict[str, Any]:
        """End a series. Raises ApiError `already_final`, `conflict` (409)."""
        return self._transport.json("POST", _path(operation_id) + "/stop-recurring")

    def instances(self, operation_id: str, *, limit: int | None = None, cursor: str | None = None) -> Page:
        """One page of the runs of a series, newest first."""
        params = {"limit": limit, "cursor": cursor}
        return self._transport.json("GET", _path(operation_id) + "/recurring-instances", params=params)

    def preview(self, recurrence: Mapping[str, Any], *, count: int | None = None) -> builtins.list[str]:
        """The next runs (10, or `count`) that a `recurrenceConfig` would have; nothing is submitted."""
        params = {"count": count}
        answer = self._transport.json("POST", "/tasks/preview-recurrence", body=dict(recurrence), params=params)
        return answer["nextRuns"]

    def types(self) -> builtins.list[dict[str, Any]]:
        """The task types, each with the JSON Schema of its `data`."""
        return self._transport.json("GET", "/tasks/types")["items"]

    def receipt(self, operation_id: str) -> dict[str, Any]:
        """The signed record of a finished task. Raises ApiError `not_finished`."""
        return self._transport.json("GET", _path(operation_id) + "/receipt")

    def logs(self, operation_id: str, *, after: int = 0) -> Generator[LogEntry]:
        """The lines that there are now, in order; page by page."""
        while True:
            params = {"after": after, "limit": PAGE}
            entries = self._transport.json("GET", f"/logs/{quote(operation_id, safe='')}", params=params)["entries"]
            yield from entries
            if len(entries) < PAGE:
                return
            after = entries[-1]["seq"]

    def delete_logs(self, operation_id: str) -> None:
        self._transport.json("DELETE", f"/logs/{quote(operation_id, safe='')}")

    def events(self, operation_id: str, *, after: int = 0) -> builtins.list[Event]:
        """The events that there are now, in order."""
        from sfp_client.live import event_of

        found: builtins.list[Event] = []
        while True:
            params = {"channel": f"task:{operation_id}", "after": after, "limit": PAGE}
            items = self._transport.json("GET", "/events", params=params)["items"]
            found += [event_of(item) for item in items]
            if len(items) < PAGE:
                return found
            after = found[-1].seq

    def follow(self, operation_id: str, *, after: int = 0, timeout: float | None = None) -> Generator[Event]:
        """Every event of a task after number `after`, live, until it has ended.

        Raises TimedOut after `timeout` seconds; the task goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for event in Follower(self._transport, f"task:{operation_id}", after=after, deadline=deadline):
            yield event
            if event.event in FINAL_EVENTS:
                return

    def wait(self, operation_id: str, *, timeout: float | None = None) -> TaskResult:
        """Wait until a task has ended and return its result, whatever its end.

        Raises TimedOut after `timeout` seconds; the task goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            asked = time.monotonic()
            hold = HOLD if deadline is None else max(0.0, min(HOLD, deadline - asked))
            try:
                return self.result(operation_id, wait=hold)
            except ApiError as error:
                if error.code != "not_finished":
                    raise
            if deadline is not None and time.monotonic() >= deadline:
                raise TimedOut(f"task {operation_id} has not ended after {timeout:g} seconds; it goes on")
            if time.monotonic() - asked < hold / 2:  # the server did not hold the answer back
                time.sleep(NOT_HELD)


def _path(operation_id: str) -> str:
    return f"/tasks/{quote(operation_id, safe='')}"
