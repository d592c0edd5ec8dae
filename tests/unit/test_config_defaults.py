"""What a config sets: what is taken, what is refused by name, and whose word holds when an enqueue says something."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.config_defaults import (
    LONGEST_TIMEOUT,
    MOST_IN_FLIGHT,
    MOST_PER_SECOND,
    Config,
    ConfigRequest,
    Fields,
    OrderingAsked,
    RateLimitAsked,
    config_of,
    config_record,
    with_defaults,
)
from howk.domain.errors import Rejected
from howk.domain.records import ConfigRecord, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import Secrets
from howk.domain.signing_request import Signed, Signing
from howk.domain.timing import RetryAsked

DEPLOYMENT = RetryPolicy()
REDACT = frozenset({"authorization", "x-token"})
NOW = 1_750_000_000_000
UNSIGNED = Signed()
NOTHING_SAID = Fields({}, {}, UNSIGNED, None, None)


def _made(**asked: Any) -> tuple[ConfigRecord, Secrets]:
    return config_record("app", ConfigRequest(**asked), NOW, DEPLOYMENT, REDACT)


def _kept(**asked: Any) -> Config:
    """A config as it is read back from its record."""
    record, secrets = _made(**asked)
    return config_of(reader(ConfigRecord)(encode(record)), secrets)


def test_a_config_that_sets_nothing_leaves_everything_to_the_deployment() -> None:
    config = _kept()
    assert config == Config("app", NOW)
    assert with_defaults(NOTHING_SAID, config, REDACT) == NOTHING_SAID


def test_everything_that_is_set_is_kept() -> None:
    config = _kept(
        signing=Signing(profile="standard", secrets=["old", "new"]),
        headers={"X-Shop": "1", "X-Token": "t"},
        retry=RetryAsked(type="fixed", base_delay="5s", max_attempts=4),
        timeout="2500ms",
        rate_limit=RateLimitAsked(per_second=0.5, burst=3),
        max_in_flight=7,
        ordering=OrderingAsked(policy="skip", after=2),
    )
    assert config == Config(
        "app",
        NOW,
        Signed("standard", ("old", "new"), ""),
        {"X-Shop": "1"},
        {"X-Token": "t"},
        RetryPolicy(base_delay=5_000, type="fixed"),
        max_attempts=4,
        timeout=2_500,
        per_second=0.5,
        burst=3,
        max_in_flight=7,
        skip_after=2,
    )


def test_what_is_secret_is_in_what_is_sealed_and_nowhere_else() -> None:
    signing = Signing(secrets=["hunter2"], ed25519_key="whsk_" + "QUFB" * 10 + "QUE=")
    record, secrets = _made(signing=signing, headers={"Authorization": "Bearer hunter2"})
    assert b"hunter2" not in encode(record)
    assert b"whsk_" not in encode(record)
    config = config_of(record, secrets)
    assert "hunter2" not in f"{config} {secrets} {with_defaults(NOTHING_SAID, config, REDACT)}"


def test_a_policy_is_completed_by_the_deployments_and_stands_whole() -> None:
    deployment = RetryPolicy(base_delay=7_000, max_delay=60_000, jitter=0.5)
    record, _ = config_record("app", ConfigRequest(retry=RetryAsked(type="linear")), NOW, deployment, REDACT)
    assert record.retry == RetryPolicy(7_000, 60_000, 0.5, "linear")


def test_attempts_alone_leave_the_policy_to_the_deployment() -> None:
    config = _kept(retry=RetryAsked(max_attempts=3))
    assert (config.retry, config.max_attempts) == (None, 3)


def test_a_schedule_has_one_attempt_more_than_delays() -> None:
    assert _kept(retry=RetryAsked(type="schedule", delays=(1, 2.5, "1h"))).max_attempts == 4


@pytest.mark.parametrize(("per_second", "burst"), [(0.001, 1), (1, 1), (25, 25), (MOST_PER_SECOND, MOST_PER_SECOND)])
def test_a_burst_that_is_not_given_is_one_second_and_at_least_one_request(per_second: float, burst: float) -> None:
    config = _kept(rate_limit=RateLimitAsked(per_second=per_second))
    assert (config.per_second, config.burst) == (per_second, burst)


@pytest.mark.parametrize(
    ("asked", "code", "fields"),
    [
        ({"signing": Signing()}, "invalid_signing", ["signing.secrets"]),
        ({"signing": Signing(secrets=["s", "whsec_*"])}, "invalid_signing", ["signing.secrets[1]"]),
        ({"headers": {"Host": "x", "A": "b\r\nC: d"}}, "invalid_headers", ["headers.Host", "headers.A"]),
        ({"headers": {"A": "1", "a": "2"}}, "invalid_headers", ["headers"]),
        ({"headers": {f"h{n}": "" for n in range(65)}}, "invalid_headers", ["headers"]),
        ({"headers": {"Authorization": "(redacted)"}}, "invalid_headers", ["headers.Authorization"]),
        ({"retry": RetryAsked(base_delay="1ms")}, "invalid_retry", ["retry.base_delay"]),
        ({"retry": RetryAsked(max_attempts=0)}, "invalid_max_attempts", ["retry.max_attempts"]),
        ({"retry": RetryAsked(max_attempts=1_001)}, "invalid_max_attempts", ["retry.max_attempts"]),
        *[({"timeout": value}, "invalid_timeout", ["timeout"]) for value in (0, -1, 0.09, "301s", "soon", "", 1e300)],
        *[
            ({"rate_limit": RateLimitAsked(per_second=value)}, "invalid_rate_limit", ["rate_limit.per_second"])
            for value in (0, -1, 0.0001, 1e12)
        ],
        *[
            ({"rate_limit": RateLimitAsked(per_second=1, burst=value)}, "invalid_rate_limit", ["rate_limit.burst"])
            for value in (0, 0.5, -1, 1e12)
        ],
        *[
            ({"max_in_flight": value}, "invalid_max_in_flight", ["max_in_flight"])
            for value in (0, -1, MOST_IN_FLIGHT + 1)
        ],
        ({"ordering": OrderingAsked(policy="skip")}, "invalid_ordering", ["ordering.after"]),
        ({"ordering": OrderingAsked(policy="skip", after=0)}, "invalid_ordering", ["ordering.after"]),
        ({"ordering": OrderingAsked(policy="skip", after=1_001)}, "invalid_ordering", ["ordering.after"]),
        ({"ordering": OrderingAsked(policy="block", after=1)}, "invalid_ordering", ["ordering.after"]),
    ],
)
def test_what_is_wrong_is_refused_by_name(asked: dict[str, Any], code: str, fields: list[str]) -> None:
    with pytest.raises(Rejected) as caught:
        _made(**asked)
    assert (caught.value.code, [problem.field for problem in caught.value.problems]) == (code, fields)


@pytest.mark.parametrize("timeout", [0.1, "100ms", 30, "5m", LONGEST_TIMEOUT / 1000])
def test_a_timeout_may_be_shorter_and_longer_than_the_deployments(timeout: float | str) -> None:
    assert 100 <= _kept(timeout=timeout).timeout <= LONGEST_TIMEOUT


# Whose word holds

_NAMES = st.sampled_from(["A", "a", "X-Token", "x-token", "X-TOKEN", "Authorization", "Content-Type", "b", "B"])
_HEADERS = st.dictionaries(_NAMES, st.text("xyz", max_size=3)).filter(
    lambda headers: len({name.lower() for name in headers}) == len(headers)
)


def _lower(*maps: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for headers in maps for name, value in headers.items()}


def _fields(headers: dict[str, str], **said: Any) -> Fields:
    sensitive = {name: value for name, value in headers.items() if name.lower() in REDACT}
    plain = {name: value for name, value in headers.items() if name not in sensitive}
    return Fields(plain, sensitive, said.get("signed", UNSIGNED), said.get("retry"), said.get("max_attempts"))


@given(own=_HEADERS, set_=_HEADERS, replaced=st.sets(st.sampled_from(["authorization", "content-type"])))
def test_headers_are_joined_by_name_in_any_case_and_the_enqueues_win(
    own: dict[str, str], set_: dict[str, str], replaced: set[str]
) -> None:
    found = with_defaults(_fields(own), _kept(headers=set_), REDACT, replaced)
    left = {name: value for name, value in _lower(set_).items() if name not in replaced}
    assert _lower(found.headers, found.sensitive) == left | _lower(own)
    # No name twice, and what is secret is where it is sealed.
    assert len(found.headers) + len(found.sensitive) == len(left | _lower(own))
    assert all(name.lower() in REDACT for name in found.sensitive)
    assert not any(name.lower() in REDACT for name in found.headers)


def test_a_header_that_came_to_be_secret_is_sealed_and_one_that_was_stays_so() -> None:
    config = _kept(headers={"X-Token": "t", "X-Shop": "1"})
    later = with_defaults(NOTHING_SAID, config, frozenset({"x-shop"}))
    assert (later.headers, later.sensitive) == ({}, {"X-Token": "t", "X-Shop": "1"})


_SIGNED = st.sampled_from([UNSIGNED, Signed("howk", ("s",)), Signed("standard", (), "whsk_x")])
_POLICIES = st.sampled_from([None, DEPLOYMENT, RetryPolicy(type="fixed"), RetryPolicy(base_delay=1)])


@given(
    own=st.builds(Fields, st.just({}), st.just({}), _SIGNED, _POLICIES, st.none() | st.integers(1, 9)),
    signed=_SIGNED,
    retry=_POLICIES,
    attempts=st.integers(0, 9),
)
def test_signing_and_retry_are_wholly_the_enqueues_or_wholly_the_configs(
    own: Fields, signed: Signed, retry: RetryPolicy | None, attempts: int
) -> None:
    config = Config("app", NOW, None if signed == UNSIGNED else signed, retry=retry, max_attempts=attempts)
    found = with_defaults(own, config, REDACT)
    assert found.signed == (signed if own.signed == UNSIGNED else own.signed)
    if own.retry is not None:
        assert (found.retry, found.max_attempts) == (own.retry, own.max_attempts)
    else:
        assert found.retry == retry
        assert found.max_attempts == (own.max_attempts or attempts or None)
