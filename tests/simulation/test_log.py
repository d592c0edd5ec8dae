"""The simulated log against the suite of the port, with one partition and with several, on a real loop."""

from random import Random

import pytest
from tests.simulation.log import LogDurable, SimulatedLog

from howk.domain.records import PENDING, RESULTS
from howk.ports.log import Finish, Log, Place, Record
from howk.testing.clock import ManualClock
from howk.testing.log_suite import LogSuite, everything, values


class TestSimulatedLog(LogSuite):
    partitions = 1

    @pytest.fixture(autouse=True)
    def _place(self) -> None:
        self.durable = LogDurable(self.partitions)
        self.clock = ManualClock()

    async def open_log(self) -> Log:
        return SimulatedLog(self.durable, self.clock, chance=Random(7))

    async def later(self) -> None:
        self.clock.advance(1)


class TestSimulatedLogOfSeveralPartitions(TestSimulatedLog):
    partitions = 3


async def test_a_kill_keeps_what_was_answered_and_of_what_is_under_way_each_append_whole_or_not_at_all() -> None:
    fates: set[str] = set()
    for seed in range(20):
        durable = LogDurable(2)
        log = SimulatedLog(durable, ManualClock())
        await log.append([Record(PENDING, "a", b"answered")])
        appends = [
            log.append([Record(PENDING, "a", b"%d" % n), Record(RESULTS, "a", b"%d" % n)], finish_of(n))
            for n in range(3)
        ]
        for append in appends:
            append.send(None)
        fates.update(log.kill(Random(seed)))
        found = values(durable.everything(PENDING))
        assert found[0] == b"answered"
        assert values(durable.everything(RESULTS)) == found[1:]
        done = durable.of_group("group", Place(PENDING, 0))
        assert [b"%d" % n for n in range(3) if n in done] == found[1:]
        for append in appends:
            append.close()
    assert fates == {"lost", "kept"}


async def test_a_log_without_atomic_appends_may_keep_the_records_and_lose_their_progress() -> None:
    fates: set[str] = set()
    for seed in range(20):
        durable = LogDurable(1)
        log = SimulatedLog(durable, ManualClock(), atomic=False)
        append = log.append([Record(PENDING, "a", b"1")], finish_of(0))
        append.send(None)
        (fate,) = log.kill(Random(seed))
        fates.add(fate)
        assert len(durable.everything(PENDING)) == (fate != "lost")
        assert (0 in durable.of_group("group", Place(PENDING, 0))) == (fate == "kept")
        append.close()
    assert fates == {"lost", "kept", "half"}


async def test_the_order_of_one_key_holds_and_that_between_keys_does_not() -> None:
    durable = LogDurable(4)
    log = SimulatedLog(durable, ManualClock(), chance=Random(1))
    written = [Record(PENDING, f"k{n % 8}", b"%d" % n) for n in range(64)]
    await log.append(written)
    consumer = await log.consume(PENDING, "group", lambda: None)
    read = [entry for _ in range(16) for entry in await consumer.fetch(4)]
    assert sorted(values(read)) == sorted(record.value for record in written)
    assert values(read) != [record.value for record in written]
    for key in {record.key for record in written}:
        assert [e.value for e in read if e.key == key] == [r.value for r in written if r.key == key]
    assert len(await everything(log, PENDING)) == 64


def finish_of(offset: int) -> Finish:
    return Finish("group", {Place(PENDING, 0): (offset,)})
