"""What an answer means, what it asks for, and how much of it is kept."""

import time
from base64 import b64decode
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from howk.domain.outcome import Outcome, capture, judge_answer, next_state, retry_after

NOW = 1_750_000_000_000
REDACT = frozenset({"set-cookie", "authorization"})


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    assert judge_answer(status, "", "") == Outcome("delivered")


@pytest.mark.parametrize(
    ("outcome", "attempt", "state"),
    [("delivered", 5, "delivered"), ("failed", 4, "failed"), ("failed", 5, "dead"), ("rejected", 1, "dead")],
)
def test_what_an_attempt_makes_of_its_delivery_is_known_at_once(outcome: str, attempt: int, state: str) -> None:
    assert next_state(outcome, attempt, 5) == state


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 599])
def test_what_may_pass_is_worth_a_retry(status: int) -> None:
    assert judge_answer(status, "", "") == Outcome("failed", "", f"HTTP {status}")


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (301, "unrecoverable"),
        (302, "unrecoverable"),
        (304, "unrecoverable"),
        (400, "unrecoverable"),
        (401, "unrecoverable"),
        (404, "unrecoverable"),
        (410, "endpoint_gone"),
        (413, "payload_too_large"),
        (422, "unrecoverable"),
        (499, "unrecoverable"),
    ],
)
def test_redirects_and_other_4xx_end_at_once_with_a_reason(status: int, reason: str) -> None:
    assert judge_answer(status, "", "") == Outcome("rejected", reason, f"HTTP {status}")


@pytest.mark.parametrize("status", [302, 404, 409, 410, 413])
def test_a_status_that_the_policy_names_is_worth_a_retry(status: int) -> None:
    assert judge_answer(status, "", "", (status, 599)) == Outcome("failed", "", f"HTTP {status}")
    assert judge_answer(status, "", "", (599,)).outcome == "rejected"


@given(status=st.integers(200, 599), named=st.lists(st.integers(300, 599)).map(tuple))
def test_naming_statuses_only_ever_turns_an_end_into_a_retry(status: int, named: tuple[int, ...]) -> None:
    plain, asked = judge_answer(status, "", ""), judge_answer(status, "", "", named)
    assert asked == (Outcome("failed", "", f"HTTP {status}") if status in named else plain)


@pytest.mark.parametrize("failure", ["invalid_endpoint", "blocked_address"])
def test_no_policy_makes_an_endpoint_retried_that_may_never_be_called(failure: str) -> None:
    assert judge_answer(0, failure, "", (300, 404)).outcome == "rejected"


@pytest.mark.parametrize("failure", ["timeout", "connect", "tls", "protocol"])
def test_a_failure_of_transport_is_worth_a_retry(failure: str) -> None:
    assert judge_answer(0, failure, "it broke") == Outcome("failed", "", f"{failure}: it broke")
    assert judge_answer(0, failure, "") == Outcome("failed", "", failure)


@pytest.mark.parametrize("failure", ["invalid_endpoint", "blocked_address"])
def test_an_endpoint_that_may_never_be_called_ends_with_its_own_reason(failure: str) -> None:
    assert judge_answer(0, failure, "10.0.0.1") == Outcome("rejected", failure, f"{failure}: 10.0.0.1")


def test_a_long_error_is_cut() -> None:
    assert len(judge_answer(0, "protocol", "x" * 10_000).error) == 500


def asked(value: bytes, status: int = 503) -> int:
    return retry_after(status, [(b"server", b"x"), (b"retry-after", value), (b"retry-after", b"9")], NOW)


@pytest.mark.parametrize(
    ("value", "wait"),
    [
        (b"120", 120_000),
        (b"0", 0),
        (b"  7 ", 7_000),
        (b"9999999999", 9_999_999_999_000),
        (b"Sun, 15 Jun 2025 15:07:40 GMT", 60_000),
        (b"Sunday, 15-Jun-25 15:07:40 GMT", 60_000),
        (b"Sun Jun 15 15:07:40 2025", 60_000),
        (b"Sun, 15 Jun 2025 15:07:40 -0000", 60_000),
        (b"Sun, 15 Jun 2025 17:07:40 +0200", 60_000),
        (b"Sun, 15 Jun 2025 15:05:40 GMT", 0),
        (b"Thu, 01 Jan 1970 00:00:00 GMT", 0),
    ],
)
def test_seconds_and_dates_are_understood(value: bytes, wait: int) -> None:
    assert asked(value) == wait


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"1.5",
        b"1e3",
        b"+5",
        b"soon",
        b"12345678901",
        b"\xd9\xa3",
        b"9" * 5_000,
        b"Sun, 15 Jun 99999 15:07:40 GMT",
        b"Sun, 32 Jun 2025 15:07:40 GMT",
        b"01 Jan 99999999999999999999 00:00:00 GMT",
        b"Jan 2024 99999999999999999999 00:00:00 + 99999999999999999999",
        b"01 Jan 2025 00:00:00 +99999999999999999999",
        b"Mon, 01 Jan 0001 00:00:00 +2359",
    ],
)
def test_nonsense_asks_for_nothing(value: bytes) -> None:
    assert asked(value) == 0


@given(value=st.binary(max_size=80))
@example(value=b"Mon, 01 Jan 2025 00:00:00 +2400")
@example(value=b"1 Jan 1 0:0:0 +0001")
def test_a_hostile_value_never_breaks_the_delivery(value: bytes) -> None:
    assert asked(value) >= 0


@pytest.mark.parametrize("status", [200, 301, 408, 425, 500, 502])
def test_only_429_and_503_may_ask_to_wait(status: int) -> None:
    assert asked(b"120", status) == 0
    assert (asked(b"120", 429), asked(b"120", 503)) == (120_000, 120_000)


@pytest.fixture
def far_time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_time_zone")
def test_a_date_without_a_zone_does_not_depend_on_where_howk_runs() -> None:
    assert asked(b"Sun, 15 Jun 2025 15:07:40") == 60_000
    assert asked(b"Sun, 15 Jun 2025 15:07:40 -0000") == 60_000


def test_an_answer_is_kept_with_sensitive_values_left_out() -> None:
    headers = [(b"server", b"x"), (b"set-cookie", b"sid=secret"), (b"vary", b"a"), (b"vary", b"b")]
    kept = capture(headers, "grüße".encode(), REDACT, 1_000, truncated=False)
    assert kept.headers == {"server": "x", "set-cookie": "(redacted)", "vary": "a, b"}
    assert (kept.body, kept.body_base64, kept.truncated) == ("grüße", "", False)
    assert "secret" not in repr(kept)


def test_a_body_that_is_not_text_is_kept_in_base64() -> None:
    kept = capture([], b"\xff\x00", REDACT, 1_000, truncated=False)
    assert (kept.body, b64decode(kept.body_base64)) == ("", b"\xff\x00")


def test_what_was_cut_before_stays_marked_as_cut() -> None:
    assert capture([], b"a", REDACT, 1_000, truncated=True).truncated


@given(
    headers=st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=40)), max_size=12),
    body=st.binary(max_size=200),
    limit=st.integers(0, 100),
)
def test_an_answer_is_kept_up_to_its_limit_and_says_when_it_was_cut(
    headers: list[tuple[bytes, bytes]], body: bytes, limit: int
) -> None:
    kept = capture(headers, body, REDACT, limit, truncated=False)
    text = kept.body.encode() or b64decode(kept.body_base64)
    assert len(text) <= limit
    assert body.startswith(text)
    joined = 2 * len(headers)
    assert sum(len(name) + len(value) for name, value in kept.headers.items()) <= limit + joined
    if not kept.truncated:
        assert text == body
        assert set(kept.headers) == {name.decode("latin-1") for name, _ in headers}
