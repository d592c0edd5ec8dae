"""howk is asked to stop in the midst of its work: it drains, says what it had to cut, and goes on at the next start."""

import asyncio
import signal
from pathlib import Path
from random import Random

import pytest
from tests.e2e.harness import Howk, Load, Receiver, Reply, Start, envelope, mostly_good

pytestmark = pytest.mark.e2e

QUICK = {
    "HOWK_RETRY_BASE_DELAY": "200ms",
    "HOWK_RETRY_MAX_ATTEMPTS": "4",
    # A fifth of the attempts fails: now and then by chance enough of one endpoint's.
    "HOWK_CIRCUIT_BREAKER_RECOVERY_TIMEOUT": "500ms",
    "HOWK_CIRCUIT_BREAKER_PROBE_INTERVAL": "500ms",
}


PATIENT = {"HOWK_DELIVERY_DRAIN": "1s", "HOWK_DELIVERY_TIMEOUT": "10m"}


def hangs(_: Start) -> Reply:
    return Reply(0)


def items(receiver: Receiver, count: int, path: str = "/") -> list[bytes]:
    """Each for an endpoint of its own: one that hangs is not given more than a few."""
    return [envelope(receiver.url(f"{path}{number}"), b"%d" % number) for number in range(count)]


async def test_sigterm_under_load_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    chance = Random()
    behave = mostly_good(1, slow=0.3)
    async with Receiver(behave) as receiver, Howk(tmp_path, QUICK) as howk:
        async with Load(howk, receiver, depth=200) as load:
            for _ in range(3):
                so_far = len(receiver.starts)
                await receiver.wait_for(lambda so_far=so_far: len(receiver.starts) > so_far + 400, "the load runs")
                await asyncio.sleep(chance.uniform(0, 0.3))
                await receiver.wait_for(lambda: receiver.in_flight > 0, "something is under way")
                assert await howk.stop() == 0
                await howk.start()
        statuses = await howk.reach(load.ledger, "delivered", "dead")
        assert await howk.stop() == 0
    assert receiver.repeated() == {}
    assert howk.said("cut_off") == []
    assert [
        id_ for id_, status in statuses.items() if (status["state"] == "delivered") != (id_ in receiver.delivered)
    ] == []


async def test_a_second_signal_aborts_and_says_how_many_attempts_were_cut(tmp_path: Path) -> None:
    async with Receiver(hangs) as receiver, Howk(tmp_path, {"HOWK_DELIVERY_TIMEOUT": "10m"}) as howk:
        ids = await howk.enqueue_batch(items(receiver, 30))
        await receiver.wait_for(lambda: receiver.in_flight == 30, "all are under way")
        howk.signal(signal.SIGTERM)
        await howk.heard("stopping")
        howk.signal(signal.SIGTERM)
        assert await howk.ended() == 1
        assert [line["count"] for line in howk.said("cut_off")] == [30]

        receiver.behave = lambda _: Reply()
        await howk.start()
        await howk.reach(ids, "delivered")
    assert receiver.repeated() == {(id_, 1): 1 for id_ in ids}


async def test_what_outlasts_the_drain_is_cut_said_and_sent_again_at_the_next_start(tmp_path: Path) -> None:
    async with Receiver() as receiver, Howk(tmp_path, PATIENT) as howk:
        good = await howk.enqueue_batch(items(receiver, 20))
        await howk.reach(good, "delivered")
        receiver.behave = hangs
        cut = await howk.enqueue_batch(items(receiver, 10))
        await receiver.wait_for(lambda: receiver.in_flight == 10, "the hanging ones are under way")
        assert await howk.stop() == 0
        assert [line["count"] for line in howk.said("cut_off")] == [10]

        receiver.behave = lambda _: Reply()
        await howk.start()
        await howk.reach([*good, *cut], "delivered")
    assert receiver.repeated() == {(id_, 1): 1 for id_ in cut}


@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_a_restart_delivers_a_backlog_of_thousands(tmp_path: Path, end: str) -> None:
    settings = {"HOWK_DELIVERY_DRAIN": "0s", "HOWK_DELIVERY_MAX_IN_FLIGHT": "50", "HOWK_DELIVERY_TIMEOUT": "10m"}
    async with Receiver(hangs) as receiver, Howk(tmp_path, settings) as howk:
        ids = [id_ for _ in range(5) for id_ in await howk.enqueue_batch(items(receiver, 500))]
        await receiver.wait_for(lambda: receiver.in_flight == 50, "as many are under way as may be")
        assert await (howk.stop() if end == "stopped" else howk.kill()) in (0, None)
        await receiver.deserted()

        receiver.behave = lambda _: Reply()
        await howk.start()
        await howk.reach(ids, "delivered")
    assert sum(receiver.repeated().values()) == 50


async def test_a_receiver_that_was_down_over_a_restart_gets_everything(tmp_path: Path) -> None:
    # However long it is down, no breaker holds anything for longer than that.
    settings = {"HOWK_RETRY_BASE_DELAY": "300ms", "HOWK_CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1000"}
    async with Receiver() as receiver, Howk(tmp_path, settings) as howk:
        await receiver.close()
        ids = [id_ for n in range(4) for id_ in await howk.enqueue_batch(items(receiver, 500, f"/{n}/"))]
        await howk.reach(ids, "failed")
        assert await howk.stop() == 0

        await receiver.open()
        await howk.start()
        statuses = await howk.reach(ids, "delivered")
    assert min(status["attempts"] for status in statuses.values()) > 1
    assert receiver.repeated() == {}


async def test_a_new_webhook_does_not_wait_behind_an_older_one_that_hangs_after_a_restart(tmp_path: Path) -> None:
    def behave(start: Start) -> Reply:
        return Reply(0 if start.target == "/hangs" else 200)

    settings = {"HOWK_DELIVERY_MAX_IN_FLIGHT": "50", "HOWK_DELIVERY_TIMEOUT": "10m"}
    async with Receiver(behave) as receiver, Howk(tmp_path, settings) as howk:
        old = await howk.enqueue(receiver.url("/hangs"))
        done = [id_ for _ in range(3) for id_ in await howk.enqueue_batch(items(receiver, 500))]
        await howk.reach(done, "delivered")
        await howk.kill()
        await howk.start()
        await receiver.wait_for(lambda: len(receiver.of(old)) == 2, "the old one hangs again")
        new = await howk.enqueue(receiver.url("/new"))
        await howk.reach([new], "delivered")
        receiver.release()
        await howk.reach([old], "delivered")
    assert receiver.repeated() == {(old, 1): 1}


async def test_a_second_howk_on_the_same_directory_is_refused_in_words(tmp_path: Path) -> None:
    async with Howk(tmp_path) as howk:
        other = Howk(tmp_path)
        await other.launch()
        assert await other.ended() == 1
        [line] = other.lines
        assert "is in use by another howk" in line["message"]
        assert str(howk.pid) in line["message"]
        assert "HOWK_DATA_DIR" in line["message"]
        await howk.ready()
