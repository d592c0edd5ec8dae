"""Hot state is lost, damaged or replaced by an old copy between two runs: what howk says of each webhook, and when it
sends which, is what it was."""

import shutil
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.harness import Howk, Json, Receiver, Reply, Start, envelope
from tests.e2e.wall_clock import WallClock

pytestmark = pytest.mark.e2e

FILES = ("hot.db", "hot.db-wal", "hot.db-shm")
RETRY_AFTER = 3600.0
"""Seconds, by a clock that the tests set: nothing falls due before they want it, however busy the machine is."""
LATE = 60.0
"""Seconds. Far above what a busy machine takes, and far below another wait."""
IN_FLIGHT = 4
SETTINGS = {
    "HOWK_RETRY_BASE_DELAY": f"{RETRY_AFTER:g}s",
    "HOWK_RETRY_JITTER": "0",
    "HOWK_DELIVERY_TIMEOUT": "10m",
    "HOWK_DELIVERY_MAX_IN_FLIGHT": str(IN_FLIGHT),
    "HOWK_DELIVERY_DRAIN": "0s",
}

Loss = Callable[[Path], None]


def deleted(data: Path) -> None:
    for name in FILES:
        (data / name).unlink(missing_ok=True)


def only_the_main_file_deleted(data: Path) -> None:
    (data / "hot.db").unlink()


def cut_in_half(data: Path) -> None:
    for path in present(data):
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)


def overwritten(data: Path) -> None:
    for path in present(data):
        path.write_bytes(b"\xa5garbage" * (path.stat().st_size // 8 + 1))


def replace_by_copy(data: Path, copy: Path) -> None:
    deleted(data)
    for path in present(copy):
        shutil.copy(path, data)


def kept(data: Path) -> None:
    """Nothing is lost: what the others are compared with."""


def present(folder: Path) -> list[Path]:
    return [folder / name for name in FILES if (folder / name).exists()]


def take_copy(howk: Howk, copy: Path) -> None:
    """Hot state as it is at this moment; the process stands still meanwhile."""
    copy.mkdir()
    if howk.running:
        howk.signal(signal.SIGSTOP)
    try:
        for path in present(howk.data_dir):
            shutil.copy(path, copy)
    finally:
        if howk.running:
            howk.signal(signal.SIGCONT)


def behave(start: Start) -> Reply:
    match start.target:
        case "/good" | "/early":
            return Reply(200)
        case "/exhausted":
            return Reply(500)
        case "/unrecoverable":
            return Reply(404)
        case "/later":
            return Reply(500 if start.attempt == 1 else 200)
        case _:
            return Reply(0)


class Sent(NamedTuple):
    """Webhooks by what has become of them before the stop."""

    ended: list[str]
    waiting: list[str]
    open: list[str]

    @property
    def all(self) -> list[str]:
        return [*self.ended, *self.waiting, *self.open]


async def one_of_each(howk: Howk, receiver: Receiver) -> Sent:
    """Webhooks in every state: delivered, dead in two ways, waiting for a retry, under way, pending behind those."""
    # Enough of them that the files have many pages.
    delivered = await howk.enqueue_batch([envelope(receiver.url("/good"), b"%d" % number) for number in range(300)])
    dead = [
        await howk.enqueue(receiver.url("/exhausted"), max_attempts=1),
        await howk.enqueue(receiver.url("/unrecoverable")),
    ]
    await howk.reach(delivered, "delivered")
    await howk.reach(dead, "dead")
    waiting = [await howk.enqueue(receiver.url("/later")) for _ in range(2)]
    await howk.reach(waiting, "failed")
    open_ = [await howk.enqueue(receiver.url(f"/hangs/{number}")) for number in range(IN_FLIGHT + 3)]
    await howk.reach(open_[:IN_FLIGHT], "delivering")
    await howk.reach(open_[IN_FLIGHT:], "pending")
    return Sent([*delivered, *dead], waiting, open_)


@pytest.mark.parametrize("end", ["stopped", "killed"])
@pytest.mark.parametrize("loss", [kept, deleted, only_the_main_file_deleted, cut_in_half, overwritten])
async def test_a_loss_of_hot_state_changes_nothing_that_can_be_seen(tmp_path: Path, loss: Loss, end: str) -> None:
    clock = WallClock(tmp_path / "clock")
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS | clock.settings) as howk:
        sent = await one_of_each(howk, receiver)
        await goes_on_as_before(howk, receiver, clock, sent, end, lambda: loss(howk.data_dir))
        rebuilds = len(howk.said("rebuild_started"))
    # Half of a write-ahead log is a whole one of an earlier moment: then the log is read from there on.
    assert rebuilds == {kept: 0}.get(loss, 1) or (loss, end) == (cut_in_half, "killed")


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_copy_of_hot_state_from_an_earlier_run_changes_nothing(tmp_path: Path, end: str) -> None:
    copy, clock = tmp_path / "copy", WallClock(tmp_path / "clock")
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS | clock.settings) as howk:
        early = [await howk.enqueue(receiver.url("/early")), await howk.enqueue(receiver.url("/later"))]
        await howk.reach(early[:1], "delivered")
        await howk.reach(early[1:], "failed")
        await howk.stop()
        take_copy(howk, copy)
        clock.set(RETRY_AFTER)
        await howk.start()
        await howk.reach(early, "delivered")
        sent = await one_of_each(howk, receiver)
        sent.ended.extend(early)
        await goes_on_as_before(howk, receiver, clock, sent, end, lambda: replace_by_copy(howk.data_dir, copy))


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_copy_of_hot_state_from_the_same_run_changes_nothing(tmp_path: Path, end: str) -> None:
    copy, clock = tmp_path / "copy", WallClock(tmp_path / "clock")
    async with Receiver(behave) as receiver, Howk(tmp_path, SETTINGS | clock.settings) as howk:
        early = [await howk.enqueue(receiver.url("/early")), await howk.enqueue(receiver.url("/later"))]
        await howk.reach(early[:1], "delivered")
        await howk.reach(early[1:], "failed")
        take_copy(howk, copy)
        clock.set(RETRY_AFTER)
        await howk.reach(early, "delivered")
        sent = await one_of_each(howk, receiver)
        sent.ended.extend(early)
        await goes_on_as_before(howk, receiver, clock, sent, end, lambda: replace_by_copy(howk.data_dir, copy))


async def goes_on_as_before(
    howk: Howk, receiver: Receiver, clock: WallClock, sent: Sent, end: str, lose: Callable[[], None]
) -> None:
    """Stops howk, lets hot state be lost, starts it again, and looks at everything."""
    before = await howk.statuses(sent.all)
    await (howk.stop() if end == "stopped" else howk.kill())
    await receiver.deserted()
    first_life = len(receiver.starts)
    lose()
    await howk.start()

    # The open ones hang again, so that what is said of them is still what it was.
    await receiver.wait_for(lambda: receiver.in_flight == IN_FLIGHT, "as many are under way as before")
    after = await howk.statuses(sent.all)
    assert {id_: seen(status) for id_, status in after.items()} == {id_: seen(status) for id_, status in before.items()}

    receiver.behave = lambda _: Reply(200)
    receiver.release()
    clock.set(clock.ahead + RETRY_AFTER)
    ready = clock.now()
    statuses = await howk.reach([*sent.waiting, *sent.open], "delivered")
    again = receiver.starts[first_life:]
    assert {start.id for start in again}.isdisjoint(sent.ended)
    for id_ in sent.waiting:
        assert [start.attempt for start in receiver.of(id_)] == [1, 2]
        due = moment(before[id_]["next_retry_at"])
        retried = moment(statuses[id_]["delivered_at"])
        assert due <= retried <= max(due, ready) + LATE
    assert sorted(start.id for start in again if start.id in sent.open) == sorted(sent.open)
    assert await howk.stop() == 0


def seen(status: Json) -> Json:
    """A status without the difference between one that waits for its turn and one whose turn it is."""
    return status | {"state": "open"} if status.get("state") in ("pending", "delivering") else status


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
