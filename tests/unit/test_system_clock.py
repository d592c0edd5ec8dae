"""The process's time over steps of the wall clock."""

from hypothesis import given
from hypothesis import strategies as st

from howk.runtime.clock import SystemClock

HOUR = 3_600_000
START = 1_790_000_000_000


class Machine:
    """A machine's two clocks, moved by hand."""

    def __init__(self) -> None:
        self.wall = START
        self.up = 100.0

    def pass_(self, milliseconds: int) -> None:
        self.wall += milliseconds
        self.up += milliseconds / 1000

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall, lambda: self.up)


def test_a_step_back_does_not_delay_what_is_due_and_is_seen_by_those_who_ask_for_the_wall_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    due = clock.now() + 10_000
    machine.wall -= 5 * HOUR
    machine.pass_(10_000)
    assert clock.now() == due
    assert clock.wall() == START - 5 * HOUR + 10_000


def test_a_step_forward_is_followed_and_takes_back_an_earlier_step_back() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall -= 5 * HOUR
    assert clock.now() == START
    machine.wall += 5 * HOUR
    assert clock.now() == START
    machine.wall += HOUR
    assert clock.now() == START + HOUR


@given(st.lists(st.tuples(st.integers(-HOUR, HOUR), st.integers(0, 5_000)), max_size=30))
def test_time_never_steps_back_nor_falls_behind_the_wall_clock(moves: list[tuple[int, int]]) -> None:
    machine = Machine()
    clock = machine.clock()
    last = clock.now()
    for step, passed in moves:
        # Less than a second is the machine's own correction, which is taken as it is.
        machine.wall += step if abs(step) >= 1_000 else 0
        machine.pass_(passed)
        now = clock.now()
        assert now >= last
        assert now >= machine.wall - 1_000
        last = now
