"""The files of a data directory are truncated, exchanged, missing or unreachable at a start. What concerns the log is
refused in words that say what to do, and refused again the next time; hot state is rebuilt."""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.e2e.harness import Howk, Receiver, Reply
from tests.e2e.wall_clock import WallClock

pytestmark = pytest.mark.e2e

Spoil = Callable[[Path], object]


def cut(name: str, part: float) -> Spoil:
    return lambda data: os.truncate(data / name, int((data / name).stat().st_size * part))


def emptied(name: str) -> Spoil:
    return lambda data: (data / name).write_bytes(b"")


def gone(*names: str) -> Spoil:
    return lambda data: [(data / name).unlink() for name in names]


def a_directory(name: str) -> Spoil:
    def spoil(data: Path) -> None:
        for path in data.glob(f"{name}*"):
            path.unlink()
        (data / name).mkdir()
        (data / name / "something").write_text("of somebody")

    return spoil


def of_another(name: str) -> Spoil:
    return lambda data: shutil.copy(data.parent / "other" / "data" / name, data / name)


SWEEP = pytest.mark.skipif("CI" not in os.environ, reason="one of a kind is enough but for CI")
REFUSED: list[tuple[str, Spoil, bool, str]] = [
    ("half a log after a stop", cut("log.db", 0.5), False, "restore"),
    ("half a log after a kill", cut("log.db", 0.5), True, "restore"),
    ("an empty log", emptied("log.db"), False, "restore"),
    ("no log", gone("log.db"), False, "restore"),
    ("no write-ahead log after a kill", gone("log.db-wal", "log.db-shm"), True, "restore"),
    ("a directory for a log", a_directory("log.db"), False, "restore"),
    ("a directory for hot state", a_directory("hot.db"), False, "moved away"),
    ("no account of the last run, cut off", cut("run.json", 0.5), True, "restore"),
]
REBUILT = [
    ("no shared memory after a kill", gone("log.db-shm", "hot.db-shm"), True),
    pytest.param("half of hot state after a stop", cut("hot.db", 0.5), False, marks=SWEEP),
    ("half of hot state after a kill", cut("hot.db", 0.5), True),
    pytest.param("no write-ahead log of hot state", gone("hot.db-wal"), True, marks=SWEEP),
    pytest.param("an empty hot state", emptied("hot.db"), False, marks=SWEEP),
    ("the write-ahead log of another hot state", of_another("hot.db-wal"), True),
]


LATER = 3600.0
"""Seconds until a retry, by a clock that the tests set: none comes before they want it."""
PATIENT = {"HOWK_RETRY_BASE_DELAY": f"{LATER:g}s", "HOWK_RETRY_JITTER": "0"}


async def left_behind(howk: Howk, receiver: Receiver, *, killed: bool) -> list[str]:
    """What is delivered and what waits when it is stopped or killed."""
    done = [await howk.enqueue(receiver.url("/good")) for _ in range(3)]
    waiting = [await howk.enqueue(receiver.url(f"/later/{number}")) for number in range(3)]
    await howk.reach(done, "delivered")
    await howk.reach(waiting, "failed")
    await (howk.kill() if killed else howk.stop())
    return waiting


async def allowed(*command: str) -> bool:
    """Whether a command ends well."""
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdout=quiet, stderr=quiet)
    return await process.wait() == 0


def at_the_second(start: object) -> Reply:
    return Reply(500 if getattr(start, "attempt", 0) == 1 and "later" in getattr(start, "target", "") else 200)


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Directories as a stop and as a kill leave them, the second not all in its write-ahead log."""

    async def make() -> dict[bool, Path]:
        found: dict[bool, Path] = {}
        async with Receiver(at_the_second) as receiver:
            for killed in (False, True):
                home = tmp_path_factory.mktemp("left")
                async with Howk(home, PATIENT) as howk:
                    await left_behind(howk, receiver, killed=False)
                    if killed:
                        await howk.start()
                        await left_behind(howk, receiver, killed=True)
                found[killed] = home / "data"
        return found

    return asyncio.run(make())


@pytest.mark.parametrize(("name", "spoil", "killed", "advice"), REFUSED, ids=[case[0] for case in REFUSED])
async def test_a_log_that_lost_something_is_refused_in_words_each_time(
    tmp_path: Path, left: dict[bool, Path], name: str, spoil: Spoil, killed: bool, advice: str
) -> None:
    del name
    shutil.copytree(left[killed], tmp_path / "data")
    howk = Howk(tmp_path)
    spoil(howk.data_dir)
    for _ in range(2 if "CI" in os.environ else 1):
        await howk.launch()
        assert await howk.ended() == 1
        assert howk.lines[-1]["message"].startswith("howk: ")
        assert advice in howk.lines[-1]["message"].lower()
    assert howk.complaints() == []


@pytest.mark.parametrize(("name", "spoil", "killed"), REBUILT)
async def test_what_the_log_can_tell_again_is_made_anew(tmp_path: Path, name: str, spoil: Spoil, killed: bool) -> None:
    clock = WallClock(tmp_path / "clock")
    other = Howk(tmp_path / "other", PATIENT)
    other.home.mkdir()
    async with Receiver(at_the_second) as receiver, Howk(tmp_path, PATIENT | clock.settings) as howk:
        if name.endswith("of another hot state"):
            async with other:
                await left_behind(other, receiver, killed=True)
        waiting = await left_behind(howk, receiver, killed=killed)
        spoil(howk.data_dir)
        clock.set(LATER)
        await howk.start()
        await howk.reach(waiting, "delivered")
        assert await howk.stop() == 0


async def test_the_write_ahead_log_of_another_directory_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    async with Receiver(at_the_second) as receiver:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            async with Howk(tmp_path / name, PATIENT) as howk:
                await left_behind(howk, receiver, killed=True)
        howk = Howk(tmp_path / "one", PATIENT)
        shutil.copy(tmp_path / "other/data/log.db-wal", howk.data_dir / "log.db-wal")
        await howk.launch()
        assert await howk.ended() == 1
        assert howk.complaints() == []
        assert "restore" in howk.lines[-1]["message"].lower()


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs a mount of its own")
async def test_a_read_only_file_system_is_refused_in_words_and_left_as_it_is(tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    async with Receiver(at_the_second) as receiver, Howk(tmp_path, PATIENT | clock.settings) as howk:
        waiting = await left_behind(howk, receiver, killed=False)
        data = howk.data_dir
        read_only = (
            "unshare",
            "-rm",
            "sh",
            "-c",
            f'mount --bind {data} {data} && mount -o remount,ro,bind {data} && exec "$@"',
            "sh",
        )
        if not await allowed(*read_only, "true"):
            pytest.skip("this machine allows no mounts")
        await howk.launch(under=read_only)
        assert await howk.ended() == 1
        assert "permissions" in howk.lines[-1]["message"]
        assert howk.complaints() == []
        clock.set(LATER)
        await howk.start()
        await howk.reach(waiting, "delivered")


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
async def test_files_that_may_not_be_written_are_refused_in_words(tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    async with Receiver(at_the_second) as receiver, Howk(tmp_path, PATIENT | clock.settings) as howk:
        waiting = await left_behind(howk, receiver, killed=False)
        # Root is only bound by the modes of files without this right.
        under = (
            ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", "--")
            if os.geteuid() == 0
            else ()
        )
        for name in ("log.db", "run.json", "lock", "secret.key"):
            (howk.data_dir / name).chmod(0o000)
            await howk.launch(under=under)
            code = await howk.ended()
            (howk.data_dir / name).chmod(0o600)
            assert code == 1, name
            assert "permissions" in howk.lines[-1]["message"] or "may write" in howk.lines[-1]["message"], name
        assert howk.complaints() == []
        clock.set(LATER)
        await howk.start()
        await howk.reach(waiting, "delivered")
