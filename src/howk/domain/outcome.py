"""What a receiver's answer means for the delivery: delivered, worth a retry, or the end with a reason.

Retryable are transport errors, 408, 425, 429 and 5xx; and what the delivery's policy
adds; 3xx and every other 4xx end at once (architecture, delivering).
"""

import re
from base64 import b64encode
from collections.abc import Container, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple

from howk.domain.records import Capture

_RETRYABLE = frozenset({408, 425, 429})
_HONOURS_RETRY_AFTER = frozenset({429, 503})
_PERMANENT_FAILURES = frozenset({"invalid_endpoint", "blocked_address"})
_REASONS = {410: "endpoint_gone", 413: "payload_too_large"}
_REDACTED = "(redacted)"
_MAX_ERROR = 500
_LONGEST_REST = 3
_MAX_SECONDS = re.compile(r"[0-9]{1,10}")


class Outcome(NamedTuple):
    """`reason` is the dead-letter reason of a rejected attempt."""

    outcome: Literal["delivered", "failed", "rejected"]
    reason: str = ""
    error: str = ""


def judge_answer(status: int, failure: str, error: str, on_status: Container[int] = ()) -> Outcome:
    """Sort an answer; `failure` is "" when a status came. A status in `on_status` is worth a retry too."""
    if failure:
        text = f"{failure}: {error}"[:_MAX_ERROR] if error else failure
        if failure in _PERMANENT_FAILURES:
            return Outcome("rejected", failure, text)
        return Outcome("failed", "", text)
    if 200 <= status < 300:
        return Outcome("delivered")
    if status in _RETRYABLE or status >= 500 or status in on_status:
        return Outcome("failed", "", f"HTTP {status}")
    return Outcome("rejected", _REASONS.get(status, "unrecoverable"), f"HTTP {status}")


def next_state(
    outcome: str, attempt: int, max_attempts: int
) -> Literal["delivered", "failed", "dead", "deferred", "cancelled"]:
    """What a current outcome makes of its delivery: `failed` means that a retry will come."""
    if outcome == "delivered" or outcome == "cancelled":
        return outcome
    if outcome == "held":
        return "deferred"
    return "failed" if outcome == "failed" and attempt < max_attempts else "dead"


def retry_after(status: int, headers: Sequence[tuple[bytes, bytes]], now: int) -> int:
    """Milliseconds that a 429 or 503 asks to wait (RFC 9110, 10.2.3: seconds or a date), 0 when it does not."""
    if status not in _HONOURS_RETRY_AFTER:
        return 0
    for name, value in headers:
        if name == b"retry-after":
            return max(0, _wait(value.decode("latin-1").strip(), now))
    return 0


def _wait(text: str, now: int) -> int:
    if _MAX_SECONDS.fullmatch(text):
        return int(text) * 1000
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:
            # An HTTP date is in GMT whatever it says (RFC 9110, 5.6.7), and never in the zone of this machine.
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000) - now
    except (OverflowError, ValueError):
        return 0


def capture(
    headers: Sequence[tuple[bytes, bytes]], body: bytes, redact: frozenset[str], limit: int, *, truncated: bool
) -> Capture:
    """An answer as it is kept: at most `limit` bytes of headers and of body, sensitive header values left out."""
    kept: dict[str, str] = {}
    room = limit
    for name, value in headers:
        key = name.decode("latin-1")
        text = _REDACTED if key in redact else value.decode("latin-1")
        room -= len(key) + len(text)
        if room < 0:
            truncated = True
            break
        kept[key] = f"{kept[key]}, {text}" if key in kept else text
    truncated = truncated or len(body) > limit
    body = body[:limit]
    try:
        return Capture(headers=kept, body=body.decode(), truncated=truncated)
    except UnicodeDecodeError as error:
        if truncated and error.start >= len(body) - _LONGEST_REST:
            # The cut went through a character.
            return Capture(headers=kept, body=body[: error.start].decode(), truncated=True)
        return Capture(headers=kept, body_base64=b64encode(body).decode(), truncated=truncated)
