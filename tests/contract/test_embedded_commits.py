"""The thread that commits: what waits together shares one commit, large jobs let small ones pass, and after a bug
nobody waits for ever."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from howk.adapters.embedded.db import Checkpoints, Committer, connect
from howk.domain.errors import Permanent, Transient

DEADLINE = 10.0


def ignore(results: list[object]) -> None:
    """What is told before the answers."""


async def test_what_waits_together_is_run_together_in_order_and_answered() -> None:
    groups: list[list[int]] = []
    seen: list[list[int]] = []

    def run(jobs: list[int]) -> list[int]:
        groups.append(jobs)
        return [-job for job in jobs]

    committer = Committer("test", run, before_answer=seen.append, max_group=50)
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*[committer.submit(n) for n in range(200)])
        await committer.close()
    assert answers == [-n for n in range(200)]
    assert [job for group in groups for job in group] == list(range(200))
    assert [answer for group in seen for answer in group] == answers
    assert max(len(group) for group in groups) <= 50


async def test_what_comes_while_the_loop_is_busy_joins_the_group_that_is_open() -> None:
    groups: list[list[int]] = []

    def run(jobs: list[int]) -> list[int]:
        groups.append(jobs)
        return jobs

    committer = Committer("test", run, before_answer=ignore, longest_wait=DEADLINE)
    async with asyncio.timeout(DEADLINE):
        await committer.submit(0)
        first = committer.submit(1)
        await asyncio.sleep(0)
        second = committer.submit(2)
        assert await asyncio.gather(first, second) == [1, 2]
        await committer.close()
    assert groups == [[0], [1, 2]]


async def test_a_group_that_is_large_enough_goes_at_once() -> None:
    began = threading.Event()

    def run(jobs: list[int]) -> list[int]:
        began.set()
        return jobs

    committer = Committer("test", run, before_answer=ignore)
    answer = committer.submit(1, 1 << 30)
    # The loop has not turned since.
    assert began.wait(DEADLINE)
    async with asyncio.timeout(DEADLINE):
        assert await answer == 1
        await committer.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_after_a_bug_a_group_that_was_handed_over_meanwhile_is_answered_too() -> None:
    go_on = threading.Event()

    def run(jobs: list[int]) -> list[int]:
        assert go_on.wait(DEADLINE)
        raise SystemExit

    committer = Committer("test", run, before_answer=ignore)
    first = committer.submit(1, 1 << 30)
    second = committer.submit(2, 1 << 30)
    go_on.set()
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(answer) for answer in answers] == [Permanent] * 2
        await committer.close()


async def test_a_file_error_fails_its_group_and_the_next_one_goes_on() -> None:
    def run(jobs: list[bool]) -> list[bool]:
        if not all(jobs):
            raise sqlite3.OperationalError("disk I/O error")
        return jobs

    committer = Committer("test", run, before_answer=ignore, max_group=1)
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(Transient, match="disk I/O error"):
            await committer.submit(False)
        assert await committer.submit(True)
        await committer.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_after_a_bug_everyone_gets_an_answer_and_nothing_more_is_taken() -> None:
    def run(jobs: list[int]) -> list[int]:
        raise KeyError(jobs)

    committer = Committer("test", run, before_answer=ignore, max_group=1)
    async with asyncio.timeout(DEADLINE):
        answers = await asyncio.gather(*[committer.submit(n) for n in range(5)], return_exceptions=True)
        assert [type(answer) for answer in answers] == [Permanent] * 5
        with pytest.raises(Permanent, match="stopped on a bug"):
            await committer.submit(5)
        await committer.close()


MIB = 1 << 20
LARGE = 200 << 10


class Held:
    """A committer whose thread waits until it is let go, so that everything else stands in line behind its first job;
    a job is (name, what its order is kept by)."""

    def __init__(self, max_group: int = 1024) -> None:
        self.groups: list[list[tuple[object, str]]] = []
        self.go_on = threading.Event()
        self.committer = Committer("test", self._run, before_answer=ignore, max_group=max_group, order=self._order)
        self.answers = [self.committer.submit(("first", ""), MIB, large=True)]

    def _run(self, jobs: list[tuple[object, str]]) -> list[None]:
        assert self.go_on.wait(DEADLINE)
        self.groups.append(jobs)
        return [None for _ in jobs]

    def _order(self, job: tuple[object, str]) -> tuple[str, ...]:
        return (job[1],) if job[1] else ()

    def submit(self, name: object, weight: int, order: str = "") -> None:
        self.answers.append(self.committer.submit((name, order), weight, large=weight >= LARGE))

    async def commit(self) -> list[list[object]]:
        """Let it go; the names in each group after the first."""
        self.go_on.set()
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*self.answers)
            await self.committer.close()
        return [[name for name, _ in group] for group in self.groups[1:]]


async def test_a_small_job_passes_the_large_ones_that_stand_before_it() -> None:
    held = Held()
    for number in range(4):
        held.submit(number, MIB // 2)
    held.submit("small", 100)
    assert await held.commit() == [["small", 0], [1, 2], [3]]


async def test_one_job_that_is_larger_than_a_group_is_committed_alone() -> None:
    held = Held()
    held.submit("huge", 16 * MIB)
    held.submit("large", MIB)
    assert await held.commit() == [["huge"], ["large"]]


async def test_a_small_job_stays_behind_a_large_one_that_shares_its_order_and_so_do_those_behind_it() -> None:
    held = Held()
    held.submit("large", 2 * MIB, "a")
    held.submit("large too", 2 * MIB, "b")
    held.submit("of b", 100, "b")
    held.submit("of b again", 100, "b")
    held.submit("of c", 100, "c")
    assert await held.commit() == [["of c", "large"], ["large too"], ["of b", "of b again"]]


async def test_a_large_job_does_not_pass_small_ones_that_found_no_place_in_a_group() -> None:
    held = Held(max_group=2)
    for number in range(3):
        held.submit(number, 100, "a")
    held.submit("large", MIB, "a")
    assert await held.commit() == [[0, 1], [2, "large"]]


async def test_small_jobs_that_are_many_bytes_together_make_several_groups() -> None:
    held = Held()
    for number in range(40):
        held.submit(number, 100 << 10)
    groups = await held.commit()
    assert [name for group in groups for name in group] == list(range(40))
    assert max(len(group) for group in groups) == 10


JOBS = st.lists(st.tuples(st.sampled_from((10, 100 << 10, 300 << 10, 3 * MIB)), st.sampled_from("abc")), max_size=60)


@settings(max_examples=40, deadline=None)
@given(JOBS, st.integers(1, 8))
def test_whatever_the_sizes_jobs_of_one_order_are_committed_in_theirs(
    jobs: list[tuple[int, str]], max_group: int
) -> None:
    async def commit() -> list[list[int]]:
        held = Held(max_group)
        for number, (weight, order) in enumerate(jobs):
            held.submit(number, weight, order)
        return await held.commit()

    groups = asyncio.run(commit())
    committed = [name for group in groups for name in group]
    assert sorted(committed) == list(range(len(jobs)))
    for order in "abc":
        mine = [name for name in committed if jobs[name][1] == order]
        assert mine == sorted(mine)
    for group in groups:
        assert len(group) <= max_group
        weights = [jobs[name][0] for name in group]
        # One of any size is taken beside what is small.
        assert sum(weights) - max(weights) <= MIB


def test_a_write_ahead_log_that_large_commits_outrun_begins_anew_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with closing(connect(path, pragmas=("journal_mode=WAL", "wal_autocheckpoint=0", "synchronous=OFF"))) as writer:
        writer.execute("CREATE TABLE bodies (body BLOB)")
        checkpoints = Checkpoints(path, MIB)
        # More comes during each move than the writer would move itself.
        for _ in range(24):
            for _ in range(3):
                writer.execute("INSERT INTO bodies VALUES (?)", (bytes(MIB),))
                checkpoints.after_commit(writer, MIB)
        checkpoints.close()
        assert path.with_name("some.db-wal").stat().st_size < 36 * MIB
        assert writer.execute("SELECT count(*) FROM bodies").fetchone() == (72,)
