"""Bodies that the task routes take. What they answer is in `answers.py`."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sfp_server.tasks.model import Queue
from sfp_server.tasks.recurrence import check_cron, check_timezone
from sfp_server.web.wire import Wire, WrongField

_EnvName = Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
_Seconds = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]
_Text = Annotated[str, Meta(min_length=1, max_length=255)]
_FIRST_YEAR, _LAST_YEAR = 1900, 9900


class SecretCredential(Wire, tag_field="type", tag="secret"):
    """A stored secret, put into the task's environment."""

    name: _Text
    env: _EnvName

    def __post_init__(self) -> None:
        if self.env.startswith("SFP_"):
            raise WrongField("env", "must not begin with SFP_: such names are the worker's")


class SalesforceCredential(Wire, tag_field="type", tag="salesforce"):
    """A short-lived access token of a registered org."""

    org: _Text
    alias: _Text | None = None


class IntegrationCredential(Wire, tag_field="type", tag="integration"):
    """A credential of a connected provider."""

    provider: _Text
    project: _Text | None = None


Credential = SecretCredential | SalesforceCredential | IntegrationCredential


class RetryConfig(Wire):
    """How failed attempts are tried again."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 1
    backoff: Literal["exponential", "fixed"] = "exponential"
    delay_seconds: Annotated[float, Meta(ge=0, le=86400)] = 5.0
    max_delay_seconds: Annotated[float, Meta(ge=0, le=86400)] = 300.0
    jitter: bool = True


class RecurrenceConfig(Wire):
    """When a recurring task runs: exactly one of `cron` and `intervalSeconds`."""

    cron: Annotated[str, Meta(max_length=200, description="five fields, as in 0 2 * * 1-5")] | None = None
    timezone: Annotated[str, Meta(max_length=60, description="IANA name; default UTC")] | None = None
    interval_seconds: Annotated[float, Meta(ge=1, le=366 * 86400)] | None = None
    start_at: Annotated[datetime, Meta(tz=True)] | None = None
    end_at: Annotated[datetime, Meta(tz=True)] | None = None
    max_runs: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    overlap: Literal["skip", "queue", "allow"] = "skip"
    missed: Literal["skip", "once", "all"] = "once"

    def __post_init__(self) -> None:
        if self.cron is None and self.interval_seconds is None:
            raise WrongField("cron", "exactly one of cron and intervalSeconds is needed")
        if self.cron is not None and self.interval_seconds is not None:
            raise WrongField("intervalSeconds", "exactly one of cron and intervalSeconds may be given")
        _checked("cron", check_cron, self.cron)
        _checked("timezone", check_timezone, self.timezone)
        _require_calendar("startAt", self.start_at)
        _require_calendar("endAt", self.end_at)
        if self.start_at is not None and self.end_at is not None and self.end_at < self.start_at:
            raise WrongField("endAt", "is before startAt")


def _checked(field: str, check: Callable[[str], None], value: str | None) -> None:
    if value is None:
        return
    try:
        check(value)
    except ValueError as error:
        raise WrongField(field, str(error)) from error


def _require_calendar(field: str, at: datetime | None) -> None:
    """Far enough from the ends of the calendar that zones and rhythms stay inside it."""
    if at is not None and not _FIRST_YEAR <= at.year < _LAST_YEAR:
        raise WrongField(field, f"lies outside the calendar: {_FIRST_YEAR} to {_LAST_YEAR - 1}")


class LimitsBody(Wire, omit_defaults=True):
    """Ceilings of one task; not above the instance's."""

    memory_mb: Annotated[int, Meta(ge=32)] | None = None
    disk_mb: Annotated[int, Meta(ge=1)] | None = None
    processes: Annotated[int, Meta(ge=4)] | None = None
    cpu_seconds: Annotated[int, Meta(ge=1, le=7 * 24 * 3600)] | None = None


class SubmitTask(Wire):
    """Body of `POST /tasks`. `data` is checked against the type's own schema."""

    type: Annotated[str, Meta(min_length=1, max_length=100)]
    data: dict[str, Any]
    priority: Queue | None = None
    schedule_type: Literal["immediate", "scheduled", "recurring"] = "immediate"
    scheduled_for: Annotated[datetime, Meta(tz=True)] | None = None
    recurrence_config: RecurrenceConfig | None = None
    retry_config: RetryConfig | None = None
    timeout_seconds: _Seconds | None = None
    queue_timeout_seconds: _Seconds | None = None
    lock_duration: Annotated[int, Meta(ge=3000, le=3_600_000, description="worker lease, milliseconds")] | None = None
    concurrency_key: _Text | None = None
    labels: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=63)], Annotated[str, Meta(max_length=255)]],
        Meta(max_length=32),
    ] = msgspec.field(default_factory=dict[str, str])
    runtime: Literal["sandbox", "process", "container", "kubernetes"] | None = None
    toolchain: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")] | None = None
    network: Literal["none", "egress"] | None = None
    limits: LimitsBody | None = None
    credentials: Annotated[list[Credential], Meta(max_length=50)] = msgspec.field(default_factory=list[Credential])

    def __post_init__(self) -> None:
        names = [item.env for item in self.credentials if isinstance(item, SecretCredential)]
        if len(set(names)) != len(names):
            raise WrongField("credentials", "two of them use the same env name")
        if self.schedule_type == "scheduled" and self.scheduled_for is None:
            raise WrongField("scheduledFor", "is needed with scheduleType scheduled")
        if self.schedule_type != "scheduled" and self.scheduled_for is not None:
            raise WrongField("scheduledFor", "goes with scheduleType scheduled only")
        if self.schedule_type == "recurring" and self.recurrence_config is None:
            raise WrongField("recurrenceConfig", "is needed with scheduleType recurring")
        if self.schedule_type != "recurring" and self.recurrence_config is not None:
            raise WrongField("recurrenceConfig", "goes with scheduleType recurring only")
        _require_calendar("scheduledFor", self.scheduled_for)


class SubmitTasks(Wire):
    """Body of `POST /tasks/bulk`: all or none."""

    tasks: Annotated[list[SubmitTask], Meta(min_length=1, max_length=1000)]


class PatchQueue(Wire):
    """Body of `PATCH /queues/{name}`; takes effect at once, running tasks finish."""

    slots: Annotated[int, Meta(ge=0, le=1000)] | None = None
    paused: bool | None = None
