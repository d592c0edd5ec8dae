"""Every setting of howk, declared once: a frozen tree from which environment names, file keys, flags, the
reference and the redacted dump are made. Declarations only: no I/O, no knowledge of sources."""
# ruff: noqa: RUF009 - `active` and `planned` return a dataclass field; its default is immutable

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from howk.runtime.declaring import active, planned, planned_family, section
from howk.runtime.kinds import (
    BOOL,
    COUNT,
    COUNT_OR_ZERO,
    DISK_BUDGET,
    DURATION,
    DURATION_OR_ZERO,
    HEADER,
    HEADER_VALUE,
    NAME,
    NETWORK,
    PATH,
    PROXY,
    RATE,
    RATIO,
    RAW,
    URL,
    Network,
    choice,
    listed,
    optional,
    or_empty,
    size,
)
from howk.runtime.notation import Percent
from howk.runtime.settings_backends import Kafka, Postgres, Redis
from howk.runtime.settings_doors import API, GRPC, Metrics, Security

LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
TracingProtocol = Literal["grpc", "http/protobuf"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Sending to receivers."""

    timeout: float = active(DURATION, "30s", "Longest one attempt may take, from connecting to the answer's end.")
    connect_timeout: float = active(DURATION, "10s", "Longest wait for a connection.")
    tls_handshake_timeout: float = active(DURATION, "10s", "Longest wait for a TLS handshake.")
    max_in_flight: int = active(COUNT, "512", "Most attempts under way at once, of each process.")
    max_idle_conns: int = active(COUNT_OR_ZERO, "100", "Most idle connections kept open, over all hosts.")
    max_conns_per_host: int = active(COUNT, "100", "Most connections open to one host.")
    idle_conn_timeout: float = active(DURATION, "90s", "Time after which an idle connection is closed.")
    response_capture: int = active(size(), "16KiB", "Part of a response's body that is kept.")
    max_age: float = active(DURATION, "14d", "Time after which a delivery that has not ended is given up.")
    max_delay_ahead: float = active(DURATION, "30d", "Furthest `deliver_at` may lie ahead.")
    fresh_rate: float = active(RATE, "1000", "First attempts of one scope before the rest takes the slow lane.")
    drain: float = active(DURATION_OR_ZERO, "35s", "Time that attempts under way get to end when howk stops.")
    allow_private_networks: bool | None = active(
        optional(BOOL), "", "Whether receivers in private networks may be called; unset leaves it to howk."
    )
    allowed_networks: tuple[Network, ...] = active(listed(NETWORK), "", "Networks that may be called in any case.")
    blocked_networks: tuple[Network, ...] = active(listed(NETWORK), "", "Networks that are never called.")
    proxy: str = active(
        or_empty(PROXY),
        "",
        "Forward proxy, `http://user:password@host:port`, through which every delivery goes, by CONNECT.",
        secret=True,
    )
    user_agent: str = active(HEADER_VALUE, "", "User-Agent that receivers see; empty is `howk/<version>`.")


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries of a delivery that has no policy of its own."""

    base_delay: float = active(DURATION, "10s", "Delay before the first retry; it doubles with each.")
    max_delay: float = active(DURATION, "24h", "Longest delay before a retry, `Retry-After` included.")
    max_attempts: int = active(COUNT, "20", "Attempts in all, the first included.")
    jitter: float = active(RATIO, "0.2", "Share of the delay by which it is moved, either way.")


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """When calls to a failing endpoint are held back."""

    failure_threshold: int = active(COUNT, "5", "Failures within the window that open the breaker.")
    failure_ratio: float = active(RATIO, "0.5", "Least share of failures in the window that opens it.")
    failure_window: float = active(DURATION, "60s", "Time over which results are counted.")
    recovery_timeout: float = active(DURATION, "5m", "Time from opening to the first probe.")
    probe_interval: float = active(DURATION, "60s", "Time between probes that fail.")
    success_threshold: int = active(COUNT, "2", "Good probes in a row that close it.")


@dataclass(frozen=True, slots=True)
class Concurrency:
    """How much of howk one receiver may occupy."""

    max_inflight_per_endpoint: int = active(COUNT, "50", "Most calls under way to one endpoint.")
    max_inflight_per_domain: int = active(COUNT_OR_ZERO, "0", "Most calls under way to one domain; 0 sets no limit.")
    slow_lane_rate: float = active(RATE, "20", "Calls a second to one endpoint when it recovers; it doubles every 5 s.")


@dataclass(frozen=True, slots=True)
class Scheduler:
    """Finding the retries that are due."""

    poll_interval: float = active(DURATION, "1s", "Longest sleep; it is woken earlier when something is due.")
    batch_size: int = active(COUNT, "500", "Most retries claimed at once.")
    lock_timeout: float = active(DURATION, "30s", "Lease of a claim; what is not done by then may be claimed again.")


@dataclass(frozen=True, slots=True)
class TTL:
    """How long hot state remembers."""

    circuit_state_ttl: float = active(DURATION, "24h", "State of an open breaker that sees no traffic.")
    status_ttl: float = active(DURATION, "168h", "Status of a delivery, from its end.")
    status_max: int = active(COUNT, "2000000", "Most statuses of ended deliveries; the oldest go first.")
    stats_ttl: float = active(DURATION, "48h", "Counts behind GET /stats; below 24h its day is shorter.")
    idempotency_ttl: float = active(DURATION, "24h", "Idempotency keys, from acceptance.")
    retry_data_ttl: float = planned(DURATION, "168h", "Accepted for the Go system's files: retry data never expires.")


@dataclass(frozen=True, slots=True)
class Scripting:
    """Scripts in one language."""

    enabled: bool = planned(BOOL, "false", "Whether scripts run; a delivery that needs one is else dead-lettered.")
    timeout: float = planned(DURATION, "500ms", "CPU time of one run, waits for effects excluded.")
    max_wall: float = planned(DURATION, "30s", "Longest one run may take, waits included.")
    memory_limit_mb: int = planned(COUNT, "50", "Memory of one run, in MiB.")
    allowed_hosts: tuple[str, ...] = planned(listed(NAME), "*", "Hosts scripts may call; `*.example.com` is a pattern.")
    http_timeout: float = planned(DURATION, "5s", "Longest wait for an HTTP call of a script.")
    http_cache_enabled: bool = planned(BOOL, "true", "Whether answers to scripts' HTTP calls are cached.")
    http_cache_ttl: float = planned(DURATION, "5m", "Time that such answers are cached.")
    kv_ttl_default: float = planned(DURATION, "24h", "Life of a `kv` entry that names none.")


@dataclass(frozen=True, slots=True)
class Lua(Scripting):
    """Lua scripts, and what both languages share."""

    crypto_keys: Mapping[str, str] = planned_family(
        "HOWK_LUA_CRYPTO_",
        RAW,
        "RSA private keys, as PEM or a path to it, that scripts decrypt with.",
        secret=True,
    )
    allow_hosts_by_namespace: Mapping[str, tuple[str, ...]] = planned_family(
        "HOWK_LUA_ALLOW_HOSTNAME_",
        listed(NAME),
        "Hosts of one namespace, in place of `lua.allowed_hosts`.",
        fold=True,
    )


@dataclass(frozen=True, slots=True)
class JS(Scripting):
    """JavaScript scripts."""


@dataclass(frozen=True, slots=True)
class Transformer:
    """Scripts from files, for `POST /incoming/{name}`."""

    script_dirs: tuple[str, ...] = planned(listed(NAME), "", "Directories of scripts.")
    passwd_dirs: tuple[str, ...] = planned(
        listed(NAME), "", "Directories of password files; empty is the scripts' own."
    )


@dataclass(frozen=True, slots=True)
class DLQ:
    """What a dead letter shows."""

    redact_headers: tuple[str, ...] = active(
        listed(HEADER),
        "authorization, proxy-authorization, cookie, set-cookie, x-api-key, api-key, x-auth-token, "
        "x-access-token, x-csrf-token, x-amz-security-token, x-vault-token, x-gitlab-token",
        "Headers whose values are sealed in records and hidden when shown.",
    )
    disable_redaction: bool = planned(BOOL, "false", "Show every header's value in dead letters.")
    include_response_body: bool = planned(BOOL, "false", "Keep the last response's body in dead letters.")


@dataclass(frozen=True, slots=True)
class Retention:
    """How long finished records stay in the log, from when they were written; unfinished work is never dropped."""

    events: float = planned(DURATION, "7d", "Events, after they are finished.")
    pending: float = active(DURATION, "7d", "Deliveries, of both lanes.")
    results: float = active(DURATION, "7d", "Results; what a rebuild of hot state knows of what has ended.")
    deadletter: float = active(DURATION, "7d", "Dead letters.")
    max_log_size: int | Percent = active(
        DISK_BUDGET, "80%", "Size of what the log keeps, or share of its disk, at which the door closes."
    )


@dataclass(frozen=True, slots=True)
class Tracing:
    """Traces, sent by OpenTelemetry's protocol."""

    enabled: bool = planned(BOOL, "false", "Whether traces are made and sent.")
    endpoint: str = planned(or_empty(URL), "http://localhost:4317", "Collector that takes them, as a URL.")
    protocol: TracingProtocol = planned(choice("grpc", "http/protobuf"), "grpc", "Protocol of the collector.")
    headers: tuple[str, ...] = planned(listed(NAME), "", "Headers for the collector, each `name=value`.", secret=True)
    timeout: float = planned(DURATION, "10s", "Longest wait for the collector.")
    sample_ratio: float = planned(RATIO, "1", "Share of traces that are kept.")
    service_name: str = planned(NAME, "howk", "Name of the service in traces.")


@dataclass(frozen=True, slots=True)
class Logging:
    """Log lines, on standard error."""

    level: LogLevel = active(choice("debug", "info", "warning", "error"), "info", "Least level that is written.")
    format: LogFormat = active(
        choice("auto", "human", "json"),
        "auto",
        "Form of a line; `auto` is `human` on a terminal and `json` elsewhere.",
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole tree."""

    config: Path | None = active(optional(PATH), "", "Configuration file, in place of the usual places.")
    data_dir: Path = active(PATH, "./howk-data", "Directory in which the embedded engine keeps everything.")
    api: API = section(API)
    grpc: GRPC = section(GRPC)
    metrics: Metrics = section(Metrics)
    kafka: Kafka = section(Kafka)
    redis: Redis = section(Redis)
    postgres: Postgres = section(Postgres)
    delivery: Delivery = section(Delivery)
    retry: Retry = section(Retry)
    circuit_breaker: CircuitBreaker = section(CircuitBreaker)
    concurrency: Concurrency = section(Concurrency)
    scheduler: Scheduler = section(Scheduler)
    ttl: TTL = section(TTL)
    lua: Lua = section(Lua)
    js: JS = section(JS)
    transformer: Transformer = section(Transformer)
    dlq: DLQ = section(DLQ)
    retention: Retention = section(Retention)
    security: Security = section(Security)
    tracing: Tracing = section(Tracing)
    logging: Logging = section(Logging)


def unbuilt_engines(settings: Settings) -> list[str]:
    """The sentences that refuse the start when a server is set that this version cannot use."""
    chosen = {
        "kafka.brokers": settings.kafka.brokers,
        "redis.addr": settings.redis.addr,
        "postgres.dsn": settings.postgres.dsn,
    }
    return [
        f"{name} is set, but this version has only the embedded engine: "
        f"unset HOWK_{name.upper().replace('.', '_')} and take {name} out of the configuration file."
        for name, value in chosen.items()
        if value
    ]
