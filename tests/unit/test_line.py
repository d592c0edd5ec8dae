"""The line of large bodies: what is let in is bounded, the order is kept, and slow ones are no obstacle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.errors import Full
from howk.domain.line import Line, LineBounds, Visitor

BOUNDS = LineBounds(most=1_000, most_held=500, first_read=100, slow=1.0, patience=10.0)

sizes = st.integers(0, 3_000)
# What happens next: one asks, one brings a part, one leaves, time goes by. The second figure chooses which one.
acts = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), sizes),
        st.tuples(st.just("bring"), sizes),
        st.tuples(st.just("leave"), sizes),
        st.tuples(st.sampled_from(("wait", "look")), st.integers(1, 4_000)),
    ),
    max_size=80,
)


def inside(visitors: list[Visitor]) -> list[Visitor]:
    return [visitor for visitor in visitors if not visitor.standing]


@given(acts)
def test_the_order_and_the_bounds_hold_whatever_happens(done: list[tuple[str, int]]) -> None:
    line = Line(BOUNDS)
    present: list[Visitor] = []
    now = 0.0
    for act, figure in done:
        before = line.used
        came_in: list[Visitor] = []
        stood = [visitor for visitor in present if visitor.standing]
        if act == "ask":
            try:
                visitor = line.ask(figure, now)
            except Full:
                assert line.standing
                continue
            present.append(visitor)
            came_in = [] if visitor.standing else [visitor]
        elif act == "wait":
            now += figure / 1_000
        elif act == "look":
            now += figure / 1_000
            came_in, overdue = line.look(now)
            assert all(now - visitor.since >= BOUNDS.patience for visitor in overdue)
            present = [visitor for visitor in present if visitor not in overdue]
        elif present and act == "leave":
            gone = present.pop(figure % len(present))
            came_in = line.leave(gone, now)
        elif inside(present):
            visitor = inside(present)[figure % len(inside(present))]
            line.brought(visitor, min(visitor.size, visitor.came + figure))
        # Whoever is let in is told so.
        assert [visitor for visitor in stood if not visitor.standing] == [each for each in came_in if each in stood]
        standing = [visitor for visitor in present if visitor.standing]
        assert line.standing == len(standing)
        assert sum(min(visitor.size, BOUNDS.first_read) for visitor in standing) <= BOUNDS.most_held
        assert line.used == sum(visitor.reserved for visitor in inside(present))
        # Only slow ones that go on after all make it more, and nobody is let in then.
        assert line.used <= max(BOUNDS.most, before) or act == "bring"
        assert not came_in or line.used <= BOUNDS.most
        if standing and act in ("leave", "look"):
            assert line.used + standing[0].charge > BOUNDS.most
        # Whoever asked first is in first.
        if standing and came_in:
            assert all(present.index(visitor) < present.index(standing[0]) for visitor in came_in)
    for visitor in present:
        line.leave(visitor, now)
    assert (line.used, line.standing) == (0, 0)


def test_one_larger_than_all_the_room_comes_in_once_half_of_it_is_free() -> None:
    line = Line(BOUNDS)
    first, second = line.ask(500, 0.0), line.ask(400, 0.0)
    huge = line.ask(5_000, 0.0)
    assert huge.standing
    assert line.leave(second, 0.0) == [huge]
    assert line.used == 1_000
    line.leave(first, 0.0)


def test_a_slow_sender_keeps_only_what_it_has_brought() -> None:
    line = Line(BOUNDS)
    slow = [line.ask(500, 0.0), line.ask(500, 0.0)]
    quick = line.ask(500, 0.5)
    for visitor in slow:
        line.brought(visitor, 200)
    assert line.look(0.9) == ([], [])
    assert line.look(1.0) == ([quick], [])
    assert line.used == 900
    # What it brings from then on counts as it comes.
    line.brought(slow[0], 450)
    assert line.used == 1_150


def test_what_turns_out_smaller_than_was_set_aside_gives_back_the_rest() -> None:
    line = Line(BOUNDS)
    first = line.ask(500, 0.0)
    line.brought(first, 20, whole=True)
    assert line.used == 20
    line.leave(first, 0.0)
    assert line.used == 0


def test_a_line_is_crowded_before_it_is_full() -> None:
    line = Line(BOUNDS)
    for _ in range(6):
        line.ask(500, 0.0)
    assert not line.crowded
    line.ask(500, 0.0)
    assert line.crowded


def test_who_has_stood_too_long_leaves_and_may_leave_again() -> None:
    line = Line(BOUNDS)
    first = line.ask(500, 0.0)
    line.brought(first, 500)
    second = line.ask(500, 0.0)
    line.brought(second, 500)
    third = line.ask(500, 1.0)
    assert line.look(10.9) == ([], [])
    assert line.look(11.0) == ([], [third])
    assert line.leave(third, 11.0) == []
    assert line.standing == 0


def test_a_line_that_holds_enough_takes_no_more() -> None:
    line = Line(BOUNDS)
    line.ask(500, 0.0)
    line.ask(500, 0.0)
    for _ in range(5):
        assert line.ask(500, 0.0).standing
    with pytest.raises(Full, match="5 large requests wait"):
        line.ask(500, 0.0)
