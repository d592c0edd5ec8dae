"""Progress out of order against the plainest model there is: the set of what is finished."""

from hypothesis import example, given
from hypothesis import strategies as st

from howk.domain.offsets import Finished

offsets = st.integers(0, 40)
ranges = st.tuples(offsets, st.integers(1, 12)).map(lambda drawn: (drawn[0], drawn[0] + drawn[1]))
steps = st.lists(st.one_of(ranges, st.lists(offsets, max_size=8)), max_size=12)
Step = tuple[int, int] | list[int]


def take(finished: Finished, step: Step) -> set[int]:
    """Do a step; the offsets that it finishes."""
    if isinstance(step, tuple):
        finished.add(*step)
        return set(range(*step))
    finished.add_all(step)
    return set(step)


def check(finished: Finished, model: set[int]) -> None:
    expected_next = next(n for n in range(1_000) if n not in model)
    assert finished.next == expected_next
    runs = finished.beyond
    assert {n for start, stop in runs for n in range(start, stop)} == {n for n in model if n > expected_next}
    assert all(start < stop for start, stop in runs)
    # Sorted, disjoint, and none touches another or the next offset.
    edges = [expected_next, *(edge for run in runs for edge in run)]
    assert edges == sorted(set(edges))
    assert [n in finished for n in range(60)] == [n in model for n in range(60)]


@given(start=offsets, taken=steps)
@example(start=0, taken=[(2, 3), (4, 5), (3, 4)])
@example(start=0, taken=[(5, 9), (1, 3), (0, 1), (3, 5)])
@example(start=0, taken=[[3, 1, 1, 2], [0]])
def test_any_steps_lead_to_what_a_set_would_hold(start: int, taken: list[Step]) -> None:
    finished = Finished(start)
    model = set(range(start))
    for step in taken:
        model |= take(finished, step)
        check(finished, model)


@given(start=offsets, taken=steps)
def test_what_was_stored_is_read_back_the_same(start: int, taken: list[Step]) -> None:
    finished = Finished(start)
    for step in taken:
        take(finished, step)
    again = Finished(finished.next, finished.beyond)
    assert (again.next, again.beyond) == (finished.next, finished.beyond)


@given(start=offsets, before=steps, after=steps)
def test_a_copy_goes_its_own_way(start: int, before: list[Step], after: list[Step]) -> None:
    finished = Finished(start)
    for step in before:
        take(finished, step)
    kept = (finished.next, finished.beyond)
    twin = finished.copy()
    assert (twin.next, twin.beyond) == kept
    for step in after:
        take(twin, step)
    assert (finished.next, finished.beyond) == kept


@given(finished=st.permutations(range(30)))
def test_in_whatever_order_all_are_finished_nothing_is_left_beyond(finished: list[int]) -> None:
    progress = Finished(0)
    for offset in finished:
        progress.add(offset, offset + 1)
    assert (progress.next, progress.beyond) == (30, ())
