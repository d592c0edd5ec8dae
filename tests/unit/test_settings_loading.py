"""Where settings come from: precedence and origins, files, families, and variables that are not ours."""

import hashlib
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest

from howk.runtime.declaring import Key, keys_of, value_of
from howk.runtime.loading import (
    Loaded,
    Problem,
    SettingsError,
    load,
    load_from_process,
    search_paths,
)
from howk.runtime.settings import Settings

HOME = Path("/home/me/.howk/config.yaml")
ETC = Path("/etc/howk/config.yaml")
SEARCH = (Path("config.yaml"), HOME, ETC)
KEYS = list(keys_of(Settings))
HASH = hashlib.sha256(b"hk_example").hexdigest()


def loaded(
    file: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    files: Mapping[Path, str] | None = None,
    search: Sequence[Path] = SEARCH,
) -> Loaded:
    texts = dict(files or {}) | ({} if file is None else {SEARCH[0]: file})
    return load(env or {}, flags or {}, search, texts.get)


def problems(
    file: str | None = None,
    *,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        loaded(file, env=env, flags=flags)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]
    return caught.value.problems


def test_with_nothing_said_everything_is_default() -> None:
    result = loaded()
    assert result.settings == Settings()
    assert set(result.origins.values()) == {"default"}
    assert result.inert == []


def test_flags_beat_the_environment_which_beats_the_file_which_beats_the_default() -> None:
    file = "retry: {base_delay: 1s, max_delay: 1m, max_attempts: 3}"
    env = {"HOWK_RETRY_MAX_DELAY": "2m", "HOWK_RETRY_MAX_ATTEMPTS": "4"}
    result = loaded(file, env=env, flags={"retry.max_attempts": "5"})
    retry = result.settings.retry
    assert (retry.base_delay, retry.max_delay, retry.max_attempts, retry.jitter) == (1, 120, 5, 0.2)
    assert [result.origins[f"retry.{key}"] for key in ("base_delay", "max_delay", "max_attempts", "jitter")] == [
        "file config.yaml",
        "env HOWK_RETRY_MAX_DELAY",
        "flag",
        "default",
    ]


@pytest.mark.parametrize("key", [key for key in KEYS if key.default], ids=lambda key: key.name)
def test_every_key_can_be_set_by_the_environment(key: Key) -> None:
    result = loaded(env={key.env: key.default})
    assert value_of(result.settings, key.name) == value_of(Settings(), key.name)
    assert result.origins[key.name] == f"env {key.env}"


def test_nested_sections_have_underscores_in_the_environment() -> None:
    result = loaded(env={"HOWK_API_TLS_CERT": "/tls/cert.pem", "HOWK_KAFKA_TOPICS_SLOW": "slow"})
    assert result.settings.api.tls.cert == "/tls/cert.pem"
    assert result.settings.kafka.topics.slow == "slow"


def test_lists_are_commas_in_the_environment_and_lists_in_the_file() -> None:
    result = loaded(
        "delivery: {blocked_networks: [192.0.2.0/24, 2001:db8::/32]}",
        env={"HOWK_API_KEYS": f"{HASH}, {HASH.upper()}"},
    )
    assert result.settings.api.keys == (HASH, HASH)
    assert result.settings.delivery.blocked_networks == (
        ip_network("192.0.2.0/24"),
        ip_network("2001:db8::/32"),
    )


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("", None)])
def test_private_networks_may_be_allowed_refused_or_left_open(text: str, value: bool | None) -> None:
    env = {"HOWK_DELIVERY_ALLOW_PRIVATE_NETWORKS": text}
    assert loaded(env=env).settings.delivery.allow_private_networks is value


def test_an_empty_variable_counts_as_not_set() -> None:
    result = loaded(f"api: {{keys: [{HASH}]}}", env={"HOWK_API_KEYS": "", "HOWK_API_PORT": " "})
    assert result.settings.api.keys == (HASH,)
    assert result.origins["api.keys"] == "file config.yaml"
    assert result.settings.api.port == 8080


def test_a_null_in_the_file_counts_as_not_set() -> None:
    assert loaded("api: {port: null}\nkafka:\n").settings == loaded("{}").settings


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_file_is_read_and_says_nothing(text: str) -> None:
    result = loaded(text)
    assert result.settings.config == Path("config.yaml")
    assert {key for key, origin in result.origins.items() if origin != "default"} == {"config"}


def test_the_first_file_of_the_search_is_the_only_one_read() -> None:
    result = loaded(files={HOME: "api: {port: 1}", ETC: "api: {port: 2, host: '::'}"})
    assert (result.settings.api.port, result.settings.api.host) == (1, "127.0.0.1")
    assert result.origins["api.port"] == result.origins["config"] == f"file {HOME}"


def test_a_named_file_replaces_the_search_and_a_flag_names_it_first() -> None:
    files = {Path("a"): "api: {port: 1}", Path("b"): "api: {port: 2}", ETC: "api: {port: 3}"}
    by_env = loaded(env={"HOWK_CONFIG": "a"}, files=files)
    by_flag = loaded(env={"HOWK_CONFIG": "a"}, flags={"config": "b"}, files=files)
    assert (by_env.settings.api.port, by_flag.settings.api.port) == (1, 2)
    assert (by_env.settings.config, by_flag.settings.config) == (Path("a"), Path("b"))
    assert (by_env.origins["config"], by_flag.origins["config"]) == ("env HOWK_CONFIG", "flag")


@pytest.mark.parametrize(
    ("env", "flags", "origin"),
    [({"HOWK_CONFIG": "/nowhere"}, {}, "env HOWK_CONFIG"), ({}, {"config": "/nowhere"}, "flag")],
)
def test_a_named_file_that_does_not_exist_is_refused(env: dict[str, str], flags: dict[str, str], origin: str) -> None:
    (problem,) = problems("api: {port: 1}", env=env, flags=flags)
    assert (problem.key, problem.origin) == ("config", origin)
    assert "'/nowhere'" in problem.message


def test_the_process_is_read_by_the_thin_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOWK_CONFIG", raising=False)
    monkeypatch.setenv("HOWK_RETRY_MAX_ATTEMPTS", "7")
    Path("config.yaml").write_text("\ufeffapi: {port: 9001}", "utf-8")
    result = load_from_process({"api.host": "::1"})
    assert (result.settings.api.host, result.settings.api.port) == ("::1", 9001)
    assert result.settings.retry.max_attempts == 7
    assert search_paths()[0] == Path("config.yaml")
    assert search_paths()[-1] == ETC


@pytest.mark.parametrize(
    ("content", "message"), [(b"\xff\xfe\x00", "is not UTF-8 text"), (None, "cannot be read: Is a directory")]
)
def test_a_file_that_cannot_be_read_is_refused_beside_the_rest(
    content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "howk.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    monkeypatch.setenv("HOWK_CONFIG", str(path))
    with pytest.raises(SettingsError) as caught:
        load_from_process({"api.port": "x"})
    assert [problem.key for problem in caught.value.problems] == ["config", "api.port"]
    assert caught.value.problems[0].message == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOWK_API_PORT", "tcp://10.0.0.1:80"),
        ("HOWK_GRPC_PORT", "tcp://[fd00::1]:50051"),
        ("HOWK_PORT", "tcp://10.0.0.1:80"),
        ("HOWK_REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("HOWK_API_SERVICE_HOST", "10.0.0.1"),
        ("HOWK_API_SERVICE_PORT", "80"),
        ("HOWK_API_SERVICE_PORT_HTTP", "80"),
        ("HOWK_SERVICE_HOST", "10.0.0.1"),
        ("HOWK_API_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("HOWK_API_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("HOWK_API_PORT_80_TCP_PORT", "80"),
        ("HOWK_API_PORT_80_TCP_PROTO", "tcp"),
        ("HOWK_DNS_PORT_53_UDP", "udp://10.0.0.1:53"),
        ("HOWK_LUA_CRYPTO_SERVICE_HOST", "10.0.0.1"),
        ("HOWK_TEST_KAFKA", "localhost:9092"),
        ("HOWKEYE", "1"),
        ("PATH", "/bin"),
    ],
)
def test_a_variable_of_kubernetes_or_of_others_is_ignored(name: str, value: str) -> None:
    assert loaded(env={name: value}) == loaded()


def test_a_bad_port_is_not_taken_for_one_of_kubernetes() -> None:
    (problem,) = problems(env={"HOWK_API_PORT": "eighty"})
    assert (problem.key, problem.origin) == ("api.port", "env HOWK_API_PORT")


def test_families_collect_into_mappings_over_those_of_the_file() -> None:
    result = loaded(
        "lua: {allow_hosts_by_namespace: {music: [old.example], art: [art.example]}}",
        env={
            "HOWK_LUA_ALLOW_HOSTNAME_MUSIC": "api.music.example,*.cdn.example",
            "HOWK_LUA_CRYPTO_PRIMARY": "-----BEGIN\nhunter2\n",
        },
    )
    assert result.settings.lua.allow_hosts_by_namespace == {
        "music": ("api.music.example", "*.cdn.example"),
        "art": ("art.example",),
    }
    assert result.settings.lua.crypto_keys == {"PRIMARY": "-----BEGIN\nhunter2\n"}
    assert result.origins["lua.allow_hosts_by_namespace.music"] == "env HOWK_LUA_ALLOW_HOSTNAME_MUSIC"
    assert result.origins["lua.allow_hosts_by_namespace.art"] == "file config.yaml"
    assert result.inert == ["lua.allow_hosts_by_namespace", "lua.crypto_keys"]


def test_an_entry_of_a_family_may_be_a_flag() -> None:
    result = loaded(flags={"lua.allow_hosts_by_namespace.art": "art.example"})
    assert result.settings.lua.allow_hosts_by_namespace == {"art": ("art.example",)}


def test_keys_that_were_set_and_have_no_effect_are_told_sorted() -> None:
    result = loaded(
        "ttl: {retry_data_ttl: 168h}\napi: {port: 80, rate_limit: {tenant: 5}}", env={"HOWK_LUA_ENABLED": "true"}
    )
    assert result.inert == ["api.rate_limit.tenant", "lua.enabled", "ttl.retry_data_ttl"]


def test_a_file_of_the_go_system_loads() -> None:
    result = loaded(
        """
api: {port: 8080, read_timeout: 10s, write_timeout: 10s, max_request_size: 1048576}
kafka:
  brokers: [localhost:19092]
  topics: {pending: howk.pending, results: howk.results, deadletter: howk.deadletter, slow: howk.slow}
  consumer_group: howk-workers
  retention: 168h
  producer_batch_size: 16384
  producer_linger_ms: 50
  producer_compression: snappy
  consumer_fetch_min_bytes: 1
  consumer_fetch_max_wait: 500ms
  per_key_parallelism: 1
redis: {addr: "localhost:6379", password: "", db: 0, pool_size: 100, min_idle_conns: 10, dial_timeout: 5s}
delivery: {timeout: 30s, max_idle_conns: 100, max_conns_per_host: 10, user_agent: "HOWK/1.0"}
retry: {base_delay: 10s, max_delay: 24h, max_attempts: 20, jitter: 0.2}
circuit_breaker: {failure_threshold: 5, failure_window: 60s, recovery_timeout: 5m, probe_interval: 60s}
scheduler: {poll_interval: 1s, batch_size: 500, lock_timeout: 30s}
ttl: {status_ttl: 168h, retry_data_ttl: 168h}
lua: {enabled: false, timeout: 500ms, memory_limit_mb: 50, allowed_hosts: ["*"], crypto_keys: {}}
"""
    )
    assert result.settings.kafka.producer_linger_ms == 50
    assert result.settings.kafka.consumer_fetch_max_wait == 0.5
    assert result.settings.delivery.max_conns_per_host == 10
    assert {"kafka.producer_linger_ms", "ttl.retry_data_ttl"} <= set(result.inert)
