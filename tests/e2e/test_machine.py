"""The machine fails howk while it works: no file descriptors are left, no memory, it stands still for longer than every
lease, or is killed while it tidies up. It refuses, dies or waits; what was acknowledged is delivered."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
from pathlib import Path
from random import Random
from sqlite3 import connect

import pytest
from tests.e2e.harness import Connection, Howk, Receiver, Reply, connected, envelope, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's own"),
]

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
OFTEN = {
    "HOWK_RETRY_BASE_DELAY": "300ms",
    "HOWK_RETRY_JITTER": "0",
    "HOWK_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "300ms",
    "HOWK_CIRCUIT_BREAKER_PROBE_INTERVAL": "300ms",
}


def limit(howk: Howk, which: int, most: int) -> None:
    """Lower or lift a limit of the process that runs."""
    _, hard = resource.prlimit(howk.pid, which)
    resource.prlimit(howk.pid, which, (most, hard))


def opened(howk: Howk) -> list[str]:
    """What its descriptors are; one that is closed between the listing and the look is none."""
    found: list[str] = []
    for path in Path(f"/proc/{howk.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(path.readlink()))
    return found


def cpu(howk: Howk) -> float:
    """Seconds of CPU that it has used."""
    fields = Path(f"/proc/{howk.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def test_without_descriptors_the_door_refuses_calls_are_retried_and_the_log_goes_on(tmp_path: Path) -> None:
    async with Receiver() as receiver, Howk(tmp_path, OFTEN) as howk, connected(howk.port) as kept:
        assert (await kept.request("GET", "/ready")).status == 200
        before = opened(howk)
        _, hard = resource.prlimit(howk.pid, resource.RLIMIT_NOFILE)
        limit(howk, resource.RLIMIT_NOFILE, len(before) + 4)
        clients: list[Connection] = []
        for _ in range(40):
            with_one: Connection | None = None
            try:
                with_one = await Connection.open(howk.port)
            except OSError:
                pass
            if with_one:
                clients.append(with_one)
        ids: list[str] = []
        for number in range(10):
            body = envelope(receiver.url(f"/{number}"), b"%d" % number)
            answer = await kept.request("POST", "/webhooks/e2e/enqueue", body)
            assert answer.status == 202
            ids.append(answer.json()["webhook_id"])

        async def failing() -> bool:
            found = [(await kept.request("GET", f"/webhooks/{id_}/status")).json() for id_ in ids]
            return any("too many open files" in (status["last_error"] or "") for status in found)

        await until(failing, "a call fails for want of a descriptor")
        used, at = cpu(howk), asyncio.get_running_loop().time()
        await asyncio.sleep(1.0)
        share = (cpu(howk) - used) / (asyncio.get_running_loop().time() - at)
        assert share < 0.7, "it turns in a circle"

        async def log_is_open() -> bool:
            return sum("log.db" in name for name in opened(howk)) == sum("log.db" in name for name in before)

        await until(log_is_open, "the log's files are open as before")
        for client in clients:
            await client.close()
        limit(howk, resource.RLIMIT_NOFILE, hard)
        async with connected(howk.port) as fresh:
            assert (await fresh.request("GET", "/ready")).status == 200
        statuses = await howk.reach(ids, "delivered")

        async def given_back() -> bool:
            # The connections to receivers are kept for the next call.
            return len(opened(howk)) <= len(before) + len(ids)

        await until(given_back, "no descriptor is kept that nobody needs")
        assert all(status["reason_type"] is None for status in statuses.values())
        assert howk.said("poison") == []
        assert await howk.stop() == 0
    assert receiver.repeated() == {}


async def test_a_process_that_stood_still_for_longer_than_every_lease_loses_nothing(tmp_path: Path) -> None:
    settings = OFTEN | {"HOWK_DELIVERY_TIMEOUT": "1s", "HOWK_SCHEDULER_LOCK_TIMEOUT": "1s"}
    slow = Reply(200, 0.4)
    async with (
        Receiver(lambda start: Reply(500) if start.attempt == 1 and "/late" in start.target else slow) as receiver,
        Howk(tmp_path, settings) as howk,
    ):
        ids = await howk.enqueue_batch(
            [envelope(receiver.url(f"/{'late' if n % 2 else 'good'}/{n}"), b"%d" % n) for n in range(80)]
        )
        # One that has not come yet would time out unseen.
        await receiver.wait_for(lambda: len({start.id for start in receiver.starts}) == 80, "all are under way")
        howk.signal(signal.SIGSTOP)
        # What had been sent is read to its end.
        await asyncio.sleep(0.1)
        under_way = {start.key for start in receiver.starts if not start.answered}
        # Longer than an attempt, a claim, and the lease of a probe: twice the one and once the other.
        await asyncio.sleep(4.0)
        under_way |= {start.key for start in receiver.starts if not start.answered or start.answered > start.at + 0.3}
        howk.signal(signal.SIGCONT)
        await howk.reach(ids, "delivered")
        assert await howk.stop() == 0
    # What timed out while nobody looked is tried again with the next number; the same number comes never twice.
    assert receiver.repeated() == {}
    again = {start.id for start in receiver.starts if start.attempt > 1 and "/good" in start.target}
    assert again <= {id_ for id_, _ in under_way}


async def test_without_memory_it_refuses_or_dies_at_once_and_has_everything_at_the_next_start(tmp_path: Path) -> None:
    # What may have been accepted of a batch is for one endpoint, and no breaker is to hold it.
    settings = {"HOWK_RETRY_BASE_DELAY": "1h", "HOWK_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "100000"}
    async with Receiver(lambda _: Reply(500)) as receiver, Howk(tmp_path, settings) as howk:
        acknowledged = [await howk.enqueue(receiver.url(f"/{number}")) for number in range(20)]
        await howk.reach(acknowledged, "failed")
        pages = int(Path(f"/proc/{howk.pid}/statm").read_text().split()[0])
        limit(howk, resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + 24 * MIB)
        large = b'{"webhooks":[%b]}' % b",".join([envelope(receiver.url(), b'"%b"' % (b"x" * 900_000))] * 14)
        answers: list[int] = []

        async def post() -> None:
            try:
                async with connected(howk.port) as connection:
                    answer = await connection.request("POST", "/webhooks/e2e/enqueue/batch", large)
                    answers.append(answer.status)
                    if answer.status == 202:
                        acknowledged.extend([item["webhook_id"] for item in answer.json()["webhooks"]])
            except (OSError, asyncio.IncompleteReadError):
                answers.append(0)

        await asyncio.gather(*[post() for _ in range(8)])
        assert set(answers) <= {0, 202, 503}, (answers, howk.lines[-9:])
        assert answers.count(202) < 8, "the limit was never met"
        try:
            limit(howk, resource.RLIMIT_AS, resource.RLIM_INFINITY)
            await howk.reach(acknowledged, "failed")
            assert await howk.stop() == 0
        except (OSError, asyncio.IncompleteReadError):
            # It has ended, or was about to.
            await howk.ended()
        assert howk.said("poison") == []
        assert howk.said("undecodable") == []
        await howk.start()
        await howk.reach(acknowledged, "failed")


async def filled(howk: Howk, receiver: Receiver) -> list[str]:
    """What is delivered and what waits, so many that a rebuild takes a while."""
    ids: list[str] = []
    for number in range(4):
        bodies = [
            envelope(receiver.url(f"/{'later' if n % 4 == 0 else 'good'}/{n % 50}"), b"%d" % n) for n in range(1000)
        ]
        ids += await howk.enqueue_batch(bodies, f"config{number}")
    await howk.reach(ids, "delivered", "failed")
    return ids


@pytest.mark.parametrize("loss", ["deleted", "of an older format"])
async def test_kills_while_hot_state_is_rebuilt_or_made_anew_lose_nothing(tmp_path: Path, loss: str) -> None:
    chance = Random()
    settings = {"HOWK_RETRY_BASE_DELAY": "1h", "HOWK_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "100000"}
    async with (
        Receiver(lambda start: Reply(500 if start.target.startswith("/later") else 200)) as receiver,
        Howk(tmp_path, settings) as howk,
    ):
        ids = await filled(howk, receiver)
        before = await howk.statuses(ids)
        assert await howk.stop() == 0
        starts = len(receiver.starts)
        for _ in range(3):
            if loss == "deleted":
                for path in howk.data_dir.glob("hot.db*"):
                    path.unlink()
            elif (howk.data_dir / "hot.db").exists():
                connection = connect(howk.data_dir / "hot.db")
                connection.execute("PRAGMA user_version = 3")
                connection.close()
            rebuilds = len(howk.said("rebuild_started"))
            await howk.launch()
            await howk.heard("rebuild_started", rebuilds + 1)
            await asyncio.sleep(chance.uniform(0, 0.15))
            await howk.kill()
        await howk.start()
        assert await howk.statuses(ids) == before
        assert len(receiver.starts) == starts
        assert await howk.stop() == 0


async def test_a_kill_while_the_write_ahead_log_is_moved_into_the_file_loses_nothing(tmp_path: Path) -> None:
    large = b'"%b"' % (b"x" * 250_000)
    async with Receiver() as receiver, Howk(tmp_path) as howk:
        ids: list[str] = []
        log = howk.data_dir / "log.db"

        async def moving() -> bool:
            # The file has as good as nothing in it before the first move.
            return log.stat().st_size > MIB

        watching = asyncio.create_task(until(moving, "the write-ahead log is moved"))
        async with connected(howk.port) as connection:
            while not watching.done():
                body = envelope(receiver.url(f"/{len(ids) % 50}"), large)
                answer = await connection.request("POST", "/webhooks/e2e/enqueue", body)
                assert answer.status == 202
                ids.append(answer.json()["webhook_id"])
        await watching
        await howk.kill()
        await receiver.deserted()
        await howk.start()
        await howk.reach(ids, "delivered")
        assert await howk.stop() == 0
    shutil.rmtree(howk.data_dir)
