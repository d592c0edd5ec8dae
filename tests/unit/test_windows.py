"""Slices and windows against a plain list of events, and the sample of endpoints against a plain set."""

from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from howk.domain.windows import DAY, HASH_BITS, HOUR, SAMPLE, WIDTHS, cover, distinct, needed, starts

moments = st.integers(0, 400_000)
SPACE = 1 << HASH_BITS


@given(after=moments, length=st.one_of(st.integers(0, 200), st.sampled_from([HOUR, DAY])))
def test_the_slices_of_a_window_are_each_of_its_seconds_once(after: int, length: int) -> None:
    seconds: list[int] = []
    for width, first, last in cover(after, after + length):
        assert width in WIDTHS
        assert (first % width, last % width) == (0, 0)
        for start in range(first, last + 1, width):
            seconds += range(start, start + width)
    assert seconds == list(range(after + 1, after + length + 1))


@given(
    events=st.lists(moments, max_size=50),
    until=moments,
    length=st.one_of(st.integers(1, 5_000), st.sampled_from([HOUR, DAY])),
)
def test_a_window_sums_what_a_plain_list_of_events_sums(events: list[int], until: int, length: int) -> None:
    slices: Counter[tuple[int, int]] = Counter([slice_ for second in events for slice_ in starts(second)])
    after = until - length
    summed = sum(
        number
        for width, first, last in cover(after, until)
        for (of, start), number in slices.items()
        if of == width and first <= start <= last
    )
    assert summed == sum(after < second <= until for second in events)


@given(until=st.integers(2 * DAY, 1 << 40))
def test_a_day_is_summed_from_few_slices(until: int) -> None:
    slices = sum((last - first) // width + 1 for width, first, last in cover(until - DAY, until))
    assert slices <= DAY // 60 + 2 * 60


@given(st.integers(0, 1 << 40))
def test_an_event_leaves_a_window_with_the_second_after_its_end(second: int) -> None:
    for length in (HOUR, DAY):
        for late, inside in ((0, True), (length - 1, True), (length, False), (length + 1, False)):
            slices = set(starts(second))
            parts = cover(second + late - length, second + late)
            covered = {(width, start) for width, first, last in parts for start in range(first, last + 1, width)}
            found = bool(slices & covered)
            assert found == inside


def smallest(called: dict[int, int], after: int) -> list[int]:
    return sorted(hash_ for hash_, second in called.items() if second > after)[: SAMPLE + 1]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1 << 32), count=st.integers(0, 12_000), spread=st.sampled_from([1, 40, 100_000]))
def test_what_is_thinned_away_changes_no_window(seed: int, count: int, spread: int) -> None:
    random = Random(seed)
    called = {random.randrange(SPACE): random.randrange(spread) for _ in range(count)}
    left = dict(needed(called.items(), 1 << 20))
    assert left.items() <= called.items()
    for after in (-1, spread // 2, spread - 2):
        assert smallest(left, after) == smallest(called, after)
    # Little more than the sample is left, however many there were.
    assert len(left) <= max(SAMPLE + 1, 4 * SAMPLE)


def test_thinning_has_a_bound_whatever_the_hashes_are() -> None:
    worst = [(SPACE - n, n) for n in range(10_000)]
    ever_larger = [(n, n) for n in range(10_000)]
    for called in (worst, ever_larger):
        left = needed(called, 3_000)
        # The ones called last are those that stay.
        assert len(left) <= 3_000
        assert called[-1] in left


def test_up_to_the_sample_the_count_of_endpoints_is_exact() -> None:
    random = Random(7)
    for count in (0, 1, 2, 20, SAMPLE - 1, SAMPLE):
        assert distinct(sorted(random.sample(range(SPACE), count))) == count


def test_beyond_the_sample_the_count_of_endpoints_is_within_its_documented_error() -> None:
    random = Random(11)
    errors: list[float] = []
    for count in (SAMPLE + 1, 5_000, 20_000, 100_000):
        for _ in range(5):
            hashes = sorted(random.getrandbits(HASH_BITS) for _ in range(count))
            errors.append(distinct(hashes[: SAMPLE + 1]) / count - 1)
    standard = (SAMPLE - 2) ** -0.5
    assert standard < 0.0222
    assert max(map(abs, errors)) < 4 * standard
    assert (sum(error * error for error in errors) / len(errors)) ** 0.5 < 1.5 * standard
