"""The queue of those that wait for their turn, against a plain list."""

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from howk.domain.turns import TurnLimits, Turns

SHARE = 16


class Entered(NamedTuple):
    job: object
    turn: str
    size: int
    at: float
    back: bool


steps = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "enter", "leave", "overdue", "again"]),
        st.sampled_from("abc"),
        st.integers(1, 40),
        st.sampled_from([0.0, 0.5, 3.0]),
        st.booleans(),
    ),
    max_size=60,
)


@given(taken=steps, window=st.integers(1, 60), window_bytes=st.integers(1, 2_000))
def test_it_keeps_what_entered_in_order_within_its_bounds_and_lets_each_leave_once(
    taken: list[tuple[str, str, int, float, bool]], window: int, window_bytes: int
) -> None:
    turns: Turns[object] = Turns(TurnLimits(window, window_bytes, patience=2.0))
    model: list[Entered] = []
    gone: object = object()
    now = 0.0
    for what, turn, size, passes, back in taken:
        now += passes
        if what == "enter":
            job = object()
            if turns.enter(job, turn, size, now, back=back):
                model.append(Entered(job, turn, size, now, back))
        elif what == "leave":
            first = next((each for each in model if each.turn == turn), None)
            if first:
                gone = first.job
                assert turns.leave(gone)
                model.remove(first)
        elif what == "overdue":
            late = [each for each in model if now - each.at >= 2.0]
            assert turns.overdue(now) == [each.job for each in late]
            assert all(turns.leave(each.job) for each in late)
            model = [each for each in model if each not in late]
        else:
            assert not turns.leave(gone)
        assert len(turns) == len(model) <= window
        assert sum(each.size for each in model) <= window_bytes
        # Of those that are new and of those that come back.
        heads = {(each.turn, each.back): each.job for each in reversed(model)}
        now += 0.25
        assert sorted(map(id, turns.heads(now))) == sorted(map(id, heads.values()))
        assert [turns.waits(name) for name in "abc"] == [any(name == turn for turn, _ in heads) for name in "abc"]
    assert turns.drain() == [each.job for each in model]
    assert (len(turns), turns.heads(now + 9), turns.overdue(now + 9)) == (0, [], [])


@given(window=st.integers(1, 2_000))
def test_one_turn_leaves_room_for_the_others(window: int) -> None:
    turns: Turns[object] = Turns(TurnLimits(window, 1 << 40))
    jobs = [object() for _ in range(window)]
    entered = sum(turns.enter(job, "greedy", 1, 0.0) for job in jobs)
    assert entered <= 1 + window // (SHARE + 1)
    others = [object() for _ in range(window - entered)]
    assert all(turns.enter(job, f"turn {n}", 1, 0.0) for n, job in enumerate(others))
    assert not turns.enter(object(), "one more", 1, 0.0)


def test_large_ones_of_one_turn_leave_room_in_bytes_for_the_others() -> None:
    turns: Turns[object] = Turns(TurnLimits(1_000, 1_000))
    jobs = [object() for _ in range(9)]
    assert [turns.enter(job, "greedy", 40, 0.0) for job in jobs] == [True] + [False] * 8
    assert not turns.enter(object(), "other", 961, 0.0)
    assert turns.enter(object(), "other", 960, 0.0)


def test_between_two_looks_at_all_the_turns_that_were_stirred_are_asked_for_and_a_few_in_rotation() -> None:
    turns: Turns[object] = Turns(TurnLimits(10_000, 1 << 20))
    jobs = {str(name): object() for name in range(1_000)}
    for name, job in jobs.items():
        assert turns.enter(job, name, 1, 0.0)
    assert len(turns.heads(0.0)) == 1_000
    assert turns.heads(0.1) == [jobs[str(name)] for name in range(16)]
    turns.stir("7", 0.1)
    turns.stir("nobody waits for it", 0.1)
    # Asked and refused: its end is not settled yet.
    assert turns.heads(0.11) == [jobs["7"], *(jobs[str(name)] for name in range(16, 32))]
    assert turns.heads(0.12) == [jobs["7"], *(jobs[str(name)] for name in range(32, 48))]
    assert turns.leave(jobs["7"])
    assert turns.heads(0.13) == [jobs[str(name)] for name in range(48, 64)]
    assert len(turns.heads(0.25)) == 999


def test_though_no_time_passes_every_turn_is_asked_for_in_the_end() -> None:
    turns: Turns[object] = Turns(TurnLimits(10_000, 1 << 20))
    jobs = [object() for _ in range(100)]
    for name, job in enumerate(jobs):
        assert turns.enter(job, str(name), 1, 0.0)
    assert len(turns.heads(0.0)) == 100
    asked = [job for _ in range(7) for job in turns.heads(0.0)]
    assert {id(job) for job in asked} == {id(job) for job in jobs}


def test_a_turn_that_stays_refused_is_soon_asked_for_no_more_often_than_the_others() -> None:
    turns: Turns[object] = Turns(TurnLimits(100, 1 << 20))
    jobs = {str(name): object() for name in range(40)}
    for name, job in jobs.items():
        assert turns.enter(job, name, 1, 0.0)
    turns.stir("39", 0.0)
    assert len(turns.heads(0.5)) == 40
    assert turns.heads(0.6)[0] is jobs["39"]
    assert len(turns.heads(1.5)) == 40
    assert jobs["39"] not in turns.heads(1.6)
