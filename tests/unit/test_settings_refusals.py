"""What is wrong with settings is refused by name, all of it at once."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from howk.runtime.loading import Loaded, Problem, SettingsError, load

FILE = Path("config.yaml")


def loaded(
    file: str | None = None, *, env: Mapping[str, str] | None = None, flags: Mapping[str, str] | None = None
) -> Loaded:
    return load(env or {}, flags or {}, [FILE], lambda path: file if path == FILE else None)


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


@pytest.mark.parametrize(
    ("file", "key", "message"),
    [
        ("api: {prot: 1}", "api.prot", "did you mean api.port?"),
        ("apii: {port: 1}", "apii", "did you mean api?"),
        ("retry: {max_attemps: 3}", "retry.max_attemps", "did you mean retry.max_attempts?"),
        ("nonsense: {a: 1}", "nonsense", "is not a setting of howk"),
        ("api: 3", "api", "must be a section"),
        ("- api", "the file", "must be a section"),
        ("just text", "the file", "must be a section"),
        ("api.port: 3", "api.port", "without dots"),
        ("config: x", "config", "cannot be set in the file itself"),
        ("lua: {crypto_keys: text}", "lua.crypto_keys", "must be a mapping"),
        ("on: 1", "True", "is not a setting"),
        ("api: {port: 70000}", "api.port", "is '70000': must be a whole number from 0 to 65535"),
        ("api: {auth: nobody}", "api.auth", "is 'nobody': must be one of auto, keys, none"),
        ("api: {max_batch: 0}", "api.max_batch", "from 1 to"),
        ("api: {max_payload_size: 1MX}", "api.max_payload_size", "is '1MX': must be a size"),
        ("api: {tls: {min_version: 1.1}}", "api.tls.min_version", "is '1.1': must be one of 1.2, 1.3"),
        ("retry: {max_attempts: 0}", "retry.max_attempts", "is '0'"),
        ("retry: {jitter: 1.5}", "retry.jitter", "from 0 to 1"),
        ("delivery: {timeout: 0s}", "delivery.timeout", "above 0s"),
        ("delivery: {timeout: [1]}", "delivery.timeout", "must be a duration"),
        ("logging: {level: loud}", "logging.level", "debug, info, warning, error"),
    ],
)
def test_what_is_wrong_in_the_file_is_refused_by_name(file: str, key: str, message: str) -> None:
    (problem,) = problems(file)
    assert (problem.key, problem.origin) == (key, "file config.yaml")
    assert message in problem.message


@pytest.mark.parametrize(
    ("file", "key", "message"),
    [
        ("api:\n  port: 1\n  port: 2\n", "api.port", "is there twice, in lines 2 and 3"),
        ("retry: {}\napi: {}\nretry: {}\n", "retry", "is there twice, in lines 1 and 3"),
        ("lua: {allowed_hosts: [{a: 1, a: 2}]}", "lua.allowed_hosts.a", "is there twice"),
        ("api: [\n", "config", "is not valid YAML at line 2"),
        ("api: *hunter2\n", "config", "is not valid YAML at line 1, column 6"),
        ("api: !hunter2 x\n", "config", "is not valid YAML at line 1, column 6"),
        ("a: 1\n---\nb: 2\n", "config", "is not valid YAML"),
        ("api: {port: 2024-99-99}\n", "config", "is not valid YAML"),
        ("a: \x00", "config", "is not valid YAML"),
        ("[" * 5000, "config", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_clear_yaml_is_refused(file: str, key: str, message: str) -> None:
    (problem,) = problems(file)
    assert problem.key == key
    assert message in problem.message
    assert "hunter2" not in str(problem)


def test_anchors_and_merges_are_no_repeats() -> None:
    file = "grpc: {tls: &tls {cert: a, key: b}}\napi: {tls: {<<: *tls, key: c}}"
    tls = loaded(file).settings.api.tls
    assert (tls.cert, tls.key) == ("a", "c")


def test_an_alias_that_leads_back_to_itself_ends() -> None:
    assert problems("api: &a {tls: *a, port: 1}")[0].key == "api.tls.tls"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("HOWK_API_PROT", "did you mean HOWK_API_PORT?"),
        ("HOWK_DATADIR", "did you mean HOWK_DATA_DIR?"),
        ("HOWK_APII_PORT", "did you mean HOWK_API_PORT?"),
        ("HOWK_LUA_CRYPTO_", "did you mean HOWK_LUA_CRYPTO_<NAME>?"),
        ("HOWK_SOMETHING_ELSE_ENTIRELY", "is not a setting of howk"),
        ("HOWK_", "is not a setting"),
    ],
)
def test_an_unknown_variable_is_refused_by_name(name: str, hint: str) -> None:
    (problem,) = problems(env={name: "hunter2"})
    assert problem.key == name
    assert hint in problem.message
    assert "hunter2" not in str(problem)


def test_an_unknown_flag_is_refused_by_name() -> None:
    (problem,) = problems(flags={"api.prot": "1"})
    assert str(problem) == "api.prot (flag) is not a setting; did you mean api.port?"


def test_all_problems_of_all_sources_are_told_at_once() -> None:
    found = problems(
        "api: {port: x}\nnope: 1",
        env={"HOWK_RETRY_JITTER": "2", "HOWK_NOPE": "1"},
        flags={"api.port": "y", "retry.max_attempts": "0"},
    )
    assert [(problem.key, problem.origin) for problem in found] == [
        ("api.port", "file config.yaml"),
        ("nope", "file config.yaml"),
        ("HOWK_NOPE", "env"),
        ("retry.jitter", "env HOWK_RETRY_JITTER"),
        ("api.port", "flag"),
        ("retry.max_attempts", "flag"),
    ]
