"""The rooms together, over the embedded engine and real sockets, with the retry clock in the test's hands."""

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support import Corridor, ManualClock, opened, running

from howk.domain.records import DEADLETTER, PENDING, RESULTS, STATE, DeadLetter, Delivery, Target, reader
from howk.domain.signing_request import Signing
from howk.flow import journal
from howk.ports.log import Record
from howk.testing.receiver import Receiver

_read_dead = reader(DeadLetter)
_read_delivery = reader(Delivery)


async def _all(corridor: Corridor, stream: str) -> list[bytes]:
    (place, (start, stop)) = next(iter((await corridor.engines.log.bounds(stream)).items()))
    return [e.value async for batch in corridor.engines.log.read(stream, place.partition, start, stop) for e in batch]


async def _rows(corridor: Corridor) -> list[str]:
    return [entry.key async for batch in corridor.engines.log.replay(STATE) for entry in batch]


async def test_a_webhook_is_delivered_once_and_leaves_no_row_behind(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        webhook_id = await corridor.send(receiver.url, b'{ "a" : 1.0 }')
        status = await corridor.ended(webhook_id)
        assert (status.state, status.attempts, status.last_status_code) == ("delivered", 1, 200)
        assert [(got.id, got.body) for got in receiver.captured] == [(webhook_id, b'{ "a" : 1.0 }')]
        assert await _rows(corridor) == []
        assert await _all(corridor, DEADLETTER) == []


async def test_retries_come_at_their_time_and_count_up(tmp_path: Path) -> None:
    async with Receiver(fail_first_n=2) as receiver, running(tmp_path, retry__jitter=0.0) as corridor:
        began = corridor.clock.now()
        webhook_id = await corridor.send(receiver.url)
        waiting = await corridor.failed(webhook_id, attempts=1)
        assert waiting.next_retry_at == began + 10_000
        assert await _rows(corridor) == [webhook_id]
        corridor.clock.advance(10_000)
        waiting = await corridor.failed(webhook_id, attempts=2)
        assert waiting.next_retry_at == began + 10_000 + 20_000
        corridor.clock.advance(20_000)
        status = await corridor.ended(webhook_id)
        assert (status.state, status.attempts) == ("delivered", 3)
        assert [got.attempt for got in receiver.captured] == [1, 2, 3]
        assert {got.id for got in receiver.captured} == {webhook_id}
        assert await _rows(corridor) == []


async def test_the_last_failure_is_a_dead_letter_that_holds_the_answer(tmp_path: Path) -> None:
    async with Receiver(status=503) as receiver, running(tmp_path) as corridor:
        webhook_id = await corridor.send(receiver.url, b'"kept"', max_attempts=1)
        status = await corridor.ended(webhook_id)
        assert (status.state, status.reason_type, status.last_status_code) == ("dead", "exhausted", 503)
        letter = _read_dead((await _all(corridor, DEADLETTER))[0])
        assert (letter.id, letter.reason, letter.attempts) == (webhook_id, "exhausted", 1)
        assert letter.delivery is not None
        assert letter.delivery.body == b'"kept"'
        assert letter.response is not None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(404, "unrecoverable"), (302, "unrecoverable"), (410, "endpoint_gone"), (413, "payload_too_large")],
)
async def test_an_answer_that_no_retry_can_mend_ends_at_once(tmp_path: Path, answer: int, reason: str) -> None:
    async with Receiver(status=answer) as receiver, running(tmp_path) as corridor:
        status = await corridor.ended(await corridor.send(receiver.url))
        assert (status.state, status.reason_type, status.attempts) == ("dead", reason, 1)
        assert receiver.total == 1


async def test_retry_after_is_honoured_over_the_policy(tmp_path: Path) -> None:
    async with (
        Receiver(status=429, answer_headers={"Retry-After": "100"}) as receiver,
        running(tmp_path, retry__jitter=0.0) as corridor,
    ):
        began = corridor.clock.now()
        status = await corridor.failed(await corridor.send(receiver.url), attempts=1)
        assert status.next_retry_at == began + 100_000


_SECRET = "whsec_" + b64encode(b"0123456789secret").decode()
_OLD = "the secret of last year"
_KEY = "whsk_" + b64encode(b"the seed of a private key, 32 by").decode()


@pytest.mark.parametrize(
    ("signing", "hidden"),
    [
        ({"signing_secret": _SECRET}, [_SECRET]),
        ({"signing": Signing(secrets=[_SECRET, _OLD], ed25519_key=_KEY)}, [_SECRET, _OLD, _KEY]),
        ({"signing": Signing(profile="harborhook", secrets=[_SECRET])}, [_SECRET]),
    ],
)
async def test_nothing_secret_stands_in_clear_on_the_disk(
    tmp_path: Path, signing: dict[str, Any], hidden: list[str]
) -> None:
    token, password = "Bearer hush-hush", "s3cr3t-pass"
    async with Receiver(fail_first_n=1) as receiver, running(tmp_path) as corridor:
        url = receiver.url.replace("http://", f"http://me:{password}@").rstrip("/") + "/hook?token=qu3ry-secret"
        headers = {"Authorization": token, "X-Plain": "seen"}
        await corridor.failed(await corridor.send(url, headers=headers, max_attempts=2, **signing), attempts=1)
        got = receiver.captured[0]
        assert got.target == "/hook?token=qu3ry-secret"
        assert got.header("authorization") == token
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name != "secret.key")
        bare = [text.partition("_")[2] or text for text in hidden]
        for text in (*hidden, *bare, token, "hush-hush", password, "qu3ry-secret"):
            assert text.encode() not in stored
        assert b"X-Plain" in stored


async def test_a_blocked_address_is_dead_with_its_own_reason(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        delivery = Delivery(
            v=1, scope="app", created_at=corridor.clock.now(), max_attempts=5, targets=(), payload_base64=""
        )
        await corridor.engines.log.append(
            [_aimed(delivery, "wh_a", "http://10.0.0.1/"), _aimed(delivery, "wh_b", "nowhere")]
        )
        assert (await corridor.ended("wh_a")).reason_type == "blocked_address"
        assert (await corridor.ended("wh_b")).reason_type == "invalid_endpoint"


def _aimed(delivery: Delivery, id_: str, url: str) -> Record:
    return journal.pending(replace(delivery, targets=(Target(id=id_, endpoint=url),)))


async def test_a_record_nobody_can_read_is_dead_lettered_raw_under_its_place(tmp_path: Path) -> None:
    async with Receiver() as receiver, running(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "app/x", b"\x00 not json")])
        webhook_id = await corridor.send(receiver.url)
        assert (await corridor.ended(webhook_id)).state == "delivered"
        status = await corridor.ended("howk.pending/0/0")
        assert (status.state, status.reason_type) == ("dead", "undecodable")
        letter = _read_dead((await _all(corridor, DEADLETTER))[0])
        assert letter.raw_base64 == b64encode(b"\x00 not json").decode()
        assert letter.source == "howk.pending/0/0"


async def test_a_record_nobody_can_read_ends_the_webhook_that_its_key_names(tmp_path: Path) -> None:
    async with Receiver(fail_first_n=1) as receiver, running(tmp_path, retry__jitter=0.0) as corridor:
        webhook_id = await corridor.send(receiver.url)
        await corridor.failed(webhook_id, attempts=1)
        await corridor.engines.log.append([Record("howk.slow", f"app/{webhook_id}", b'{"v":1,"half')])
        status = await corridor.ended(webhook_id)
        assert (status.state, status.reason_type) == ("dead", "undecodable")
        assert await _rows(corridor) == []
        letter = _read_dead((await _all(corridor, DEADLETTER))[0])
        assert (letter.id, letter.source) == (webhook_id, "howk.slow/0/0")


async def test_a_result_nobody_can_read_is_dead_lettered_too(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await corridor.engines.log.append([Record(RESULTS, "app/x", b"[]")])
        status = await corridor.ended("howk.results/0/0")
        assert (status.state, status.reason_type) == ("dead", "undecodable")


async def test_a_newer_record_stops_the_stage_in_words_and_is_not_dead_lettered(tmp_path: Path) -> None:
    async with running(tmp_path) as corridor:
        await corridor.engines.log.append([Record(PENDING, "app/x", b'{"v":9,"shape":"new"}')])
        async with asyncio.timeout(10):
            while not corridor.house.deliver_stage.problem:
                await asyncio.sleep(0)
        assert "newer howk" in corridor.house.deliver_stage.problem
        progress = await corridor.engines.log.progress(PENDING, "deliver")
        assert next(iter(progress.values())).next == 0
        assert await _all(corridor, DEADLETTER) == []


async def test_a_record_that_was_claimed_twice_is_sent_once(tmp_path: Path) -> None:
    async with Receiver(fail_first_n=1) as receiver, running(tmp_path, retry__jitter=0.0) as corridor:
        webhook_id = await corridor.send(receiver.url)
        await corridor.failed(webhook_id, attempts=1)
        corridor.clock.advance(10_000)
        await corridor.ended(webhook_id)
        slow = await _all(corridor, "howk.slow")
        await corridor.engines.log.append([Record("howk.slow", f"app/{webhook_id}", value) for value in slow * 2])
        other = await corridor.send(receiver.url)
        await corridor.failed(other, attempts=1)
        corridor.clock.advance(10_000)
        await corridor.ended(other)
        await corridor.house.deliver_stage.caught_up()
        assert [got.attempt for got in receiver.captured if got.id == webhook_id] == [1, 2]


async def test_one_record_with_several_targets_reaches_each_and_retries_only_the_one_that_failed(
    tmp_path: Path,
) -> None:
    async with Receiver() as good, Receiver(fail_first_n=1) as bad, running(tmp_path, retry__jitter=0.0) as corridor:
        targets = (Target(id="wh_good", endpoint=good.url), Target(id="wh_bad", endpoint=bad.url))
        delivery = Delivery(
            v=1,
            scope="app",
            created_at=corridor.clock.now(),
            max_attempts=5,
            targets=targets,
            payload_base64=b64encode(b"same").decode(),
        )
        await corridor.engines.log.append([journal.pending(delivery)])
        assert (await corridor.ended("wh_good")).state == "delivered"
        await corridor.failed("wh_bad", attempts=1)
        corridor.clock.advance(10_000)
        assert (await corridor.ended("wh_bad")).attempts == 2
        assert [got.id for got in good.captured] == ["wh_good"]
        assert [got.body for got in bad.captured] == [b"same", b"same"]


async def test_what_was_accepted_before_the_stages_run_is_delivered_by_the_next_process(tmp_path: Path) -> None:
    clock = ManualClock()
    async with Receiver() as receiver:
        async with opened(tmp_path, clock) as corridor:
            ids = [await corridor.send(receiver.url) for _ in range(20)]
        async with running(tmp_path, clock) as corridor:
            for webhook_id in ids:
                assert (await corridor.ended(webhook_id)).state == "delivered"
        assert sorted(got.id for got in receiver.captured) == sorted(ids)
