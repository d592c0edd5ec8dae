"""The embedded hot state against the suite, and what it promises beyond the port: crashes, boots, damaged files."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from tests.contract.embedded import KEEP, change, image_of, keep_of, killed_after, open_state

from howk.adapters.embedded import hot
from howk.adapters.embedded.db import connect
from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.domain.delivery import LIMIT
from howk.domain.errors import Transient
from howk.domain.windows import HOUR, Window
from howk.ports.clock import Clock
from howk.ports.state import Condition, HotState
from howk.testing.clock import ManualClock
from howk.testing.state_samples import (
    FAR,
    LEASE,
    NOW,
    OTHER,
    asking,
    due,
    ended,
    happened,
    held,
    judged,
    knows,
    ordered,
    pending,
    states,
    stood,
    waiting,
    windows,
)
from howk.testing.state_suite import StateSuite


class TestEmbeddedState(StateSuite):
    path: Path
    directory: Directory

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "data"

    async def open_state(self, clock: Clock) -> HotState:
        self.directory = Directory.open(self.path)
        state = EmbeddedState.open(self.directory, keep_of(self), clock)
        self.directory.opened()
        return state

    async def close_state(self, state: HotState) -> None:
        await state.close()
        self.directory.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data"


async def write(path: Path) -> Path:
    """A hot state with a little of everything, closed cleanly; and what a kill would have left of it."""
    async with open_state(path) as state:
        await (await state.rebuild()).seal({})
        await state.accept([pending("p")])
        await state.apply([waiting("w", 1, 10, b"record"), ended("e", 0)], {0: 5})
        return image_of(path)


async def condition_of(path: Path) -> Condition:
    async with open_state(path) as state:
        condition = await state.condition()
        found = await states(state, ["w", "e"])
    assert found == (["failed", "delivered"] if condition.valid else [None, None])
    return condition


async def test_what_a_killed_process_left_is_gone_on_from(path: Path) -> None:
    killed = await write(path)
    assert await condition_of(killed) == (True, "", {0: 5})


async def test_a_lease_ends_with_its_process_and_its_token_releases_nothing_more(path: Path) -> None:
    await write(path)
    async with open_state(path) as state:
        lost = await due(state, 10)
        assert [claim.id for claim in lost] == ["w"]
        killed = image_of(path)
    for left in (path, killed):
        async with open_state(left) as state:
            assert [claim.id for claim in await due(state, 10)] == ["w"]
            await state.release(lost)
            assert (await state.statistics(0)).waiting == 1


def set_meta(file: Path, name: str, value: str) -> None:
    """As if it had been written so."""
    change(file, "UPDATE meta SET value = ?, sum = ? WHERE name = ?", value, hot.check_of(f"{name}/{value}"), name)


async def test_what_was_open_when_the_machine_was_restarted_is_not_valid(path: Path) -> None:
    killed = await write(path)
    set_meta(killed / "hot.db", "boot", "another boot")
    valid, reason, watermark = await condition_of(killed)
    assert (valid, reason, watermark) == (False, "the machine was restarted while it was open", {})


async def test_what_was_closed_cleanly_is_valid_after_a_restart_of_the_machine(path: Path) -> None:
    await write(path)
    set_meta(path / "hot.db", "boot", "another boot")
    assert await condition_of(path) == (True, "", {0: 5})


async def test_after_a_restart_what_was_opened_again_is_no_longer_clean(path: Path) -> None:
    await write(path)
    async with open_state(path):
        killed = image_of(path)
    set_meta(killed / "hot.db", "boot", "another boot")
    assert (await condition_of(killed)).reason == "the machine was restarted while it was open"


async def test_a_file_that_missed_a_run_is_not_valid(path: Path) -> None:
    await write(path)
    without_hot_state = Directory.open(path)
    without_hot_state.opened()
    without_hot_state.close()
    assert (await condition_of(path))[:2] == (False, "it is not of the last run")


async def test_a_file_without_an_account_of_the_last_run_is_not_valid(path: Path) -> None:
    await write(path)
    (path / "run.json").unlink()
    assert (await condition_of(path))[:2] == (False, "it is not of the last run")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.unlink(), "missing"),
        (lambda file: os.truncate(file, 0), "another format"),
        (lambda file: os.truncate(file, 8192 * 3), "damaged"),
        (lambda file: os.truncate(file, 5000), "damaged"),
        (lambda file: file.write_bytes(b"garbage" * 9999), "damaged"),
        (lambda file: change(file, "PRAGMA user_version = 7"), "another format"),
        (lambda file: change(file, "DROP TABLE meta"), "damaged"),
        (lambda file: change(file, "UPDATE meta SET value = '{' WHERE name = 'watermark'"), "damaged"),
        (lambda file: set_meta(file, "valid", ""), "rebuild was not finished"),
    ],
    ids=["deleted", "empty", "cut off", "torn", "garbage", "format", "table", "watermark", "unsealed"],
)
async def test_a_spoiled_file_is_begun_anew_with_the_reason(
    path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    await write(path)
    spoil(path / "hot.db")
    async with open_state(path) as state:
        condition = await state.condition()
        assert not condition.valid
        assert reason in condition.reason
        await (await state.rebuild()).seal({0: 2})
        await state.accept([pending("new")])
    async with open_state(path) as state:
        assert await state.condition() == (True, "", {0: 2})
        assert await states(state, ["new", "w"]) == ["pending", None]


@contextmanager
def reading(file: Path) -> Generator[None]:
    """Another connection that reads the file as it is now."""
    with closing(connect(file, read_only=True)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM meta").fetchall()
        yield


async def test_a_crash_between_wipe_and_seal_leaves_it_invalid(path: Path) -> None:
    await write(path)
    async with open_state(path) as state:
        rebuild = await state.rebuild()
        await rebuild.restore([waiting("w", 1, 10)])
        killed = image_of(path)
        await rebuild.seal({0: 9})
    async with open_state(killed) as state:
        assert (await state.condition())[:2] == (False, "its rebuild was not finished")
    async with open_state(path) as state:
        assert await state.condition() == (True, "", {0: 9})


async def test_what_a_crash_tore_in_the_midst_of_a_rebuild_is_begun_anew(path: Path) -> None:
    await write(path)
    async with open_state(path) as state:
        rebuild = await state.rebuild()
        await rebuild.restore([waiting(f"w{n}", 1, 10, os.urandom(2_000)) for n in range(300)])
        killed = image_of(path)
    with (killed / "hot.db").open("r+b") as file:
        file.seek((killed / "hot.db").stat().st_size // 2)
        file.write(bytes(100_000))
    async with open_state(killed) as state:
        assert not (await state.condition()).valid
        rebuild = await state.rebuild()
        await rebuild.restore([waiting("w", 1, 10)])
        await rebuild.seal({0: 9})
    async with open_state(killed) as state:
        assert await state.condition() == (True, "", {0: 9})
        assert (await state.statistics(NOW)).waiting == 1


async def test_a_step_of_a_rebuild_that_the_disk_refused_may_be_made_again(path: Path) -> None:
    async with open_state(path) as state:
        rebuild = await state.rebuild()
        await rebuild.restore([waiting("a", 1, 10)])
        change(path / "hot.db", f"CREATE TRIGGER broken BEFORE INSERT ON waiting {_FAILS}")
        assert not await succeeds(rebuild.restore([waiting("b", 1, 10), ended("c", 0)]))
        change(path / "hot.db", "DROP TRIGGER broken")
        assert await states(state, ["a", "b", "c"]) == ["failed", None, None]
        await rebuild.restore([waiting("b", 1, 10)])
        await rebuild.seal({0: 9})
        killed = image_of(path)
    async with open_state(killed) as state:
        assert await state.condition() == (True, "", {0: 9})
        assert await states(state, ["a", "b", "c"]) == ["failed", "failed", None]
        assert (await state.statistics(NOW)).waiting == 2


async def test_a_rebuild_that_another_reads_beside_is_sealed_all_the_same(path: Path) -> None:
    await write(path)
    async with open_state(path) as state:
        with reading(path / "hot.db"):
            rebuild = await state.rebuild()
            await rebuild.restore([waiting("w", 1, 10)])
            await rebuild.seal({0: 9})
        killed = image_of(path)
    async with open_state(killed) as state:
        assert await state.condition() == (True, "", {0: 9})


async def test_a_killed_process_leaves_holds_turns_and_marks_behind(path: Path) -> None:
    async with open_state(path) as state:
        await (await state.rebuild()).seal({})
        await state.accept([pending("marked")])
        asks = [asking(f"k{rank}", OTHER, turn="t", rank=rank) for rank in (1, 2)]
        assert await judged(state, asks) == ["go", "wait order"]
        await state.apply([held("h"), ordered("k3", "t", 3), waiting("marked", 1, FAR)], {0: 3}, (), ["marked"])
        assert len(await due(state, NOW)) == 2
        killed = image_of(path)
    async with open_state(killed) as state:
        assert (await state.condition()).valid
        await knows(state, stood(state="open", gen=7, probe_at=NOW))
        assert await judged(state, [asking("fresh"), *asks]) == ["hold breaker", "go", "wait order"]
        found = await due(state, NOW)
        assert [(claim.id, claim.why, claim.probe) for claim in found] == [
            ("marked", "cancelled", 0),
            ("h", "admitted", 7),
        ]
        await state.apply([ended("k1", 0), ended("k2", 0)], {0: 4})
        assert [claim.id for claim in await due(state, NOW)] == ["k3"]


_FAILS = "BEGIN SELECT RAISE(ABORT, 'the disk fails'); END"


@pytest.mark.parametrize("event", ["UPDATE ON waiting", "INSERT ON waiting", "DELETE ON turns", "INSERT ON marks"])
async def test_a_call_that_the_disk_refused_changed_nothing_and_may_be_made_again(path: Path, event: str) -> None:
    async with open_state(path) as state:
        await (await state.rebuild()).seal({})
        await state.accept([pending("m")])
        asks = [asking(f"k{rank}", OTHER, turn="t", rank=rank) for rank in (1, 2)]
        assert await judged(state, asks) == ["go", "wait order"]
        await state.apply([held(f"h{n}", held_by=LIMIT) for n in range(5)], {0: 1})
        change(path / "hot.db", f"CREATE TRIGGER broken BEFORE {event} {_FAILS}")
        effects = [held("h5", held_by=LIMIT), ended("k1", 0)]
        applied = await succeeds(state.apply(effects, {0: 2}, [stood(gen=2)], ["m"]))
        claimed = await succeeds(state.claim(NOW, 10, LEASE))
        assert (applied, claimed) == (event == "UPDATE ON waiting", event != "UPDATE ON waiting")
        change(path / "hot.db", "DROP TRIGGER broken")
        await state.apply(effects, {0: 2}, [stood(gen=2)], ["m"])
        if not claimed:
            assert [claim.id for claim in await due(state, NOW)] == ["h0", "h1", "h2", "h3"]
        assert await due(state, NOW) == []
        assert await judged(state, [asking("m"), asks[1]]) == ["cancelled", "go"]
        assert (await state.statistics(NOW)).waiting == 6
        assert (await state.claim(NOW, 0, LEASE)).held == {LIMIT: 6}


async def succeeds(call: Awaitable[object]) -> bool:
    try:
        await call
    except Transient:
        return False
    return True


def test_what_was_answered_survives_kill_9_with_its_watermark(path: Path) -> None:
    reached = 0
    for lines in (30, 60, 90):
        began, *applied = killed_after(lines, "apply", path)
        assert began.split() == (["began", str(reached)] if reached else ["began", "0", "it", "is", "missing"])
        said = int(applied[-1].split()[1])
        reached = asyncio.run(watermark_after_crash(path, said))


async def watermark_after_crash(path: Path, said: int) -> int:
    # Closed like a killed process again, by an image: the next child must go on from a crash.
    async with open_state(image_of(path)) as state:
        valid, reason, watermark = await state.condition()
        assert (valid, reason) == (True, "")
        reached = watermark[0]
        assert reached >= said
        ids = [f"w{n}" for n in range(1, reached + 2)]
        assert await states(state, ids) == [*["failed"] * reached, None]
        assert [int(claim.record) for claim in (await state.claim(reached, reached + 1, 9.0)).due] == list(
            range(1, reached + 1)
        )
    return reached


async def test_a_claim_of_large_records_is_bounded_in_bytes_and_the_rest_goes_with_the_next(path: Path) -> None:
    large = b'{"pad":"' + b"x" * (1 << 20) + b'"}'
    async with open_state(path) as state:
        await (await state.rebuild()).seal({})
        await state.apply([waiting(f"w{n}", 1, NOW, large) for n in range(5)], {})
        claims = [await state.claim(NOW, 500, LEASE) for _ in range(4)]
        assert [len(found.due) for found in claims] == [2, 2, 1, 0]
        assert [found.next_due for found in claims] == [NOW, NOW, 0, 0]
        assert [claim.record for found in claims for claim in found.due] == [large] * 5
        await state.apply([held(f"h{n}", f"ep_{n}", held_by=LIMIT, record=large) for n in range(5)], {})
        claims = [await state.claim(NOW, 500, LEASE) for _ in range(4)]
        assert [len(found.due) for found in claims] == [2, 2, 1, 0]
        assert [0 < found.next_due <= NOW for found in claims] == [True, True, False, False]
        assert {claim.id for found in claims for claim in found.due} == {f"h{n}" for n in range(5)}


async def test_a_backlog_that_outgrows_memory_is_received_once_through_a_kill(path: Path) -> None:
    many = 20_000
    async with open_state(path, KEEP._replace(young=16_384)) as state:
        await (await state.rebuild()).seal({})
        for start in range(0, many, 500):
            await state.accept([pending(f"p{n}", at=NOW) for n in range(start, start + 500)])
        assert (await windows(state, NOW))[0].received == many
        killed = image_of(path)
        await state.apply([happened(ended(f"p{n}", 0), NOW) for n in range(many)], {0: 1})
        assert (await windows(state, NOW))[0] == Window(many, many)
    async with open_state(killed) as state:
        # Reconcile notes what is not known; the rest was written before the kill.
        known = (await state.standing([f"p{n}" for n in range(many)])).deliveries
        assert 0 < sum(standing is not None for standing in known) < many
        await state.accept([pending(f"p{n}", at=NOW) for n, found in enumerate(known) if found is None])
        assert (await windows(state, NOW))[0].received == many
        await state.apply([happened(ended(f"p{n}", 0), NOW) for n in range(many)], {0: 1})
        assert (await windows(state, NOW))[0] == Window(many, many)


async def test_many_thousand_endpoints_are_counted_within_the_documented_error(path: Path) -> None:
    async with open_state(path) as state:
        await (await state.rebuild()).seal({})
        for n in range(160):
            calls = [happened(ended(f"{n}-{k}", 0), NOW + n * 1_000, f"ep_{n * 500 + k}") for k in range(500)]
            await state.apply(calls, {0: n + 1})
        hour, day = await windows(state, NOW + (HOUR + 79) * 1_000)
        assert abs(day.unique_endpoints / 80_000 - 1) < 4 * 0.0222
        # The calls of the last half: the window's own share of the sample.
        assert abs(hour.unique_endpoints / 40_000 - 1) < 4 * 0.0222
        almost_out = (await windows(state, NOW + (HOUR + 157) * 1_000))[0]
        assert almost_out.unique_endpoints == 1_000


async def test_an_older_format_is_rebuilt(path: Path) -> None:
    await write(path)
    change(path / "hot.db", "PRAGMA user_version = 2")
    change(path / "hot.db", "DROP TABLE slices")
    async with open_state(path) as state:
        assert (await state.condition())[:2] == (False, "it has another format")


@pytest.mark.parametrize("brings", [0, 40])
async def test_an_outcome_drops_a_bounded_part_of_what_is_old_and_more_than_it_brings(path: Path, brings: int) -> None:
    old = [f"old/{n:04}" for n in range(400)]
    async with open_state(path, Keep(60_000, 10_000)) as state:
        now = ManualClock().now()
        rebuild = await state.rebuild()
        await rebuild.restore([ended(id_, 0, now - 60_001) for id_ in old])
        await rebuild.seal({0: 1})
        left = [sum(word is not None for word in await states(state, old))]
        for step in range(20):
            fresh = [ended(f"new/{step}/{n}", 0, now) for n in range(brings)]
            await state.apply(fresh, {0: 2 + step})
            left.append(sum(word is not None for word in await states(state, old)))
    dropped = [before - after for before, after in pairwise(left)]
    assert left[-1] == 0
    assert brings < max(dropped) < 400 / 2
    assert all(each == max(dropped) for each in dropped[: 300 // max(dropped)])


async def test_its_file_stays_as_large_as_what_it_holds_at_most(path: Path) -> None:
    record = os.urandom(2_000)
    sizes: list[int] = []
    for run in range(4):
        async with open_state(path) as state:
            if not run:
                await (await state.rebuild()).seal({})
            for n in range(run * 60, run * 60 + 60):
                ids = [f"{n}/{i}" for i in range(50)]
                await state.apply([waiting(id_, 1, FAR, record) for id_ in ids], {0: 2 * n + 1})
                await state.apply([ended(id_, 2) for id_ in ids], {0: 2 * n + 2})
        sizes.append((path / "hot.db").stat().st_size)
    assert max(sizes) < 2 * min(sizes) < 4 << 20, sizes
