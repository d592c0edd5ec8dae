"""What a request may ask about time: bounds on every word of it, refusals that name the field, and a whole policy."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.durations import seconds_of
from howk.domain.errors import Rejected
from howk.domain.retry import RetryPolicy
from howk.domain.timing import (
    LONGEST,
    MOST_DELAYS,
    MOST_STATUSES,
    SHORTEST_DELAY,
    RetryAsked,
    attempts_of,
    delivery_time,
    longest_age,
    policy_of,
)

NOW = 1_750_000_000_000
DEFAULT = RetryPolicy()
DAY = 86_400_000

durations = st.one_of(
    st.floats(), st.integers(-10, 10**9).map(float), st.text(max_size=12), st.from_regex(r"[0-9]{1,4}(ms|s|m|h|d|w)")
)
wishes = st.builds(
    RetryAsked,
    type=st.sampled_from([None, "exponential", "linear", "fixed", "schedule"]),
    base_delay=st.none() | durations,
    max_delay=st.none() | durations,
    jitter=st.none() | st.floats(),
    delays=st.none() | st.lists(durations, max_size=4).map(tuple),
    max_attempts=st.none() | st.integers(),
    on_status=st.none() | st.lists(st.integers(), max_size=4).map(tuple),
)


def fields_of(refusal: pytest.ExceptionInfo[Rejected]) -> list[str]:
    return [problem.field for problem in refusal.value.problems]


def moment(milliseconds: int, hours: int = 0) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC).astimezone(timezone(timedelta(hours=hours))) + timedelta(
        milliseconds=milliseconds
    )


# When


@given(ahead=st.integers(1, 30 * DAY), hours=st.integers(-23, 23))
def test_a_time_ahead_is_that_instant_whatever_its_offset(ahead: int, hours: int) -> None:
    assert delivery_time(moment(NOW + ahead, hours), NOW, 30 * DAY) == NOW + ahead


@given(ago=st.integers(0, NOW))
def test_a_time_that_has_passed_is_at_once(ago: int) -> None:
    assert delivery_time(moment(NOW - ago), NOW, 30 * DAY) == 0


def test_no_time_is_at_once() -> None:
    assert delivery_time(None, NOW, DAY) == 0


@pytest.mark.parametrize(
    "asked", [datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), datetime(1969, 1, 1, tzinfo=UTC)]
)
def test_the_earliest_times_there_are_have_passed(asked: datetime) -> None:
    assert delivery_time(asked, NOW, DAY) == 0


@pytest.mark.parametrize(
    "asked", [moment(NOW + 30 * DAY + 1), datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-23)))]
)
def test_a_time_too_far_ahead_is_refused_with_the_setting(asked: datetime) -> None:
    with pytest.raises(Rejected, match=r"at most 30d ahead \(delivery.max_delay_ahead\)") as refusal:
        delivery_time(asked, NOW, 30 * DAY)
    assert (refusal.value.code, fields_of(refusal)) == ("invalid_deliver_at", ["deliver_at"])


# For how long


@pytest.mark.parametrize(
    ("asked", "age"), [(None, 77), ("1h", 3_600_000), ("1m30s", 90_000), (2.5, 2_500), ("1", 1_000), ("366d", LONGEST)]
)
def test_an_age_is_a_duration_or_the_deployments(asked: Any, age: int) -> None:
    assert longest_age(asked, 77) == age


@pytest.mark.parametrize(
    "asked", [0, -1, 0.9, "999ms", "367d", 1e300, float("inf"), float("nan"), "", "h", "-1h", "1 h", "9" * 9_000]
)
def test_an_age_out_of_bounds_is_refused(asked: Any) -> None:
    with pytest.raises(Rejected, match=r"a duration from 1s to 366d") as refusal:
        longest_age(asked, 77)
    assert (refusal.value.code, fields_of(refusal)) == ("invalid_max_age", ["max_age"])


@given(text=st.text(max_size=300))
def test_no_text_breaks_the_reader_of_durations(text: str) -> None:
    try:
        seconds_of(text)
    except ValueError:
        pass


# How often


def test_what_is_left_out_is_the_deployments() -> None:
    assert policy_of(RetryAsked(), DEFAULT) == DEFAULT
    assert policy_of(RetryAsked(on_status=(409, 404, 409)), DEFAULT) == RetryPolicy(on_status=(404, 409))


@pytest.mark.parametrize(
    ("asked", "policy"),
    [
        (RetryAsked(type="linear", base_delay="1m", jitter=0), RetryPolicy(60_000, DAY, 0, "linear")),
        (RetryAsked(type="fixed", base_delay=5.0, max_delay="1h"), RetryPolicy(5_000, 3_600_000, 0.2, "fixed")),
        (RetryAsked(base_delay="2d"), RetryPolicy(2 * DAY, 2 * DAY)),
        (RetryAsked(max_delay="1s"), RetryPolicy(1_000, 1_000)),
        (
            RetryAsked(type="schedule", delays=(5, "1h", "30d")),
            RetryPolicy(10_000, 30 * DAY, 0.2, "schedule", (5_000, 3_600_000, 30 * DAY)),
        ),
    ],
)
def test_a_bound_that_is_not_given_makes_room_for_what_is(asked: RetryAsked, policy: RetryPolicy) -> None:
    assert policy_of(asked, DEFAULT) == policy


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        (RetryAsked(base_delay="0s"), ["retry.base_delay"]),
        (RetryAsked(base_delay="soon", max_delay="later", jitter=2), ["retry.base_delay", "retry.max_delay"]),
        (RetryAsked(base_delay="2h", max_delay="1h"), ["retry.base_delay"]),
        (RetryAsked(jitter=-0.1), ["retry.jitter"]),
        (RetryAsked(jitter=float("nan")), ["retry.jitter"]),
        (RetryAsked(delays=(1,)), ["retry.delays"]),
        (RetryAsked(type="schedule"), ["retry.delays"]),
        (RetryAsked(type="schedule", delays=()), ["retry.delays"]),
        (RetryAsked(type="schedule", delays=(1,) * (MOST_DELAYS + 1)), ["retry.delays"]),
        (RetryAsked(type="schedule", delays=(1, 0, "x")), ["retry.delays[1]", "retry.delays[2]"]),
        (RetryAsked(type="schedule", delays=(1,), base_delay=1), ["retry.base_delay"]),
        (RetryAsked(type="schedule", delays=("2h",), max_delay="1h"), ["retry.delays"]),
        (RetryAsked(on_status=(299,)), ["retry.on_status"]),
        (RetryAsked(on_status=(404, 600)), ["retry.on_status"]),
        (RetryAsked(on_status=(404,) * (MOST_STATUSES + 1)), ["retry.on_status"]),
    ],
)
def test_a_policy_out_of_bounds_is_refused_by_field(asked: RetryAsked, fields: list[str]) -> None:
    with pytest.raises(Rejected) as refusal:
        policy_of(asked, DEFAULT)
    assert refusal.value.code == "invalid_retry"
    assert set(fields) <= set(fields_of(refusal))


@given(asked=wishes)
def test_whatever_is_asked_comes_out_within_bounds_or_is_refused(asked: RetryAsked) -> None:
    found: RetryPolicy | tuple[str, set[str]]
    try:
        found = policy_of(asked, DEFAULT)
    except Rejected as refusal:
        names = {problem.field.partition(".")[0] for problem in refusal.problems}
        found = (refusal.code, names)
    if isinstance(found, tuple):
        assert found == ("invalid_retry", {"retry"})
        return
    policy = found
    assert SHORTEST_DELAY <= policy.base_delay <= policy.max_delay <= LONGEST
    assert all(SHORTEST_DELAY <= delay <= policy.max_delay for delay in policy.delays)
    assert 0 <= policy.jitter <= 1
    assert all(300 <= status <= 599 for status in policy.on_status)
    assert bool(policy.delays) == (policy.type == "schedule")


@pytest.mark.parametrize(
    ("asked", "attempts"),
    [
        (RetryAsked(), None),
        (RetryAsked(max_attempts=4), 4),
        (RetryAsked(type="schedule", delays=(1, 2, 3)), 4),
        (RetryAsked(type="schedule", delays=(1, 2, 3), max_attempts=9), 9),
    ],
)
def test_a_schedule_means_one_attempt_more_than_it_has_delays(asked: RetryAsked, attempts: int | None) -> None:
    assert attempts_of(asked) == attempts
