"""The thread that commits: what waits together shares one commit, and after a bug nobody waits for ever."""

import asyncio
import sqlite3
import threading

import pytest

from howk.adapters.embedded.db import Committer
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
