"""How full the log may get: the bound that holds, the levels and when they are left, and whose share is used up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.budget import (
    CROWDED,
    FOR_FIRST_USE,
    FOR_PEOPLE,
    FOR_REBUILDS,
    Budget,
    Intake,
    Level,
    budget,
    level_of,
)

GIB = 1 << 30
MIB = 1 << 20
LEVELS: tuple[Level, ...] = ("roomy", "pressed", "crowded", "closed")
WINDOW = 10.0

fills = st.floats(0, 2)
scopes = st.sampled_from("abcdef")
taken = st.lists(st.tuples(scopes, st.integers(0, 1_000_000), st.floats(0, 3)), max_size=60)


@pytest.mark.parametrize(
    ("used", "room", "disk", "asked", "found"),
    [
        (1 * GIB, 400 * GIB, 500 * GIB, 400 * GIB, Budget(1 * GIB, 400 * GIB, by_disk=False)),
        (100 * GIB, 20 * GIB, 500 * GIB, 400 * GIB, Budget(100 * GIB, 120 * GIB - 128 * MIB, by_disk=True)),
        (1 * MIB, 15 * MIB, 16 * MIB, 16 * MIB, Budget(1 * MIB, 15 * MIB, by_disk=True)),
        (0, 0, 0, 10, Budget(0, 0, by_disk=True)),
    ],
)
def test_the_smaller_of_what_was_asked_for_and_what_the_disk_takes_is_the_bound(
    used: int, room: int, disk: int, asked: int, found: Budget
) -> None:
    assert budget(used, room, disk, asked) == found


@given(used=st.integers(0, 1 << 50), room=st.integers(0, 1 << 50), asked=st.integers(1, 1 << 50))
def test_what_is_left_below_the_bound_can_be_written_and_leaves_a_rest_of_the_disk(
    used: int, room: int, asked: int
) -> None:
    disk = used + room
    found = budget(used, room, disk, asked)
    assert found.most <= asked
    assert found.most - used <= room - min(128 * MIB, disk // 16)


@given(used=st.integers(0, 1 << 40), most=st.integers(1, 1 << 40), more=st.integers(0, 1 << 40))
def test_what_is_left_until_a_share_is_what_it_takes_to_reach_it(used: int, most: int, more: int) -> None:
    found = Budget(used, most, by_disk=False)
    for share in (CROWDED, 1):
        reached = (used + more) >= int(most * share)
        assert (more >= found.left(share)) == reached


def test_a_log_without_any_room_is_full() -> None:
    assert budget(100 * MIB, 1 * MIB, 500 * GIB, 400 * GIB).fill == 1
    assert budget(500 * MIB, 100 * MIB, 500 * GIB, 400 * GIB).fill > 1
    assert Budget(5, 0, by_disk=True).fill == 1
    assert Budget(5, -7, by_disk=True).fill == 1


@given(fill=fills, before=st.sampled_from(LEVELS))
def test_a_level_is_reached_at_its_share_and_left_a_little_below(fill: float, before: Level) -> None:
    now = level_of(fill, before)
    assert (now == "closed") == (fill >= 1 or (before == "closed" and fill > 0.95))
    if now != "closed":
        assert (now == "crowded") == (fill >= 0.8 or (before in ("crowded", "closed") and fill > 0.77))
    assert LEVELS.index(now) >= LEVELS.index(level_of(fill, "roomy"))
    assert level_of(fill, now) == now


@given(low=fills, high=fills, before=st.sampled_from(LEVELS))
def test_fuller_is_never_a_lower_level(low: float, high: float, before: Level) -> None:
    low, high = sorted((low, high))
    assert LEVELS.index(level_of(low, before)) <= LEVELS.index(level_of(high, before))


def test_history_is_dropped_before_anybody_is_sent_away_and_what_people_read_last() -> None:
    assert FOR_FIRST_USE < FOR_REBUILDS < FOR_PEOPLE < CROWDED
    # With no history left the level is left as well.
    assert level_of(FOR_PEOPLE, "closed") == "pressed"


def filled(steps: list[tuple[str, int, float]], most: int = 100) -> tuple[Intake, float]:
    intake, now = Intake(WINDOW, most), 0.0
    for scope, size, after in steps:
        now += after
        intake.took(scope, size, now)
    return intake, now


@given(steps=taken)
def test_who_brought_least_is_never_sent_away_nor_is_one_of_whom_nothing_is_known(
    steps: list[tuple[str, int, float]],
) -> None:
    intake, now = filled(steps)
    assert intake.wait("stranger", now) == 0
    # Not even one: somebody is always at or below the equal part.
    assert any(intake.wait(scope, now) == 0 for scope in "abcdef")


@given(size=st.integers(1, 1_000), many=st.integers(1, 6), rounds=st.integers(1, 20))
def test_equals_are_not_sent_away(size: int, many: int, rounds: int) -> None:
    intake, now = filled([(scope, size, 0.0) for _ in range(rounds) for scope in "abcdef"[:many]])
    assert [intake.wait(scope, now) for scope in "abcdef"] == [0.0] * 6


@given(steps=taken)
def test_who_is_alone_is_not_sent_away_however_much_it_brings(steps: list[tuple[str, int, float]]) -> None:
    intake, now = filled([("a", size, after) for _, size, after in steps])
    assert intake.wait("a", now) == 0


@given(steps=taken)
def test_who_is_sent_away_brought_more_than_an_equal_part_lately(steps: list[tuple[str, int, float]]) -> None:
    intake, now = filled(steps)
    lately: dict[str, int] = {}
    at = 0.0
    for scope, size, after in steps:
        at += after
        if at >= now - WINDOW - 1e-9:
            lately[scope] = lately.get(scope, 0) + size
    for scope in "abcdef":
        wait = intake.wait(scope, now)
        assert 0 <= wait <= WINDOW / 2 + 1e-9
        if wait:
            assert lately.get(scope, 0) > 0


@pytest.mark.parametrize(("heavy", "light", "waits"), [(1_000, 1, True), (63, 37, True), (62, 38, False)])
def test_of_two_the_one_with_clearly_more_than_half_waits(heavy: int, light: int, waits: bool) -> None:
    intake, now = filled([("heavy", heavy, 0.0), ("light", light, 0.0)])
    assert (intake.wait("heavy", now) > 0) == waits
    assert intake.wait("light", now) == 0


@given(steps=taken)
def test_after_a_window_of_silence_everything_is_forgotten(steps: list[tuple[str, int, float]]) -> None:
    intake, now = filled(steps)
    later = now + WINDOW + 0.001
    assert [intake.wait(scope, later) for scope in "abcdef"] == [0.0] * 6
    intake.took("a", 1_000, later)
    intake.took("b", 1, later)
    assert intake.wait("a", later) > 0


def test_who_waited_as_long_as_it_was_told_comes_in_in_the_end() -> None:
    intake, now = filled([("heavy", 1_000_000, 0.0), ("light", 1, 0.0)])
    waited = 0.0
    while wait := intake.wait("heavy", now):
        now, waited = now + wait, waited + wait
    assert 0 < waited <= WINDOW


def test_only_so_many_are_told_apart() -> None:
    intake, now = filled([(f"scope {n}", 1_000 if n == 150 else 1, 0.0) for n in range(200)], most=100)
    assert intake.wait("scope 150", now) == 0
    intake.took("scope 7", 1_000, now)
    assert intake.wait("scope 7", now) > 0
