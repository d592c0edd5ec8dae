"""A record on which a room fails unforeseen ends as one delivery; the process, the others, and what was begun go on."""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from tests.support import Corridor, Notes, opened, running

from howk.adapters.outbound.sender import OutboundSender
from howk.domain.records import (
    DEADLETTER,
    JSON_TYPE,
    PENDING,
    RESULTS,
    VERSION,
    DeadLetter,
    Delivery,
    Result,
    Target,
    reader,
)
from howk.flow import attempt, deliver, journal, projection
from howk.flow.journal import Journal
from howk.flow.stage import Emission, Emit, Lane, Stage
from howk.ports.log import Entry, Record
from howk.ports.sender import Answered, Call
from howk.ports.telemetry import POISON
from howk.runtime.observability import Metrics
from howk.testing.receiver import Receiver

_read_dead = reader(DeadLetter)
_POISON = b"poison"


class _Fragile:
    """A room that fails on a marked record: before it emits anything of the batch, after it emitted the ones before, or
    after it emitted the record itself. With `pause` it lets the stage write in between."""

    def __init__(self, when: str, *, pause: bool = False) -> None:
        self.when = when
        self.pause = pause
        self.refused: list[tuple[int, str]] = []
        self.settled_offsets: list[int] = []

    async def take(self, batch: Sequence[Entry], emit: Emit) -> None:
        if self.when == "before" and any(entry.value == _POISON for entry in batch):
            raise KeyError("s3cr3t of the payload")
        for entry in batch:
            if entry.value == _POISON and self.when == "between":
                raise KeyError("s3cr3t of the payload")
            emit(_echo(entry))
            if self.pause:
                await asyncio.sleep(0.002)
            if entry.value == _POISON and self.when == "after":
                raise KeyError("s3cr3t of the payload")

    async def refuse(self, entry: Entry, error: str, emit: Emit) -> None:
        self.refused.append((entry.offset, error))
        emit(Emission(entry, [Record(RESULTS, entry.key, b"refused")]))

    async def settled(self, emissions: Sequence[Emission]) -> None:
        self.settled_offsets += [emission.entry.offset for emission in emissions]


def _echo(entry: Entry) -> Emission:
    return Emission(entry, [Record(RESULTS, entry.key, entry.value)])


async def _values(corridor: Corridor, stream: str) -> list[bytes]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(stream)).items()
    return [e.value async for batch in corridor.engines.log.read(stream, place.partition, start, stop) for e in batch]


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize("pause", [False, True], ids=["at-once", "with-writes-between"])
@pytest.mark.parametrize("one_at_a_time", [False, True], ids=["many", "one"])
@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_a_poison_record_is_refused_alone_and_every_other_is_emitted_once(
    tmp_path: Path, when: str, one_at_a_time: bool, pause: bool
) -> None:
    async with opened(tmp_path) as corridor:
        values = [b"0", b"1", _POISON, b"3", _POISON, b"5"]
        await corridor.engines.log.append([Record(PENDING, "k", value) for value in values])
        metrics, notes, room = Metrics(), Notes(), _Fragile(when, pause=pause)
        log = Journal(corridor.engines.log, metrics)
        stage = Stage("fragile", room, (Lane(PENDING),), log, 6, metrics, notes, one_at_a_time=one_at_a_time)
        task = asyncio.ensure_future(stage.run())
        await _until(lambda: len(room.settled_offsets) == 6)
        await asyncio.wait_for(stage.drained(), 10)
        task.cancel()
        assert sorted(room.settled_offsets) == list(range(6))
        if one_at_a_time:
            assert room.settled_offsets == list(range(6))
        results = await _values(corridor, RESULTS)
        refusals = [] if when == "after" else [2, 4]
        assert [offset for offset, _ in room.refused] == refusals
        assert sorted(results) == sorted(b"refused" if i in refusals else value for i, value in enumerate(values))
        assert (await stage_progress(corridor, "fragile")) == 6
        if refusals:
            assert [event for event, _ in notes.lines] == ["poison", "poison"]
            assert f'{POISON.name}{{stage="fragile"}} 2.0' in metrics.expose().decode()
        for text in [message for _, message in notes.lines] + [error for _, error in room.refused]:
            assert "KeyError" in text
            assert "in take" in text
            assert "s3cr3t" not in text


async def stage_progress(corridor: Corridor, group: str) -> int:
    return next(iter((await corridor.engines.log.progress(PENDING, group)).values())).next


async def test_when_every_record_fails_it_is_not_the_records_and_the_process_ends(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "k", _POISON) for _ in range(150)])
        metrics, room = Metrics(), _Fragile("before")
        stage = Stage("fragile", room, (Lane(PENDING),), Journal(corridor.engines.log, metrics), 50, metrics, Notes())
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(stage.run(), 20)
        assert caught.group_contains(KeyError)
        assert len(room.refused) == 100


async def test_a_delivery_that_crashes_deliver_is_dead_and_those_beside_it_are_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attempt.parse_endpoint

    def fragile(url: str) -> object:
        if "poison" in url:
            raise IndexError("s3cr3t")
        return real(url)

    monkeypatch.setattr(attempt, "parse_endpoint", fragile)
    async with Receiver() as receiver:
        async with opened(tmp_path) as corridor:
            ids = [await corridor.send(f"{receiver.url}/{i}") for i in range(3)]
            poison = await corridor.send(f"{receiver.url}/poison", b'"payload-canary"')
            ids += [await corridor.send(f"{receiver.url}/{i}") for i in range(3, 6)]
        async with running(tmp_path) as corridor:
            for webhook_id in ids:
                assert (await corridor.ended(webhook_id)).state == "delivered"
            status = await corridor.ended(poison)
            assert (status.state, status.reason_type, status.attempts) == ("dead", "undecodable", 1)
            assert "IndexError" in status.last_error
            assert "s3cr3t" not in status.last_error
            letter = _read_dead((await _values(corridor, DEADLETTER))[0])
            assert letter.id == poison
            assert b"payload-canary" in b64decode(letter.raw_base64)
            assert "payload-canary" not in letter.error
        assert sorted(got.id for got in receiver.captured) == sorted(ids)


async def test_what_was_sent_before_the_sender_broke_off_is_not_sent_again_and_its_outcome_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver() as receiver:
        async with opened(tmp_path) as corridor:
            ids = [await corridor.send(f"{receiver.url}/{i}") for i in range(3)]
            poison = await corridor.send(f"{receiver.url}/poison")
            ids += [await corridor.send(f"{receiver.url}/{i}") for i in range(3, 6)]
        async with running_with_breaking_sender(tmp_path, monkeypatch) as corridor:
            for webhook_id in ids:
                assert (await corridor.ended(webhook_id)).state == "delivered"
            assert (await corridor.ended(poison)).reason_type == "undecodable"
            await asyncio.wait_for(corridor.house.deliver_stage.drained(), 10)
            assert corridor.engines.sender.in_flight() == 0
        assert sorted(got.id for got in receiver.captured) == sorted(ids)


async def test_a_fan_out_that_breaks_off_between_its_targets_sends_each_once_and_ends_what_was_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Receiver() as receiver:
        async with opened(tmp_path) as corridor:
            targets = tuple(
                Target(id=f"wh_{name}", endpoint=f"{receiver.url}/{name}") for name in ("a", "b", "poison", "c")
            )
            delivery = Delivery(
                v=VERSION,
                scope="app",
                created_at=corridor.clock.now(),
                max_attempts=5,
                targets=targets,
                payload_base64=b64encode(b"same").decode(),
                content_type=JSON_TYPE,
            )
            await corridor.engines.log.append([journal.pending(delivery)])
        async with running_with_breaking_sender(tmp_path, monkeypatch) as corridor:
            for name in ("a", "b"):
                assert (await corridor.ended(f"wh_{name}")).state == "delivered"
            for name in ("poison", "c"):
                assert (await corridor.ended(f"wh_{name}")).reason_type == "undecodable"
            await asyncio.wait_for(corridor.house.deliver_stage.drained(), 10)
        assert sorted(got.id for got in receiver.captured) == ["wh_a", "wh_b"]


def running_with_breaking_sender(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AbstractAsyncContextManager[Corridor]:
    """A house whose sender fails at a call to /poison, after it began the calls before."""
    real = OutboundSender.send

    def fragile(self: OutboundSender, calls: Sequence[Call], answered: Answered) -> None:
        for call in calls:
            if b"poison" in call.target:
                raise IndexError("the sender has a bug")
            real(self, (call,), answered)

    monkeypatch.setattr(OutboundSender, "send", fragile)
    return running(folder)


@pytest.mark.parametrize(("status", "state", "starts"), [(503, "dead", 2), (200, "delivered", 1)])
async def test_an_answer_that_howk_fails_on_is_an_outcome_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, state: str, starts: int
) -> None:
    def fragile(*_: object) -> object:
        raise ZeroDivisionError("s3cr3t")

    monkeypatch.setattr(deliver, "judge_answer", fragile)
    async with Receiver(status=status) as receiver, running(tmp_path, retry__jitter=0.0) as corridor:
        webhook_id = await corridor.send(receiver.url, max_attempts=2)
        if starts == 2:
            await corridor.failed(webhook_id, attempts=1)
            corridor.clock.advance(10_000)
        ended = await corridor.ended(webhook_id)
        assert (ended.state, ended.attempts, ended.last_status_code) == (state, starts, status)
        assert receiver.total == starts
        await asyncio.wait_for(corridor.house.deliver_stage.drained(), 10)
        told = [message for event, message in corridor.notes.lines if event == "poison"]
        assert len(told) == starts
        assert all("ZeroDivisionError" in message and "s3cr3t" not in message for message in told)


async def test_a_result_that_crashes_settle_is_a_dead_letter_and_the_others_settle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = projection.settle

    def fragile(results: Sequence[Result], *rest: Any) -> object:
        if any(result.id == poison and result.outcome == "delivered" for result in results):
            raise ZeroDivisionError("s3cr3t")
        return real(results, *rest)

    poison = ""
    monkeypatch.setattr(projection, "settle", fragile)
    async with Receiver() as receiver:
        async with opened(tmp_path) as corridor:
            ids = [await corridor.send(receiver.url) for _ in range(4)]
            poison = ids[1]
        async with running(tmp_path) as corridor:
            for webhook_id in ids:
                await corridor.ended(webhook_id)
            status = await corridor.status(poison)
            assert status is not None
            assert (status.state, status.reason_type) == ("dead", "undecodable")
            assert "ZeroDivisionError" in status.last_error
            assert [(await corridor.ended(i)).state for i in ids if i != poison] == ["delivered"] * 3
            ((_, (_, stop)),) = (await corridor.engines.log.bounds(RESULTS)).items()
            await corridor.house.settle_stage.caught_up()
            assert stop == 4


async def test_a_newer_record_beside_a_poison_one_still_stops_the_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = attempt.parse_endpoint

    def fragile(url: str) -> object:
        if "poison" in url:
            raise IndexError("s3cr3t")
        return real(url)

    monkeypatch.setattr(attempt, "parse_endpoint", fragile)
    async with opened(tmp_path) as corridor:
        poison = await corridor.send("http://127.0.0.1:9/poison", payload=b"1")
    async with running(tmp_path) as corridor:
        assert (await corridor.ended(poison)).reason_type == "undecodable"
        await corridor.engines.log.append([Record(PENDING, "app/x", b'{"v":9,"shape":"new"}')])
        await _until(lambda: bool(corridor.house.deliver_stage.problem))
        assert await stage_progress(corridor, "deliver") == 1
