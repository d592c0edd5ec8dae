"""Shares: every free place goes to somebody who asks, and over time in the ratio of the weights."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from howk.domain.limits import Allowance, Bucket, Rates, Shares, grant_tokens, refilled, reserve_token, take_token

turns = st.lists(
    st.tuples(st.integers(1, 30), st.booleans(), st.booleans(), st.booleans()).map(lambda t: (t[0], t[1:])), max_size=40
)


@given(weights=st.tuples(*[st.integers(1, 9)] * 3), taken=turns)
@example(
    weights=(7, 7, 7), taken=[(n, (asks, True, True)) for n, asks in ((1, True), (1, False), (2, True), (3, False))]
)
def test_what_is_dealt_is_what_is_free_and_only_to_those_that_ask(
    weights: tuple[int, ...], taken: list[tuple[int, tuple[bool, ...]]]
) -> None:
    shares = Shares(weights)
    for free, asking in taken:
        places = shares.deal(free, asking)
        assert sum(places) == (free if any(asking) else 0)
        assert all(count >= 0 for count in places)
        assert [count for count, asks in zip(places, asking, strict=True) if not asks and count] == []


@pytest.mark.parametrize("free", [1, 2, 3, 7, 500])
def test_over_many_turns_places_are_dealt_four_to_one(free: int) -> None:
    shares = Shares([4, 1])
    dealt = [shares.deal(free, [True, True]) for _ in range(1_000)]
    first, second = (sum(places) for places in zip(*dealt, strict=True))
    assert abs(first - 4 * second) <= 5


def test_single_places_are_spread_and_not_dealt_in_blocks() -> None:
    shares = Shares([4, 1])
    lanes = [shares.deal(1, [True, True]).index(1) for _ in range(100)]
    assert all(sum(lanes[start : start + 5]) == 1 for start in range(0, 100, 5))


@pytest.mark.parametrize(("asking", "dealt"), [((True, False), [9, 0]), ((False, True), [0, 9])])
def test_all_places_go_to_one_when_the_other_does_not_ask(asking: tuple[bool, bool], dealt: list[int]) -> None:
    shares = Shares([4, 1])
    shares.deal(3, [True, True])
    assert [shares.deal(9, asking) for _ in range(20)] == [dealt] * 20


def test_nobody_saves_up_places_while_it_does_not_ask() -> None:
    shares = Shares([1, 1])
    for _ in range(50):
        shares.deal(10, [True, False])
    assert shares.deal(10, [True, True]) == [5, 5]


def test_when_nobody_asks_nothing_is_dealt() -> None:
    assert Shares([4, 1]).deal(9, [False, False]) == [0, 0]


def test_every_lane_has_to_say_whether_it_asks() -> None:
    with pytest.raises(ValueError, match="zip"):
        Shares([4, 1]).deal(9, [True])


@given(rate=st.integers(1, 5), gaps=st.lists(st.integers(0, 400), max_size=80))
def test_an_allowance_lets_so_many_a_second_pass_and_accounts_for_all_others(rate: int, gaps: list[int]) -> None:
    allowance, now = Allowance(rate), 5_000_000
    passed: list[int] = []
    told = left_out = 0
    for gap in gaps:
        now += gap
        answer = allowance.take(now)
        if answer is None:
            left_out += 1
        else:
            passed.append(now // 1000)
            told += answer
    assert all(passed.count(second) <= rate for second in passed)
    assert told <= left_out
    last = allowance.take(now + 1000)
    assert last is not None
    assert told + last == left_out


_RATE = st.floats(min_value=0.01, max_value=10_000)
_GAPS = st.lists(st.floats(min_value=0, max_value=30), min_size=1, max_size=60)


def _admitted(rate: float, burst: float, gaps: list[float]) -> list[float]:
    bucket: Bucket | None = None
    now, admitted = 0.0, []
    for gap in gaps:
        now += gap
        bucket, wait = take_token(bucket, rate, burst, now)
        if not wait:
            admitted.append(now)
    return admitted


@settings(deadline=None)
@given(_RATE, st.floats(min_value=1, max_value=100), _GAPS)
def test_in_any_span_no_more_come_in_than_the_burst_and_the_rate_allow(
    rate: float, burst: float, gaps: list[float]
) -> None:
    times = _admitted(rate, burst, gaps)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= burst + rate * (times[last] - times[first]) + 1e-6 * len(times)


@settings(deadline=None)
@given(_RATE, st.floats(min_value=1, max_value=100), _GAPS)
def test_who_waits_as_told_comes_in_and_who_does_not_is_told_again(
    rate: float, burst: float, gaps: list[float]
) -> None:
    bucket: Bucket | None = None
    now = 0.0
    for gap in gaps:
        now += gap
        bucket, wait = take_token(bucket, rate, burst, now)
        assert wait <= 1 / rate + 1e-6
        if wait:
            assert take_token(bucket, rate, burst, now + wait / 2)[1] > 0
            assert take_token(bucket, rate, burst, now + wait)[1] == 0


@settings(deadline=None)
@given(_RATE, st.integers(min_value=1, max_value=200))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, count: int) -> None:
    assert len(_admitted(rate, max(1.0, rate), [1.0001 / rate] * count)) == count


@settings(deadline=None)
@given(_RATE, st.floats(min_value=0, max_value=1e6))
def test_a_clock_that_steps_back_gains_nothing(rate: float, back: float) -> None:
    bucket, _ = take_token(None, rate, 1.0, 1e6)
    assert take_token(bucket, rate, 1.0, 1e6 - back)[1] > 0


def test_callers_do_not_share_and_are_forgotten_oldest_first() -> None:
    rates = Rates(1.0, 2)
    assert [rates.take(caller, 0.0) > 0 for caller in ("a", "a", "b", "b")] == [False, True, False, True]
    assert rates.take("c", 0.0) == 0
    assert rates.take("b", 0.0) > 0
    assert rates.take("a", 0.0) == 0


_STEPS = st.lists(st.tuples(st.floats(min_value=0, max_value=5), st.floats(min_value=0, max_value=4)), max_size=60)


@settings(deadline=None)
@given(rate=st.floats(min_value=0.1, max_value=1_000), burst=st.floats(min_value=1, max_value=50), steps=_STEPS)
def test_reserved_tokens_are_used_no_faster_than_burst_and_rate_allow(
    rate: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    bucket: Bucket | None = None
    now, used = 0.0, list[float]()
    for gap, patience in steps:
        now += gap
        bucket, wait = reserve_token(bucket, rate, burst, now, patience)
        if wait is not None:
            assert 0 <= wait <= patience
            used.append(now + wait)
    assert used == sorted(used)
    for first in range(len(used)):
        for last in range(first, len(used)):
            assert last - first + 1 <= burst + rate * (used[last] - used[first]) + 1e-6 * len(used)


@settings(deadline=None)
@given(rate=st.floats(min_value=0.1, max_value=1_000), burst=st.floats(min_value=1, max_value=50), steps=_STEPS)
def test_a_refused_reservation_takes_nothing(rate: float, burst: float, steps: list[tuple[float, float]]) -> None:
    bucket: Bucket | None = None
    now = 0.0
    for gap, patience in steps:
        now += gap
        full = refilled(bucket, rate, burst, now)
        bucket, wait = reserve_token(bucket, rate, burst, now, patience)
        if wait is None:
            assert bucket == full
            assert (1 - full.tokens) / rate > patience
        else:
            assert bucket.tokens == full.tokens - 1


@given(
    rate=st.floats(min_value=0.1, max_value=1_000),
    burst=st.floats(min_value=1, max_value=50),
    tokens=st.floats(min_value=-50, max_value=50),
    gaps=st.lists(st.floats(min_value=-10, max_value=10), max_size=20),
)
def test_a_bucket_fills_to_its_burst_and_in_many_steps_as_in_one(
    rate: float, burst: float, tokens: float, gaps: list[float]
) -> None:
    start = Bucket(min(tokens, burst), 100.0)
    bucket, now, newest = start, 100.0, 100.0
    for gap in gaps:
        now += gap
        newest = max(newest, now)
        before = bucket
        bucket = refilled(bucket, rate, burst, now)
        assert before.tokens <= bucket.tokens <= burst
        assert bucket.at == newest
    assert abs(bucket.tokens - refilled(start, rate, burst, newest).tokens) < 1e-6 * max(1.0, rate)
    assert refilled(None, rate, burst, now) == Bucket(burst, now)


@given(
    asks=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 50)), max_size=30),
    rate=st.floats(0.5, 100),
    burst=st.floats(1, 100),
)
def test_what_is_granted_is_never_more_than_the_rate_and_a_burst_and_never_less_while_it_is_there(
    asks: list[tuple[float, int]], rate: float, burst: float
) -> None:
    bucket, now, granted = None, 0.0, 0
    for pause, asked in asks:
        now += pause
        there = int(refilled(bucket, rate, burst, now).tokens)
        bucket, got = grant_tokens(bucket, rate, burst, now, asked)
        assert got == min(asked, there)
        granted += got
    assert granted <= burst + rate * now + 1e-6
