"""Every metric and every log event, declared once. What is not here can't be counted or said.

Labels are from small closed sets, so that cardinality is bounded. A `Meter` is called once a batch with the sums.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct


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
END_TO_END = Metric("howk_end_to_end_seconds", "histogram", f"From acceptance, or deliver_at, to delivered, {_SECONDS}")
RETRIES = Metric("howk_retries_total", "counter", "Retries scheduled", ("reason",))
RETRY_DEPTH = Metric("howk_retry_queue_depth", "gauge", "Deliveries that wait for a retry or their time")
BACKLOG = Metric("howk_backlog", "gauge", "Records not yet taken by their room", ("stream",))
DEAD = Metric("howk_dlq_total", "counter", "Deliveries given up", ("reason",))
IN_FLIGHT = Metric("howk_in_flight", "gauge", "Attempts under way")
APPEND = Metric("howk_log_append_seconds", "histogram", f"Time of one append to the log, {_SECONDS}")
REBUILD = Metric("howk_rebuild_progress_ratio", "gauge", "How much of hot state is rebuilt, 1 when all of it is")
REQUESTS = Metric("howk_http_requests_total", "counter", "Requests answered", ("route", "status"))
STALE = Metric("howk_stale_records_total", "counter", "Delivery records finished unsent because they were not current")
STAGE_RETRIES = Metric("howk_stage_retries_total", "counter", "Calls of a stage that have to be made again", ("stage",))
SLOW_LANE = Metric("howk_slow_lane_total", "counter", "Delivery records put into the slow lane")
HELD = Metric("howk_held", "gauge", "Deliveries that are held, by what holds them", ("reason",))
CIRCUITS_OPEN = Metric("howk_circuits_open", "gauge", "Endpoints whose breaker is not closed")
CIRCUIT_MOVES = Metric("howk_circuit_transitions_total", "counter", "Breakers that came into a state", ("to",))
POISON = Metric(
    "howk_poison_records_total", "counter", "Records that made their room fail, and were refused", ("stage",)
)
DIALS = Metric("howk_connections_dialled_total", "counter", "Connections to receivers begun")
REUSES = Metric("howk_connections_reused_total", "counter", "Attempts sent on a connection that was open already")
STALE_CONNECTIONS = Metric(
    "howk_connections_stale_total", "counter", "Kept connections that turned out closed, and were replaced"
)
CONNECTIONS = Metric("howk_connections", "gauge", "Connections to receivers", ("state",))
LOG_SIZE = Metric("howk_log_size_bytes", "gauge", "Size of the log on disk", ("part",))
LOG_USED = Metric("howk_log_used_bytes", "gauge", "Size of what the log keeps, without what is written over")
LOG_BUDGET = Metric("howk_log_budget_bytes", "gauge", "Size of what the log keeps at which the door closes")
TRIMMED = Metric("howk_log_trimmed_records_total", "counter", "Finished records that were dropped", ("stream",))
LINES_DROPPED = Metric(
    "howk_log_lines_dropped_total", "counter", "Log lines dropped because nobody read the ones before"
)

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
    SLOW_LANE,
    HELD,
    CIRCUITS_OPEN,
    CIRCUIT_MOVES,
    POISON,
    DIALS,
    REUSES,
    STALE_CONNECTIONS,
    CONNECTIONS,
    LOG_SIZE,
    LOG_USED,
    LOG_BUDGET,
    TRIMMED,
    LINES_DROPPED,
)

Level = Literal["debug", "info", "warning", "error"]

Event = Literal[
    "started",
    "stopping",
    "stopped",
    "partly_running",
    "trial_mode",
    "setting_without_effect",
    "key_generated",
    "rebuild_started",
    "rebuild_finished",
    "stage_retry",
    "stage_stalled",
    "undecodable",
    "cut_off",
    "attempt",
    "poison",
    "refused",
    "internal",
    "lines_dropped",
    "certificate_renewed",
    "certificate_refused",
    "breaker_opened",
    "breaker_closed",
    "endpoint_disabled",
    "endpoint_enabled",
    "endpoint_paused",
    "history_shortened",
    "log_filling",
    "door_closed",
    "door_opened",
]

ATTEMPT_LEVELS: Mapping[str, Level] = {
    "delivered": "debug",
    "failed": "warning",
    "rejected": "warning",
    "undecodable": "warning",
    "held": "debug",
    "cancelled": "info",
}
"""The level of the line of an attempt, by its outcome. What went well is `debug`: at full load its lines cost more than
the 3 µs a delivery that they may."""


class Attempt(Struct, frozen=True, omit_defaults=True):
    """The one line of an attempt: every id and figure, and nothing of a payload, a header or a query.

    `at` is when its outcome was known, in Unix milliseconds; what did not happen (a phase, an error) is left out, for
    which it has to be the very default: an int 0.
    """

    webhook_id: str
    config_id: str
    attempt: int
    max_attempts: int
    series: int
    gen: int
    outcome: str
    next_state: str
    at: int
    endpoint: str = ""
    status_code: int = 0
    reason: str = ""
    error: str = ""
    duration_ms: float = 0
    dns_ms: float = 0
    connect_ms: float = 0
    tls_ms: float = 0
    first_byte_ms: float = 0
    payload_bytes: int = 0
    answer_bytes: int = 0
    event_id: str = ""
    source: str = ""
    """Where the record stood, when it could not be read."""


class Meter(Protocol):
    """Where counts go. Calls are cheap and never fail."""

    def count(self, metric: Metric, amount: int = 1, label: str = "", second: str = "") -> None: ...

    def observe(self, metric: Metric, values: Sequence[float]) -> None: ...

    def gauge(self, metric: Metric, value: float, label: str = "") -> None: ...


class Reporter(Protocol):
    """Where log lines go. One call is one structured line; fields are ids and figures, never secrets. No call waits for
    whoever reads the lines."""

    def wants(self, level: Level) -> bool:
        """Whether lines of this level are written: what is not need not be made."""
        ...

    def attempts(self, attempts: Sequence[Attempt]) -> None:
        """One line for each, in one write."""
        ...

    def say(self, event: Event, message: str, **fields: str | int | float) -> None:
        """Something an operator wants to know."""
        ...

    def warn(self, event: Event, message: str, **fields: str | int | float) -> None:
        """Something an operator has to look at."""
        ...

    def fail(self, event: Event, message: str, **fields: str | int | float) -> None:
        """A fault of howk's own: something to report."""
        ...
