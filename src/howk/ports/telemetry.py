"""Every metric and every log event, declared once. What is not here can't be counted or said.

Labels are from small closed sets, so that cardinality is bounded. A `Meter` is called once a batch with the sums.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol


class Metric(NamedTuple):
    """A series as Prometheus shows it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


_SECONDS = "in seconds"

RECEIVED = Metric("howk_webhooks_received_total", "counter", "Webhooks accepted and durable", ("route",))
DELIVERIES = Metric("howk_deliveries_total", "counter", "Deliveries that ended", ("outcome",))
ATTEMPTS = Metric("howk_attempts_total", "counter", "Attempts that had an outcome", ("outcome",))
ERRORS = Metric("howk_delivery_errors_total", "counter", "Attempts that got no answer", ("kind",))
DURATION = Metric("howk_delivery_duration_seconds", "histogram", f"Time of one attempt, {_SECONDS}")
END_TO_END = Metric("howk_end_to_end_seconds", "histogram", f"From acceptance to delivered, {_SECONDS}")
RETRIES = Metric("howk_retries_total", "counter", "Retries scheduled", ("reason",))
RETRY_DEPTH = Metric("howk_retry_queue_depth", "gauge", "Deliveries that wait for a retry")
BACKLOG = Metric("howk_backlog", "gauge", "Records not yet taken by their room", ("stream",))
DEAD = Metric("howk_dlq_total", "counter", "Deliveries given up", ("reason",))
IN_FLIGHT = Metric("howk_in_flight", "gauge", "Attempts under way")
APPEND = Metric("howk_log_append_seconds", "histogram", f"Time of one append to the log, {_SECONDS}")
REBUILD = Metric("howk_rebuild_progress_ratio", "gauge", "How much of hot state is rebuilt, 1 when all of it is")
REQUESTS = Metric("howk_http_requests_total", "counter", "Requests answered", ("route", "status"))
STALE = Metric("howk_stale_records_total", "counter", "Delivery records finished unsent because they were not current")
STAGE_RETRIES = Metric("howk_stage_retries_total", "counter", "Calls of a stage that have to be made again", ("stage",))

METRICS: tuple[Metric, ...] = (
    RECEIVED,
    DELIVERIES,
    ATTEMPTS,
    ERRORS,
    DURATION,
    END_TO_END,
    RETRIES,
    RETRY_DEPTH,
    BACKLOG,
    DEAD,
    IN_FLIGHT,
    APPEND,
    REBUILD,
    REQUESTS,
    STALE,
    STAGE_RETRIES,
)

Event = Literal[
    "started",
    "stopping",
    "stopped",
    "trial_mode",
    "setting_without_effect",
    "key_generated",
    "rebuild_started",
    "rebuild_finished",
    "stage_retry",
    "stage_stalled",
    "undecodable",
    "cut_off",
    "certificate_renewed",
    "certificate_refused",
]


class Meter(Protocol):
    """Where counts go. Calls are cheap and never fail."""

    def count(self, metric: Metric, amount: int = 1, label: str = "", second: str = "") -> None: ...

    def observe(self, metric: Metric, values: Sequence[float]) -> None: ...

    def gauge(self, metric: Metric, value: float, label: str = "") -> None: ...


class Reporter(Protocol):
    """Where log lines go. One call is one structured line; fields are ids and figures, never secrets."""

    def say(self, event: Event, message: str, **fields: str | int | float) -> None:
        """Something an operator wants to know."""
        ...

    def warn(self, event: Event, message: str, **fields: str | int | float) -> None:
        """Something an operator has to look at."""
        ...
