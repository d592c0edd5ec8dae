"""When a failed delivery is tried again: doubled up to a bound, spread by jitter, and always the same decision."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import decode, encode
from msgspec.structs import replace

from howk.domain.retry import RetryPolicy

policies = st.builds(
    RetryPolicy,
    base_delay=st.integers(0, 3_600_000),
    max_delay=st.integers(0, 30 * 86_400_000),
    jitter=st.floats(0, 1),
)
delays = st.integers(0, 30 * 86_400_000)
any_policies = st.builds(
    RetryPolicy,
    base_delay=delays,
    max_delay=delays,
    jitter=st.floats(0, 1),
    type=st.sampled_from(["exponential", "linear", "fixed", "schedule"]),
    delays=st.lists(delays, max_size=8).map(tuple),
    on_status=st.lists(st.integers(300, 599), max_size=4).map(tuple),
)
attempts = st.integers(1, 1_000)
seeds = st.text(max_size=40)


@pytest.mark.parametrize(
    ("attempt", "delay"),
    [(1, 10_000), (2, 20_000), (3, 40_000), (10, 5_120_000), (14, 81_920_000), (15, 86_400_000), (1_000, 86_400_000)],
)
def test_without_jitter_the_delay_doubles_up_to_its_bound(attempt: int, delay: int) -> None:
    assert RetryPolicy(10_000, 86_400_000, 0.0).delay(attempt, "any") == delay


@given(policy=policies, attempt=attempts, seed=seeds)
def test_the_delay_stays_within_the_jitter(policy: RetryPolicy, attempt: int, seed: str) -> None:
    plain = min(policy.base_delay * 2 ** (attempt - 1), policy.max_delay)
    assert plain * (1 - policy.jitter) - 1 <= policy.delay(attempt, seed) <= plain * (1 + policy.jitter) + 1


@given(policy=policies, attempt=attempts, seed=seeds)
def test_the_same_decision_is_made_again(policy: RetryPolicy, attempt: int, seed: str) -> None:
    assert policy.delay(attempt, seed) == replace(policy).delay(attempt, seed)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RetryPolicy(1_000, 60_000, type="exponential"), [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000]),
        (RetryPolicy(10_000, 35_000, type="linear"), [10_000, 20_000, 30_000, 35_000, 35_000]),
        (RetryPolicy(10_000, 60_000, type="fixed"), [10_000] * 5),
        (RetryPolicy(1_000, 60_000, type="schedule", delays=(5_000, 100, 50_000)), [5_000, 100, 50_000, 50_000]),
        (RetryPolicy(1_000, 9_000, type="schedule", delays=(5_000, 10_000)), [5_000, 9_000]),
    ],
    ids=["exponential", "linear", "fixed", "schedule", "schedule above its bound"],
)
def test_each_type_has_its_own_ladder(policy: RetryPolicy, expected: list[int]) -> None:
    assert [policy.plain_delay(attempt) for attempt in range(1, len(expected) + 1)] == expected
    still = replace(policy, jitter=0.0)
    assert [still.delay(attempt, "any") for attempt in range(1, len(expected) + 1)] == expected


@given(policy=any_policies, attempt=attempts, seed=seeds)
def test_every_delay_of_every_type_stays_within_its_bounds(policy: RetryPolicy, attempt: int, seed: str) -> None:
    plain = policy.plain_delay(attempt)
    assert 0 <= plain <= policy.max_delay
    assert plain * (1 - policy.jitter) - 1 <= policy.delay(attempt, seed) <= plain * (1 + policy.jitter) + 1


@given(policy=any_policies.map(lambda policy: replace(policy, delays=tuple(sorted(policy.delays)))), attempt=attempts)
def test_before_jitter_no_delay_is_shorter_than_the_one_before(policy: RetryPolicy, attempt: int) -> None:
    assert policy.plain_delay(attempt) <= policy.plain_delay(attempt + 1)


@given(policy=any_policies, at=st.integers(0, 1 << 45), attempt=attempts, seed=seeds, asked=st.integers(0, 1 << 45))
def test_a_policy_read_back_from_a_record_decides_the_same(
    policy: RetryPolicy, at: int, attempt: int, seed: str, asked: int
) -> None:
    kept = decode(encode(policy), type=RetryPolicy)
    assert kept == policy
    assert kept.due(at, attempt, seed, asked) == policy.due(at, attempt, seed, asked)


def test_a_record_keeps_every_field_of_a_policy_whatever_the_defaults_are_later() -> None:
    assert set(decode(encode(RetryPolicy()))) == set(RetryPolicy.__struct_fields__)


def test_jitter_spreads_deliveries_that_failed_together_over_its_whole_width() -> None:
    policy = RetryPolicy(10_000, 86_400_000, 0.2)
    delays = [policy.delay(1, f"wh_{n}/1") for n in range(2_000)]
    tenths = {(delay - 8_000) // 400 for delay in delays}
    assert tenths >= set(range(10))
    assert abs(sum(delays) / len(delays) - 10_000) < 200


def test_jitter_differs_from_attempt_to_attempt() -> None:
    policy = RetryPolicy(10_000, 10_000, 0.2)
    assert len({policy.delay(attempt, "wh_1/1") for attempt in range(1, 20)}) > 10


@given(policy=policies, at=st.integers(0, 1 << 45), attempt=attempts, seed=seeds, asked=st.integers(0, 1 << 45))
def test_what_the_receiver_asks_for_is_honoured_up_to_the_bound(
    policy: RetryPolicy, at: int, attempt: int, seed: str, asked: int
) -> None:
    due = policy.due(at, attempt, seed, asked)
    own = policy.delay(attempt, seed)
    assert due == at + max(own, min(asked, policy.max_delay))
    assert due - at <= max(own, policy.max_delay)


def test_a_wait_that_was_asked_for_is_never_cut_short() -> None:
    policy = RetryPolicy(1_000, 60_000, 0.2)
    assert policy.due(5_000, 1, "a", 30_000) == 35_000
    assert policy.due(5_000, 1, "a", 900_000) == 65_000
