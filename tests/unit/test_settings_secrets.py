"""What the dump of the settings shows, and that no secret is ever in it, in a repr or in an error."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.runtime.declaring import Key, keys_of
from howk.runtime.loading import Loaded, Problem, SettingsError, load, redacted
from howk.runtime.settings import Settings

FILE = Path("config.yaml")
KEYS = list(keys_of(Settings))
HASH = hashlib.sha256(b"hk_example").hexdigest()
SECRET = "hunter2-correct-horse"
SECRET_KEYS = [key for key in KEYS if key.secret]
VALID_SECRETS = {
    "api.keys": HASH,
    "security.encryption_key": HASH,
    "postgres.dsn": f"postgresql://me:{SECRET}@db/howk",
    "postgres.read_dsn": f"postgresql://me:{SECRET}@db/howk",
    "delivery.proxy": f"http://me:{SECRET}@proxy:3128",
}


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


def test_the_secret_keys_are_those_one_expects() -> None:
    assert {key.name for key in SECRET_KEYS} == {
        "api.keys",
        "delivery.proxy",
        "kafka.security.sasl_password",
        "kafka.security.ssl_key_password",
        "lua.crypto_keys",
        "postgres.dsn",
        "postgres.read_dsn",
        "redis.password",
        "redis.sentinel_password",
        "security.encryption_key",
        "tracing.headers",
    }


def test_no_secret_is_in_the_dump_or_in_the_repr() -> None:
    env = {key.env.replace("<NAME>", "PRIMARY"): VALID_SECRETS.get(key.name, SECRET) for key in SECRET_KEYS}
    result = loaded(env=env)
    shown = {row.key: row for row in redacted(result)}
    for key in SECRET_KEYS:
        row = shown[f"{key.name}.PRIMARY" if key.family else key.name]
        assert row.value == "(set)"
        assert row.origin == f"env {key.env.replace('<NAME>', 'PRIMARY')}"
    everything = f"{result!r}{result.settings!r}{[*shown.values()]}"
    for secret in (SECRET, HASH, repr(bytes.fromhex(HASH))):
        assert secret not in everything


@pytest.mark.parametrize("source", ["env", "file", "flag"])
@pytest.mark.parametrize("key", [key for key in SECRET_KEYS if not key.family], ids=lambda key: key.name)
def test_no_bad_secret_is_in_the_error(key: Key, source: str) -> None:
    bad = f"{SECRET}\x07"
    if source == "env":
        found = problems(env={key.env: bad})
    elif source == "flag":
        found = problems(flags={key.name: bad})
    else:
        *sections, last = key.name.split(".")
        opened = "".join(f"{{{section}: " for section in sections)
        found = problems(f'{opened}{{{last}: "{SECRET}\\a"}}{"}" * len(sections)}')
    (problem,) = found
    assert problem.key == key.name
    assert SECRET not in str(problem)


@pytest.mark.parametrize(
    "value", [f"redis://:{SECRET}@cache:6379", f"me:{SECRET}@cache:6379", f"redis://me:{SECRET}/x@cache:6379"]
)
def test_credentials_in_an_address_are_not_repeated_when_refused(value: str) -> None:
    (problem,) = problems(env={"HOWK_REDIS_ADDR": value})
    assert SECRET not in str(problem)


def test_key_material_in_place_of_a_path_is_not_repeated_when_refused() -> None:
    pem = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n"
    (problem,) = problems(env={"HOWK_API_TLS_KEY": pem})
    assert f"a value of {len(pem)} characters" in problem.message
    assert SECRET not in str(problem)


@given(st.sampled_from(KEYS), st.text(st.characters(codec="utf-8"), min_size=1))
def test_whatever_a_variable_holds_it_is_loaded_or_refused_by_its_name(key: Key, value: str) -> None:
    env = key.env.replace("<NAME>", "X")
    refused: set[str] = set()
    origin = ""
    try:
        origin = loaded(env={env: value}).origins[key.name]
    except SettingsError as error:
        refused = {problem.key.lower().removesuffix(".x") for problem in error.problems}
    assert refused == {key.name} or origin in ("default", f"env {env}")


def test_the_dump_has_every_key_in_order_with_its_origin() -> None:
    rows = redacted(loaded(env={"HOWK_API_PORT": "9000", "HOWK_RETRY_BASE_DELAY": "90s"}))
    assert [row.key for row in rows] == [key.name for key in KEYS]
    by_key = {row.key: (row.value, row.origin) for row in rows}
    assert by_key["api.port"] == ("9000", "env HOWK_API_PORT")
    assert by_key["retry.base_delay"] == ("1m30s", "env HOWK_RETRY_BASE_DELAY")
    assert by_key["api.max_payload_size"] == ("1MiB", "default")
    assert by_key["redis.password"] == ("", "default")
