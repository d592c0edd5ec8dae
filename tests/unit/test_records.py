"""The shapes of the log: what a version wrote once is read for ever, and a payload keeps every byte."""

import re
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct
from msgspec.structs import replace

from howk.domain.breaker import Circuit
from howk.domain.delivery import cancelled_result, put_aside, schedule
from howk.domain.endpoints import endpoint_id
from howk.domain.errors import NewerRecord, Permanent, Undecodable
from howk.domain.records import (
    Capture,
    ConfigRecord,
    DeadLetter,
    Delivery,
    EndpointRow,
    KeyRecord,
    Mark,
    Result,
    Target,
    Waiting,
    encode,
    reader,
)
from howk.domain.retry import RetryPolicy

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

ODD_JSON = b'{"a" :\t1,  "a":2,\r\n "big":123456789012345678901234567890.10, "html":"<>&\\u0000\\/", "\xc3\xa4":[ ] }'
SEALED = "1.0123abcd.AAECAwQFBgcICQoLAAECAwQFBgcICQoLDA0ODw=="

PLAIN = Delivery(
    v=1,
    scope="shop",
    targets=(Target(id="wh_01JZ0000000000000000000001", endpoint="https://example.com/hook"),),
    created_at=1_750_000_000_000,
    max_attempts=7,
    payload=Raw(ODD_JSON),
)
BINARY = Delivery(
    v=1,
    scope="shop",
    targets=(Target(id="wh_01JZ0000000000000000000002", endpoint="http://[2606:4700::1]:8080/"),),
    created_at=1_750_000_000_000,
    max_attempts=1,
    payload_base64=b64encode(b"\x00\xff not json <>&\n").decode(),
    content_type="application/octet-stream",
)
SECRET = Delivery(
    v=1,
    scope="shop",
    targets=(
        Target(
            id="wh_01JZ0000000000000000000003",
            endpoint="https://example.com/hook",
            headers={"X-Shop": "1 <b>", "X-Empty": ""},
            sealed=SEALED,
        ),
        Target(id="wh_01JZ0000000000000000000004", endpoint="https://example.org/"),
    ),
    created_at=1_750_000_000_000,
    max_attempts=7,
    payload=Raw(b"null"),
    not_before=1_750_000_060_000,
    expires_at=1_750_086_400_000,
    ordering_key="cart/42",
    event_id="evt_1",
    trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
)
RETRY = Delivery(
    v=1,
    scope="shop",
    targets=PLAIN.targets,
    created_at=1_750_000_000_000,
    max_attempts=7,
    payload=Raw(ODD_JSON),
    series=2,
    gen=3,
    attempt=4,
    not_before=1_750_000_090_000,
)
SHARED = Delivery(
    v=2,
    scope="shop",
    targets=(
        Target(
            id="wh_01JZ0000000000000000000008",
            endpoint="https://example.com/hook",
            sealed="2.0123abcd.AAECAwQFBgcICQoLAAECAwQFBgcICQoLDA0ODw==",
        ),
    ),
    created_at=1_750_000_000_000,
    max_attempts=20,
    payload=Raw(b'{"total":1}'),
    expires_at=1_751_209_600_000,
)
PROFILE = Delivery(
    v=1,
    scope="shop",
    targets=(
        Target(
            id="wh_01JZ0000000000000000000005",
            endpoint="https://example.com/hook",
            sealed=SEALED,
            profile="harborhook",
        ),
        Target(id="wh_01JZ0000000000000000000006", endpoint="https://example.org/", profile="standard"),
        Target(id="wh_01JZ0000000000000000000007", endpoint="https://example.net/", profile="howk"),
    ),
    created_at=1_750_000_000_000,
    max_attempts=7,
    payload=Raw(b"null"),
)
DELIVERED = Result(
    v=1,
    id="wh_01JZ0000000000000000000001",
    scope="shop",
    outcome="delivered",
    at=1_750_000_000_250,
    created_at=1_750_000_000_000,
    max_attempts=7,
    duration=240,
    status_code=204,
)
FAILED = Result(
    v=1,
    id="wh_01JZ0000000000000000000001",
    scope="shop",
    outcome="failed",
    at=1_750_000_090_250,
    series=2,
    gen=3,
    attempt=4,
    max_attempts=7,
    created_at=1_750_000_000_000,
    duration=250,
    status_code=503,
    error="HTTP 503",
    retry_after=120_000,
    response=Capture(headers={"retry-after": "120"}, body='{"down":"<now>"}', truncated=True),
    delivery=RETRY,
)
REJECTED = Result(
    v=1,
    id="wh_01JZ0000000000000000000002",
    scope="shop",
    outcome="rejected",
    at=1_750_000_000_250,
    max_attempts=1,
    created_at=1_750_000_000_000,
    duration=250,
    status_code=410,
    reason="endpoint_gone",
    error="HTTP 410",
    response=Capture(body_base64="AP8="),
    delivery=BINARY,
)
UNDECODABLE = Result(
    v=1,
    id="howk.pending/0/17",
    scope="",
    outcome="undecodable",
    at=1_750_000_000_250,
    reason="undecodable",
    error="not a Delivery: JSON is malformed",
    source="howk.pending/0/17",
    raw_base64="eyI=",
)
WAITING = Waiting(
    v=1,
    delivery=RETRY,
    due_at=1_750_000_090_000,
    last_attempt_at=1_750_000_000_250,
    last_status_code=500,
    last_error="HTTP 500",
)
DEAD = DeadLetter(
    v=1,
    id="wh_01JZ0000000000000000000001",
    scope="shop",
    reason="exhausted",
    at=1_750_000_090_250,
    series=2,
    gen=6,
    attempts=7,
    max_attempts=7,
    created_at=1_750_000_000_000,
    status_code=503,
    error="HTTP 503",
    response=Capture(headers={"server": "x"}, body="down"),
    delivery=RETRY,
)
DEAD_RAW = DeadLetter(
    v=1,
    id="howk.pending/0/17",
    scope="",
    reason="undecodable",
    at=1_750_000_000_250,
    attempts=1,
    max_attempts=1,
    error="not a Delivery: JSON is malformed",
    source="howk.pending/0/17",
    raw_base64="eyI=",
)

SCHEDULED = Delivery(
    v=1,
    scope="shop",
    targets=PLAIN.targets,
    created_at=1_750_000_000_000,
    max_attempts=3,
    payload=Raw(b"[1]"),
    not_before=1_750_003_600_000,
    expires_at=1_750_007_200_000,
    deliver_at=1_750_003_600_000,
    retry=RetryPolicy(5_000, 600_000, 0.0, "schedule", (5_000, 600_000), (404, 409)),
)
LAID_BY = schedule(SCHEDULED)
WAITS_FOR_ITS_TIME = Waiting(
    v=1,
    delivery=replace(SCHEDULED, gen=1),
    due_at=1_750_003_600_000,
    held_by="deliver_at",
)
DELIVERED_LATER = Result(
    v=1,
    id="wh_01JZ0000000000000000000001",
    scope="shop",
    outcome="delivered",
    at=1_750_003_600_250,
    gen=1,
    created_at=1_750_000_000_000,
    max_attempts=3,
    duration=240,
    status_code=204,
    deliver_at=1_750_003_600_000,
)
KEY = KeyRecord(
    v=1,
    scope="shop",
    key="order/42:created",
    body="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    id="wh_01JZ0000000000000000000001",
    accepted_at=1_750_000_000_000,
)

ORDERED = Delivery(
    v=1,
    scope="shop",
    targets=PLAIN.targets,
    created_at=1_750_000_000_000,
    max_attempts=7,
    payload=Raw(b"1"),
    gen=3,
    attempt=2,
    ordering_key="cart/42",
    rank=17,
    skip_after=3,
    skipped=True,
    admitted=True,
    probe=1_750_000_000_123,
)
HELD = put_aside(ORDERED, "breaker", endpoint_id("shop", "https://example.com/hook"), 1_750_000_100_000)
WAITS_FOR_ITS_ENDPOINT = Waiting(v=2, delivery=ORDERED, due_at=1_751_209_600_000, held_by="breaker")
CANCEL = Result(
    v=2, id="wh_01JZ0000000000000000000001", scope="shop", outcome="cancel", at=1_750_000_100_000, command="cmd_1"
)
PAUSED = Result(
    v=2,
    id="ep_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    scope="shop",
    outcome="pause",
    at=1_750_000_100_000,
    endpoint="ep_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    command="cmd_2",
    url="https://example.com/hook",
)
ENDPOINT = EndpointRow(
    v=2,
    id="ep_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    scope="shop",
    endpoint="https://example.com/hook",
    circuit=Circuit(
        state="half_open",
        gen=1_750_000_000_123,
        probe_at=1_750_000_300_123,
        successes=1,
        since=1_750_000_000_123,
        disabled="gone",
        paused=True,
    ),
)
MARKED = Mark(v=2, id="wh_01JZ0000000000000000000001", at=1_750_000_100_000, command="cmd_1")
CONFIG = ConfigRecord(
    v=1,
    scope="shop:eu",
    updated_at=1_750_000_000_000,
    profile="standard",
    headers={"X-Shop": "1 <b>"},
    sealed=SEALED,
    retry=RetryPolicy(5_000, 600_000, 0.0, "schedule", (5_000, 600_000), (404, 409)),
    max_attempts=5,
    timeout=2_500,
    per_second=0.5,
    burst=20.0,
    max_in_flight=8,
    skip_after=3,
)
EMPTY_CONFIG = ConfigRecord(v=1, scope="shop", updated_at=1_750_000_000_000)

RECORDS: dict[str, Struct] = {
    "delivery-json": PLAIN,
    "delivery-base64": BINARY,
    "delivery-sealed": SECRET,
    "delivery-shared": SHARED,
    "delivery-retry": RETRY,
    "delivery-profile": PROFILE,
    "result-delivered": DELIVERED,
    "result-failed": FAILED,
    "result-rejected": REJECTED,
    "result-undecodable": UNDECODABLE,
    "waiting": WAITING,
    "deadletter": DEAD,
    "deadletter-undecodable": DEAD_RAW,
    "delivery-scheduled": SCHEDULED,
    "result-scheduled": LAID_BY,
    "waiting-scheduled": WAITS_FOR_ITS_TIME,
    "result-delivered-scheduled": DELIVERED_LATER,
    "key": KEY,
    "delivery-ordered": ORDERED,
    "result-held": HELD,
    "result-cancelled": replace(cancelled_result(FAILED), settled=False),
    "result-cancelled-settled": cancelled_result(FAILED),
    "result-cancel": CANCEL,
    "result-pause": PAUSED,
    "waiting-held": WAITS_FOR_ITS_ENDPOINT,
    "endpoint": ENDPOINT,
    "mark": MARKED,
    "config": CONFIG,
    "config-empty": EMPTY_CONFIG,
}
KINDS: tuple[Any, ...] = (Delivery, Result, Waiting, DeadLetter, KeyRecord, ConfigRecord, EndpointRow, Mark)


def golden(name: str) -> bytes:
    """The bytes of a golden file without the newline at its end."""
    return (GOLDEN / file_of(name)).read_bytes().removesuffix(b"\n")


def file_of(name: str) -> str:
    """The name of a golden file: that of the record, and the version it is written in."""
    return f"{name}.v{RECORDS[name].v}.json"  # pyright: ignore[reportAttributeAccessIssue]


def difference(name: str, written: bytes) -> str:
    kept = golden(name)
    at = next((i for i, (a, b) in enumerate(zip(kept, written, strict=False)) if a != b), min(len(kept), len(written)))
    return (
        f"tests/golden/{file_of(name)} is no longer what is written. They part at byte {at}:\n"
        f"  kept    …{kept[max(0, at - 30) : at + 50]!r}\n  written …{written[max(0, at - 30) : at + 50]!r}\n"
        "Records of this shape are in the logs of users, so a golden file is only ever added, never edited: give the "
        "new shape a new version and a file of its own."
    )


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_written_is_the_golden_file(name: str) -> None:
    written = encode(RECORDS[name])
    assert written == golden(name), difference(name, written)


@pytest.mark.parametrize("name", RECORDS)
def test_a_golden_file_is_read_as_the_record_it_was(name: str) -> None:
    record: Any = RECORDS[name]
    read = reader(type(record))(golden(name))
    assert read == record, f"tests/golden/{file_of(name)} is read differently now: records in users' logs would change"


def test_every_golden_file_is_checked() -> None:
    assert {path.name for path in GOLDEN.glob("*.json")} == {file_of(name) for name in RECORDS}


# Payloads


@pytest.mark.parametrize(
    "payload",
    [
        ODD_JSON,
        b"[1,\n 2 ,3]",
        b"123456789012345678901234567890123456789012345678901234567890",
        b"-0.10e+05",
        b'"\\u0000\\ud83d\\ude00\\/<>&"',
        '"\u2028 ä 😀"'.encode(),
        b"{}",
        b"null",
        b'{"v":2,"v":3}',
    ],
)
def test_a_json_payload_keeps_every_byte_through_result_waiting_and_dead_letter(payload: bytes) -> None:
    delivery = Delivery(v=1, scope="s", targets=PLAIN.targets, created_at=1, max_attempts=2, payload=Raw(payload))
    first = reader(Delivery)(encode(delivery))
    result = reader(Result)(encode(Result(v=1, id="a", scope="s", outcome="failed", at=1, delivery=first)))
    assert result.delivery is not None
    waits = reader(Waiting)(encode(Waiting(v=1, delivery=result.delivery, due_at=1)))
    letter = DeadLetter(v=1, id="a", scope="s", reason="exhausted", at=1, delivery=waits.delivery)
    last = reader(DeadLetter)(encode(letter)).delivery
    assert last is not None
    assert (first.body, last.body) == (payload, payload)


@given(payload=st.binary(max_size=200))
def test_any_other_payload_keeps_every_byte_in_base64(payload: bytes) -> None:
    text = b64encode(payload).decode()
    delivery = Delivery(v=1, scope="s", targets=PLAIN.targets, created_at=1, max_attempts=2, payload_base64=text)
    assert reader(Delivery)(encode(delivery)).body == payload


@pytest.mark.parametrize("text", ["?", "QQ", "QQ==\n", "QQ= =", "é"])
def test_broken_base64_is_undecodable(text: str) -> None:
    delivery = Delivery(v=1, scope="s", targets=PLAIN.targets, created_at=1, max_attempts=2, payload_base64=text)
    with pytest.raises(Undecodable, match="payload_base64"):
        _ = delivery.body


# What can't be read


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data",
    [
        b'{"v":3}',
        b'{"targets":7,"payload":{"x":[1,2]},"v":4}',
        b'{"v":3,"id":["no","shape","we","know"],"outcome":"postponed"}',
        b' { "v" : 1000000 }',
    ],
)
def test_a_record_of_a_newer_version_is_not_judged_whatever_its_shape(kind: Any, data: bytes) -> None:
    with pytest.raises(NewerRecord, match="run the newer version") as caught:
        reader(kind)(data)
    assert isinstance(caught.value, Permanent)


@pytest.mark.parametrize("name", RECORDS)
def test_a_readable_record_of_a_newer_version_is_not_judged(name: str) -> None:
    data = re.sub(rb'^{"v":[12],', b'{"v":3,', golden(name))
    with pytest.raises(NewerRecord):
        reader(type(RECORDS[name]))(data)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\xff",
        b"null",
        b"[]",
        b'"v"',
        b"{}",
        b'{"v":1}',
        b'{"v":"2"}',
        b'{"v":null}',
        b'{"v":1,"id":"a","scope":"s","outcome":"postponed","at":1}',
        b'{"v":1,"scope":"\xff","targets":[],"created_at":1,"max_attempts":1}',
        b'{"v":1,"scope":"s","targets":[],"created_at":1,"max_attempts":1',
        b'{"v":2',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_garbage_is_undecodable(kind: Any, data: bytes) -> None:
    with pytest.raises(Undecodable):
        reader(kind)(data)


@given(data=st.binary(max_size=60), kind=st.sampled_from(KINDS))
def test_whatever_bytes_come_a_reader_answers_or_says_undecodable_or_newer(data: bytes, kind: Any) -> None:
    try:
        reader(kind)(data)
    except (Undecodable, NewerRecord):
        pass


@pytest.mark.parametrize("name", RECORDS)
def test_any_single_byte_cut_off_or_changed_never_raises_anything_else(name: str) -> None:
    read = reader(type(RECORDS[name]))  # pyright: ignore[reportArgumentType]
    data = golden(name)
    for at in range(0, len(data), 3):
        for spoiled in (data[:at], data[:at] + bytes([data[at] ^ 0x21]) + data[at + 1 :]):
            try:
                read(spoiled)
            except (Undecodable, NewerRecord):
                continue


@pytest.mark.parametrize("name", RECORDS)
def test_unknown_fields_of_the_same_version_are_tolerated(name: str) -> None:
    record: Any = RECORDS[name]
    data = golden(name).replace(b'{"v":1,', b'{"later":{"x":[1,"}"]},"v":1,"more":null,', 1)
    assert reader(type(record))(data) == record


def test_a_record_without_a_profile_is_of_the_default_one() -> None:
    assert [target.profile for target in reader(Delivery)(golden("delivery-sealed")).targets] == ["default"] * 2
    assert b"profile" not in encode(SECRET)


def test_a_profile_that_is_not_known_is_undecodable() -> None:
    with pytest.raises(Undecodable, match="profile"):
        reader(Delivery)(golden("delivery-profile").replace(b"harborhook", b"harborhoof"))


def test_sealed_text_is_all_a_delivery_shows_of_its_secrets() -> None:
    assert SEALED in repr(SECRET)
    assert SEALED.encode() in golden("delivery-sealed")
