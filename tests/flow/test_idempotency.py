"""Requests with a key, over the embedded engine: one delivery for each key, whatever dies between the steps."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from msgspec import Raw
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.delivery import Status
from howk.domain.errors import Full, HowkError, Rejected, Transient
from howk.domain.idempotency import body_hash, scoped
from howk.domain.ids import RANDOM_BYTES, delivery_id
from howk.domain.records import KEYS, PENDING, Delivery, KeyRecord, Target, encode, reader
from howk.flow import journal
from howk.flow.ingest import Enqueue, Request
from howk.flow.journal import Journal
from howk.flow.keyed import Accepted, Answer, Item, Keyed
from howk.ports.log import Finish, Log, Record
from howk.ports.state import HotState, KeyAsk, KeyEnd
from howk.ports.telemetry import RECEIVED
from howk.runtime.wiring import SystemRandom
from howk.testing.receiver import Receiver

URL = "http://127.0.0.1:9/"
DAY = 86_400_000
_read = reader(Delivery)


def request(key: str | None, payload: bytes = b"1", url: str = URL) -> Request:
    """A request whose bytes are its payload's."""
    return Request(Enqueue(endpoint=url, payload=Raw(payload)), key, body_hash(payload))


async def send(corridor: Corridor, *requests: Request, scope: str = "app") -> list[Answer]:
    return await corridor.house.ingest.accept_keyed(scope, requests, "test")


async def one(corridor: Corridor, key: str, payload: bytes = b"1", scope: str = "app") -> Accepted:
    """The answer to a request that is accepted."""
    (answer,) = await send(corridor, request(key, payload), scope=scope)
    assert isinstance(answer, Accepted), answer
    return answer


async def values(corridor: Corridor, stream: str) -> list[bytes]:
    ((place, (start, stop)),) = (await corridor.engines.log.bounds(stream)).items()
    batches = corridor.engines.log.read(stream, place.partition, start, stop)
    return [entry.value async for batch in batches for entry in batch]


async def logged(corridor: Corridor) -> list[str]:
    """The ids of the deliveries in the log."""
    return [_read(value).targets[0].id for value in await values(corridor, PENDING)]


def lose_hot_state(folder: Path) -> None:
    for path in folder.glob("hot.db*"):
        path.unlink()


async def append_as_one_that_dies_then(corridor: Corridor, key: str, payload: bytes = b"1") -> str:
    """What a process has done that is killed between its append and the confirm; the id."""
    now = corridor.clock.now()
    id_ = delivery_id(now, SystemRandom().bytes(RANDOM_BYTES))
    target = Target(id=id_, endpoint=URL)
    delivery = Delivery(v=1, scope="app", targets=(target,), created_at=now, max_attempts=5, payload=Raw(payload))
    record = KeyRecord(v=1, scope="app", key=key, body=body_hash(payload), id=id_, accepted_at=now)
    await corridor.engines.log.append([journal.pending(delivery), journal.kept(record)])
    return id_


async def test_a_repeat_gets_the_first_answer_and_enters_nothing(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        (first,) = await send(corridor, request("k", url=receiver.url))
        assert isinstance(first, Accepted)
        await corridor.ended(first.id)
        assert await send(corridor, request("k", url=receiver.url)) == [Accepted(first.id, replayed=True)]
        assert await logged(corridor) == [first.id]
        assert receiver.total == 1
        assert f'{RECEIVED.name}{{route="test"}} 1.0' in corridor.metrics.expose().decode()


async def test_of_many_at_once_one_enters_and_all_get_its_answer(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        found = await asyncio.gather(*[one(corridor, f"k{n % 20}") for n in range(200)])
        ids = await logged(corridor)
        assert len(ids) == 20
        assert {answer.id for answer in found} == set(ids)
        assert sum(not answer.replayed for answer in found) == 20


async def test_another_body_under_a_key_is_refused_and_enters_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await one(corridor, "k", b"1")
        (answer,) = await send(corridor, request("k", b"2"))
        assert isinstance(answer, Rejected)
        assert (answer.code, answer.problems[0].field) == ("idempotency_key_reused", "idempotency_key")
        assert len(await logged(corridor)) == 1


async def test_a_key_is_its_configs_own(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        ids = {(await one(corridor, "k", scope=scope)).id for scope in ("app", "app2")}
        assert len(ids) == 2


async def test_a_key_is_free_again_a_day_after_acceptance(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        first = await one(corridor, "k")
        corridor.clock.advance(DAY - 1)
        assert await one(corridor, "k") == (first.id, True)
        corridor.clock.advance(1)
        second = await one(corridor, "k", b"2")
        assert second.id != first.id
        assert await one(corridor, "k", b"2") == (second.id, True)


async def test_how_long_a_key_is_kept_is_a_setting(tmp_path: Path) -> None:
    clock = ManualClock()
    async with running(tmp_path, clock, ttl__idempotency_ttl=60.0) as corridor:
        first = await one(corridor, "k")
    lose_hot_state(tmp_path)
    clock.advance(60_000)
    async with running(tmp_path, clock, ttl__idempotency_ttl=60.0) as corridor:
        assert (await one(corridor, "k")).id != first.id


async def test_a_refused_request_leaves_its_key_free(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        (answer,) = await send(corridor, request("k", url="ftp://x/"))
        assert isinstance(answer, Rejected)
        assert not (await one(corridor, "k", b"2")).replayed


async def test_a_repeat_gets_the_first_answer_even_where_it_would_be_refused_by_now(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        first = await one(corridor, "k", b'"long enough"')
    async with running(tmp_path, api__max_payload_size=3) as corridor:
        assert await one(corridor, "k", b'"long enough"') == (first.id, True)


# Batches


async def test_a_batch_judges_each_request_in_its_place(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        first = await one(corridor, "old")
        answers = await send(
            corridor,
            request(None),
            request("old"),
            request("new"),
            request("new"),
            request("new", b"2"),
            request("old", b"2"),
            request("bad key"),
            request("bad-url", url="nowhere"),
            request("bad-url", b"2"),
        )
        kinds = [answer.code if isinstance(answer, Rejected) else answer for answer in answers]
        unkeyed, new, last = answers[0], answers[2], answers[8]
        assert isinstance(unkeyed, Accepted)
        assert isinstance(new, Accepted)
        assert isinstance(last, Accepted)
        assert kinds == [
            Accepted(unkeyed.id),
            Accepted(first.id, replayed=True),
            Accepted(new.id),
            Accepted(new.id, replayed=True),
            "idempotency_key_reused",
            "idempotency_key_reused",
            "invalid_idempotency_key",
            "invalid_endpoint",
            Accepted(last.id),
        ]
        assert sorted(await logged(corridor)) == sorted([first.id, unkeyed.id, new.id, last.id])


async def test_batches_that_wait_for_each_other_come_to_an_end(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        keys = [f"k{n}" for n in range(50)]
        orders = [keys, keys[::-1], keys[25:] + keys[:25]] * 4
        found = await asyncio.gather(*[send(corridor, *map(request, order)) for order in orders])
        pairs = {
            pair for order, answers in zip(orders, found, strict=True) for pair in zip(order, answers, strict=True)
        }
        ids = {(key, answer.id) for key, answer in pairs if isinstance(answer, Accepted)}
        assert {key for key, _ in ids} == set(keys)
        assert {id_ for _, id_ in ids} == set(await logged(corridor))
        assert len(ids) == 50


# Crashes


async def test_a_kill_between_claim_and_append_leaves_the_key_free(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await corridor.engines.state.claim_keys([KeyAsk(scoped("app", "k"), body_hash(b"1"), "wh_lost")], 0)
    async with running(tmp_path) as corridor:
        assert not (await one(corridor, "k")).replayed
        assert len(await logged(corridor)) == 1


@pytest.mark.parametrize("lost", [False, True])
async def test_a_kill_between_append_and_confirm_is_answered_from_the_log(tmp_path: Path, lost: bool) -> None:
    async with running(tmp_path) as corridor:
        confirmed = await one(corridor, "confirmed")
        appended = await append_as_one_that_dies_then(corridor, "k")
    if lost:
        lose_hot_state(tmp_path)
    async with running(tmp_path) as corridor:
        assert await one(corridor, "k") == (appended, True)
        assert await one(corridor, "confirmed") == (confirmed.id, True)
        assert isinstance((await send(corridor, request("k", b"2")))[0], Rejected)
        assert sorted(await logged(corridor)) == sorted([appended, confirmed.id])


async def test_until_the_keys_are_read_a_keyed_request_waits_and_others_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        id_ = await append_as_one_that_dies_then(corridor, "k")
    for _ in range(2):
        async with opened(tmp_path) as corridor:
            await corridor.send(URL)
            with pytest.raises(Transient, match="try again"):
                await send(corridor, request("k"))
            await corridor.house.reconcile.recover()
            with pytest.raises(Transient, match="try again"):
                await send(corridor, request(None), request("k"))
            await corridor.house.recall.turn()
            assert await one(corridor, "k") == (id_, True)


async def test_what_was_read_once_is_not_read_again_by_the_next_process(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        ids = [(await one(corridor, f"k{n}")).id for n in range(20)]
        await corridor.house.recall.turn()
    async with opened(tmp_path) as corridor:
        assert dict(await corridor.engines.state.accept(())) == {0: 20}
        await corridor.house.recall.turn()
        assert [(await one(corridor, f"k{n}")).id for n in range(20)] == ids


class _Failing:
    """A log whose appends fail as told: before they happen, after, or after an event."""

    def __init__(self, log: Log, error: HowkError | None = None, *, after: bool = False) -> None:
        self._log = log
        self.error = error
        self.after = after
        self.go = asyncio.Event()
        if error:
            self.go.set()

    async def append(self, records: Sequence[Record], finish: Finish | None = None) -> None:
        await self.go.wait()
        if self.error is None or self.after:
            await self._log.append(records, finish)
        if self.error:
            raise self.error


def keyed(corridor: Corridor, log: _Failing, state: "_Forgetful | None" = None) -> Keyed:
    """What ingest knows of keys, before another log, and in no mood to wait."""
    front = Journal(log, corridor.metrics)  # pyright: ignore[reportArgumentType]

    def records(deliveries: Sequence[Delivery]) -> list[Record]:
        return [journal.accepted(delivery) for delivery in deliveries]

    hot = state or corridor.engines.state
    return Keyed(front, hot, corridor.clock, SystemRandom(), records, wait=0.01)  # pyright: ignore[reportArgumentType]


def item(key: str) -> Item:
    """The same request as `request` makes."""

    def make(now: int, id_: str) -> Delivery:
        targets = (Target(id=id_, endpoint=URL),)
        return Delivery(v=1, scope="app", targets=targets, created_at=now, max_attempts=5, payload=Raw(b"1"))

    return Item(key, body_hash(b"1"), make)


@pytest.mark.parametrize("after", [False, True])
async def test_an_append_of_unknown_end_never_gives_a_key_two_deliveries(tmp_path: Path, after: bool) -> None:
    async with running(tmp_path) as corridor:
        broken = keyed(corridor, _Failing(corridor.engines.log, Transient("the disk is away"), after=after))
        for _ in range(2):
            with pytest.raises(Transient, match="the disk is away"):
                await broken.accept("app", [item("k")])
        assert isinstance((await send(corridor, request("k", b"2")))[0], Rejected)
        answer = await one(corridor, "k")
        assert set(await logged(corridor)) == {answer.id}


async def test_what_a_full_log_refused_leaves_the_key_free(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        broken = keyed(corridor, _Failing(corridor.engines.log, Full("too much waits")))
        with pytest.raises(Full):
            await broken.accept("app", [item("k")])
        assert not (await one(corridor, "k", b"2")).replayed


class _Forgetful:
    """Hot state that can't be told once what became of a key."""

    def __init__(self, state: HotState) -> None:
        self._state = state
        self.claim_keys = state.claim_keys
        self.fails = True

    async def accept(self, statuses: Sequence[Status], keys: Sequence[KeyEnd] = ()) -> Mapping[int, int]:
        if self.fails:
            self.fails = False
            raise Transient("hot state is away")
        return await self._state.accept(statuses, keys)


@pytest.mark.parametrize("error", [None, Transient("the disk is away"), Full("too much waits")])
async def test_a_key_whose_end_could_not_be_told_is_free_for_the_next_request(
    tmp_path: Path, error: HowkError | None
) -> None:
    async with running(tmp_path) as corridor:
        log = _Failing(corridor.engines.log, error)
        log.go.set()
        forgetful = keyed(corridor, log, _Forgetful(corridor.engines.state))
        with pytest.raises(Transient):
            await forgetful.accept("app", [item("k")])
        log.error = None
        (answer,) = await forgetful.accept("app", [item("k")])
        assert isinstance(answer, Accepted)
        assert set(await logged(corridor)) == {answer.id}


async def test_a_repeat_waits_for_the_first_a_bounded_time(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        log = _Failing(corridor.engines.log)
        slow = keyed(corridor, log)
        first = asyncio.ensure_future(slow.accept("app", [item("k")]))
        await asyncio.sleep(0)
        (late,) = await slow.accept("app", [item("k")])
        assert isinstance(late, Transient)
        assert late.retry_after > 0
        patient = asyncio.ensure_future(one(corridor, "k"))
        await asyncio.sleep(0)
        log.go.set()
        (answer,) = await first
        assert isinstance(answer, Accepted)
        assert await patient == (answer.id, True)


async def test_a_client_that_leaves_in_the_midst_of_the_append_gives_its_key_no_second_delivery(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as corridor:
        left = asyncio.ensure_future(send(corridor, request("k")))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        answer = await one(corridor, "k")
        assert set(await logged(corridor)) == {answer.id}


# What stands in the log


async def test_what_is_older_than_a_key_lives_is_dropped_from_the_log(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.house.recall.turn()
        for n in range(5):
            await one(corridor, f"early{n}")
        corridor.clock.advance(DAY // 2)
        for n in range(5):
            await one(corridor, f"late{n}")
        await corridor.house.recall.turn()
        assert len(await values(corridor, KEYS)) == 10
        corridor.clock.advance(DAY // 2)
        await corridor.house.recall.turn()
        assert len(await values(corridor, KEYS)) == 5
        assert all([(await one(corridor, f"late{n}")).replayed for n in range(5)])
        corridor.clock.advance(DAY)
        await corridor.house.recall.turn()
        assert len(await values(corridor, KEYS)) == 1
        assert not (await one(corridor, "late0")).replayed


async def test_the_log_keeps_the_hash_of_a_body_and_not_the_body(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        answer = await one(corridor, "k", b'"hush"')
        (value,) = await values(corridor, KEYS)
        record = reader(KeyRecord)(value)
        assert (record.scope, record.key, record.id) == ("app", "k", answer.id)
        assert record.body == body_hash(b'"hush"')
        assert b"hush" not in value


async def test_without_a_key_nothing_is_written_of_keys(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await corridor.send(URL)
        await send(corridor, request(None))
        assert await values(corridor, KEYS) == []


async def test_a_key_record_nobody_can_read_is_said_and_holds_nothing_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(KEYS, "app/x", b"{")])
        id_ = await append_as_one_that_dies_then(corridor, "k")
        await corridor.house.recall.turn()
        assert await one(corridor, "k") == (id_, True)
        assert [event for event, _ in corridor.notes.lines].count("undecodable") == 1


async def test_a_newer_key_record_stops_keyed_requests_in_words_and_is_left_unread(tmp_path: Path) -> None:
    async with opened(tmp_path) as corridor:
        await corridor.engines.log.append([Record(KEYS, "app/x", b'{"v":9,"shape":"new"}')])
        await corridor.house.recall.turn()
        assert "newer howk" in corridor.house.recall.problem
        assert dict(await corridor.engines.state.accept(())) == {}
        with pytest.raises(Transient):
            await send(corridor, request("k"))
        await corridor.send(URL)


def test_a_key_record_is_about_as_short_as_its_key() -> None:
    longest = KeyRecord(v=1, scope="s" * 128, key="k" * 255, body="0" * 64, id="wh_" + "0" * 26, accepted_at=1 << 50)
    assert len(encode(longest)) < 640
