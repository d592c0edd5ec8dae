"""The tree of settings: its defaults, that nothing can change it, and the reference made from it."""

from dataclasses import FrozenInstanceError, fields, is_dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest

from howk.runtime.declaring import build, keys_of, sections_of, value_of
from howk.runtime.notation import Percent
from howk.runtime.settings import Settings, unbuilt_engines
from howk.runtime.settings_reference import reference_table

KEYS = list(keys_of(Settings))
REFERENCE = Path(__file__).parents[2] / "docs/reference/settings.md"

IN_EFFECT = """
    config data_dir api.host api.port api.read_timeout api.write_timeout api.max_payload_size api.max_request_size
    api.max_batch_size api.max_batch api.auth api.keys api.tls.cert api.tls.key api.tls.client_ca api.tls.min_version
    api.rate_limit.key
    delivery.timeout delivery.connect_timeout delivery.max_in_flight
    delivery.max_idle_conns
    delivery.max_conns_per_host delivery.idle_conn_timeout delivery.tls_handshake_timeout
    delivery.response_capture delivery.max_age delivery.max_delay_ahead
    delivery.drain delivery.allow_private_networks delivery.allowed_networks
    delivery.blocked_networks delivery.proxy delivery.user_agent delivery.fresh_rate retry.base_delay retry.max_delay
    retry.max_attempts retry.jitter scheduler.poll_interval scheduler.batch_size scheduler.lock_timeout
    ttl.circuit_state_ttl ttl.idempotency_ttl ttl.stats_ttl ttl.status_ttl ttl.status_max metrics.port
    dlq.redact_headers security.encryption_key logging.level logging.format circuit_breaker.failure_threshold
    circuit_breaker.failure_ratio circuit_breaker.failure_window circuit_breaker.recovery_timeout
    circuit_breaker.probe_interval circuit_breaker.success_threshold concurrency.max_inflight_per_endpoint
    concurrency.max_inflight_per_domain concurrency.slow_lane_rate
    retention.pending retention.results retention.deadletter retention.max_log_size
"""

SECTIONS = """
    api grpc metrics kafka redis postgres delivery retry circuit_breaker concurrency scheduler ttl lua js
    transformer dlq retention security tracing logging
"""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_dir", Path("howk-data")),
        ("api.host", "127.0.0.1"),
        ("api.port", 8080),
        ("api.max_payload_size", 2**20),
        ("api.max_request_size", 2 * 2**20),
        ("api.max_batch_size", 16 * 2**20),
        ("api.max_batch", 1000),
        ("api.auth", "auto"),
        ("api.tls.min_version", "1.2"),
        ("grpc.port", 50051),
        ("metrics.port", 8083),
        ("kafka.brokers", ()),
        ("kafka.consumer_group", "howk-workers"),
        ("kafka.linger", 0.001),
        ("kafka.compression", "lz4"),
        ("kafka.partitions.pending", 6),
        ("kafka.partitions.control", 3),
        ("delivery.timeout", 30),
        ("delivery.max_in_flight", 512),
        ("delivery.max_conns_per_host", 100),
        ("delivery.response_capture", 16_384),
        ("delivery.max_age", 14 * 86_400),
        ("delivery.drain", 35),
        ("delivery.allow_private_networks", None),
        ("delivery.user_agent", ""),
        ("retry.base_delay", 10),
        ("retry.max_delay", 86_400),
        ("retry.max_attempts", 20),
        ("retry.jitter", 0.2),
        ("circuit_breaker.failure_ratio", 0.5),
        ("circuit_breaker.recovery_timeout", 300),
        ("concurrency.slow_lane_rate", 20),
        ("scheduler.batch_size", 500),
        ("ttl.status_ttl", 604_800),
        ("ttl.status_max", 2_000_000),
        ("lua.timeout", 0.5),
        ("lua.allowed_hosts", ("*",)),
        ("js.max_wall", 30),
        ("retention.max_log_size", Percent(80)),
        ("security.encryption_key", None),
    ],
)
def test_a_key_has_its_documented_default(key: str, value: object) -> None:
    assert value_of(Settings(), key) == value


def test_exactly_the_keys_this_version_acts_on_are_marked_so() -> None:
    assert {key.name for key in KEYS if key.effect} == set(IN_EFFECT.split())


def test_every_section_is_declared() -> None:
    assert {name for name, _ in sections_of(Settings) if "." not in name} == set(SECTIONS.split())


def test_every_key_has_an_environment_name_of_its_own() -> None:
    names = [key.env for key in KEYS]
    assert len(names) == len(set(names))


def test_every_default_is_text_that_its_kind_reads() -> None:
    read = {key.name: key.kind.parse(key.default) for key in KEYS if not key.family}
    assert build(Settings, read) == Settings()


def test_every_description_is_one_sentence() -> None:
    assert [key.name for key in KEYS if "\n" in key.description or not key.description.endswith(".")] == []


def test_every_field_says_what_it_is() -> None:
    trees = [Settings(), *(value_of(Settings(), name) for name, _ in sections_of(Settings))]
    plain = [each for tree in trees if is_dataclass(tree) for each in fields(tree) if "section" not in each.metadata]
    assert len(plain) == len(KEYS)
    assert all({"description", "effect", "secret", "unit"} <= each.metadata.keys() for each in plain)


@pytest.mark.parametrize("name", ["", *(name for name, _ in sections_of(Settings))])
def test_no_part_of_the_tree_can_be_changed(name: str) -> None:
    part = value_of(Settings(), name) if name else Settings()
    assert is_dataclass(part)
    assert not hasattr(part, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(part, fields(part)[0].name, None)


def test_no_value_of_the_tree_can_be_changed() -> None:
    settings = Settings()
    assert not [key.name for key in KEYS if isinstance(value_of(settings, key.name), list | dict | set | bytearray)]
    with pytest.raises(TypeError):
        settings.lua.crypto_keys["x"] = "y"  # pyright: ignore[reportIndexIssue]


def test_networks_are_networks() -> None:
    built = build(Settings, {"delivery.allowed_networks": (ip_network("10.0.0.0/8"),)})
    assert built.delivery.allowed_networks == (ip_network("10.0.0.0/8"),)


def test_no_server_set_refuses_no_start() -> None:
    assert unbuilt_engines(Settings()) == []


@pytest.mark.parametrize(
    ("key", "value", "variable"),
    [
        ("kafka.brokers", ("kafka:9092",), "HOWK_KAFKA_BROKERS"),
        ("redis.addr", "redis:6379", "HOWK_REDIS_ADDR"),
        ("postgres.dsn", "postgresql://me:hunter2@db/howk", "HOWK_POSTGRES_DSN"),
    ],
)
def test_a_server_this_version_cannot_use_refuses_the_start_in_words(key: str, value: object, variable: str) -> None:
    (sentence,) = unbuilt_engines(build(Settings, {key: value}))
    assert sentence.startswith(f"{key} is set, but this version has only the embedded engine")
    assert variable in sentence
    assert "hunter2" not in sentence


def test_the_reference_in_docs_is_the_one_made_from_the_tree() -> None:
    assert REFERENCE.read_text("utf-8") == reference_table(), (
        "make it again: python -m howk.runtime.settings_reference > docs/reference/settings.md"
    )


def test_the_reference_names_every_key_and_variable() -> None:
    page = reference_table()
    assert [key.name for key in KEYS if f"| `{key.name}` | `{key.env}` |" not in page] == []
