"""A real disk that fills up: a small file system of the process's own, whose room the test takes and gives back. Full
at each step of a delivery's way, howk refuses what it can't write, keeps what it has, and goes on by itself."""

import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.e2e.harness import Connection, Howk, Receiver, Reply, connected, envelope, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not shutil.which("unshare"), reason="needs a mount of its own"),
]

SIZE = "24m"
SETTINGS = {"HOWK_RETRY_BASE_DELAY": "1s", "HOWK_RETRY_JITTER": "0", "HOWK_DELIVERY_TIMEOUT": "10m"}
_MOUNTS = f"""
mount -t tmpfs -o size={SIZE} tmpfs "$1" && mount -t tmpfs -o size={SIZE} tmpfs "$2" || exit 77
[ -d "$3" ] && cp -a "$3/." "$1" && rm -f "$1"/hot.db*
ln -s "$2/hot.db" "$1/hot.db"
[ -d "$3" ] && cat /dev/zero > "$1/filler" 2> /dev/null
shift 3
exec "$@"
"""


class Disks:
    """The file systems that the log and hot state are on, from outside."""

    def __init__(self, howk: Howk, hot: Path) -> None:
        self._pid = howk.pid
        root = f"/proc/{howk.pid}/root"
        self.log = Path(f"{root}{howk.data_dir}")
        self.hot = Path(f"{root}{hot}")

    def files(self) -> int:
        """How many of the files there are open."""
        return sum(".db" in target for target in self._open())

    def _open(self) -> Iterator[str]:
        folder = Path(f"/proc/{self._pid}/fd")
        for name in os.listdir(folder):
            # It may be closed meanwhile.
            with suppress(FileNotFoundError):
                yield str((folder / name).readlink())

    def fill(self, disk: Path, room: int = 0) -> None:
        """Take all the room but so much."""
        with (disk / "filler").open("ab") as filler:
            while (size := _room(disk) - room) > 0:
                # Where howk wrote meanwhile there is less.
                with suppress(OSError):
                    os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), size)

    def free(self, disk: Path) -> None:
        """Give it back."""
        (disk / "filler").unlink()


def _room(disk: Path) -> int:
    free = os.statvfs(disk)
    return free.f_bavail * free.f_frsize


@asynccontextmanager
async def small(howk: Howk, saved: Path | None = None, *, started: bool = True) -> AsyncIterator[Disks]:
    """howk on small disks of its own, one for the log and one for hot state; killed at the end if it still runs."""
    hot = howk.home / "hot"
    for folder in (howk.data_dir, hot):
        folder.mkdir()
    under = ("unshare", "-rm", "sh", "-c", _MOUNTS, "sh", str(howk.data_dir), str(hot), str(saved or "-"))
    await howk.launch(under=under)
    if started:

        async def opened() -> bool:
            return bool(howk.said("started")) or not howk.running

        await until(opened, "howk opens its door")
        if not howk.running:
            pytest.skip("this machine allows no mounts")
        await howk.opened()
        await howk.ready()
    try:
        yield Disks(howk, hot)
    finally:
        if howk.running:
            await howk.kill()


async def post(connection: Connection, endpoint: str, payload: bytes) -> tuple[int, str]:
    """The status of the answer, and the id or the reason."""
    answer = await connection.request("POST", "/webhooks/e2e/enqueue", envelope(endpoint, payload))
    return answer.status, answer.json().get("webhook_id") or answer.json()["detail"]


async def ready(connection: Connection) -> bool:
    return (await connection.request("GET", "/ready")).status == 200


def stalled(howk: Howk, stage: str) -> Callable[[], object]:
    """Waits until a stage says that it can't write."""

    async def said() -> bool:
        return any(line["stage"] == stage and "disk is full" in line["message"] for line in howk.said("stage_retry"))

    return lambda: until(said, f"{stage} says that the disk is full")


async def test_full_while_it_accepts_it_refuses_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    howk = Howk(tmp_path, SETTINGS)
    async with Receiver() as receiver, small(howk) as disks, connected(howk.port) as connection:
        accepted = [(await post(connection, receiver.url(), b"0"))[1]]
        files = disks.files()
        disks.fill(disks.log)
        for payload in (b'"%b"' % (b"x" * 500_000), b"1", b"2"):
            status, text = await post(connection, receiver.url(), payload)
            assert (status, "disk is full" in text) == (503, True)
        assert not await ready(connection)
        disks.free(disks.log)
        assert await ready(connection)
        for number in range(5):
            status, id_ = await post(connection, receiver.url(), b"%d" % number)
            assert status == 202
            accepted.append(id_)
        await howk.reach(accepted, "delivered")

        async def as_many_as_before() -> bool:
            return disks.files() == files

        await until(as_many_as_before, "no file is left open")
    assert {start.id for start in receiver.starts} == set(accepted)
    assert receiver.repeated() == {}
    assert howk.complaints() == []


async def test_full_while_it_delivers_outcomes_wait_and_nothing_is_sent_again(tmp_path: Path) -> None:
    howk = Howk(tmp_path, SETTINGS)
    async with Receiver(lambda _: Reply(0)) as receiver, small(howk) as disks, connected(howk.port) as connection:
        ids = [(await post(connection, receiver.url(f"/{n}"), b"%d" % n))[1] for n in range(10)]
        await receiver.wait_for(lambda: receiver.in_flight == 10, "all are under way")
        disks.fill(disks.log)
        receiver.behave = lambda _: Reply()
        receiver.release()
        await stalled(howk, "deliver")()
        disks.free(disks.log)
        await howk.reach(ids, "delivered")
        assert await howk.stop() == 0
    assert receiver.repeated() == {}
    assert howk.complaints() == []


@pytest.mark.parametrize("killed", [False, True])
async def test_full_while_it_settles_the_retry_comes_all_the_same(tmp_path: Path, killed: bool) -> None:
    payload = b'"%b"' % (b"x" * 600_000)
    howk = Howk(tmp_path, SETTINGS)
    async with Receiver(lambda _: Reply(0)) as receiver:
        async with small(howk) as disks, connected(howk.port) as connection:
            id_ = (await post(connection, receiver.url(), payload))[1]
            await receiver.wait_for(lambda: receiver.in_flight == 1, "it is under way")
            # The outcome has room, and what settle makes of it has not: each holds the payload.
            disks.fill(disks.log, 1_000_000)
            receiver.behave = lambda start: Reply(500 if start.attempt == 1 else 200)
            receiver.release(500)
            await stalled(howk, "settle")()
            if killed:
                howk.signal(signal.SIGSTOP)
                shutil.copytree(disks.log, tmp_path / "again/data", ignore=shutil.ignore_patterns("filler", "hot*"))
                await howk.kill()
            else:
                disks.free(disks.log)
                await howk.reach([id_], "delivered")
                assert await howk.stop() == 0
        if killed:
            async with Howk(tmp_path / "again", SETTINGS) as again:
                await again.reach([id_], "delivered")
    assert [start.attempt for start in receiver.starts] == [1, 2]
    assert howk.complaints() == []


async def test_full_for_hot_state_alone_the_log_takes_webhooks_and_their_ends_are_told_later(tmp_path: Path) -> None:
    howk = Howk(tmp_path, SETTINGS)
    async with Receiver() as receiver, small(howk) as disks, connected(howk.port) as connection:
        disks.fill(disks.hot)
        ids: list[str] = []
        for number in range(20):
            status, id_ = await post(connection, receiver.url(f"/{number}"), b"%d" % number)
            assert status == 202
            ids.append(id_)
        await receiver.wait_for(lambda: len(receiver.delivered) == 20, "all are sent")
        await stalled(howk, "settle")()
        disks.free(disks.hot)
        await howk.reach(ids, "delivered")
        assert await howk.stop() == 0
    assert receiver.repeated() == {}
    assert howk.complaints() == []


async def test_a_start_on_a_full_disk_is_refused_in_words_and_another_one_has_everything(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    async with Receiver(lambda start: Reply(500 if start.attempt == 1 else 200)) as receiver:
        async with Howk(tmp_path, SETTINGS) as howk:
            id_ = await howk.enqueue(receiver.url())
            await howk.reach([id_], "failed", "delivered")
            await howk.kill()
        full = Howk(tmp_path / "full", SETTINGS)
        async with small(full, howk.data_dir, started=False):
            if await full.ended() == 77:
                pytest.skip("this machine allows no mounts")
        assert full.complaints() == []
        assert "full" in full.lines[-1]["message"] or "room" in full.lines[-1]["message"], full.lines
        await howk.start()
        await howk.reach([id_], "delivered")
        assert await howk.stop() == 0
