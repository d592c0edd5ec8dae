"""Both signature schemes against their definitions and the official verifier, and what a receiver is sent."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from howk.domain.signing import (
    RESERVED,
    howk_signature,
    secret_bytes,
    signed_head,
    standard_v1,
    verify_howk,
    verify_standard,
)

KEY = b"a key of thirty-two bytes, or so"
OTHER = b"the key before it"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
NOW = 1_700_000_000
BODY = b'{"a": 1}'

Verify = Callable[[str, Mapping[str, str], bytes, float], str]

KEYS = st.lists(st.binary(min_size=1, max_size=100), min_size=1, max_size=3)
TIMES = st.integers(min_value=0, max_value=2**40)
IDS = st.text(alphabet="wh_0123456789ABCDEF", min_size=1, max_size=40)


def mac(key: bytes, text: bytes) -> bytes:
    """HMAC-SHA256 from its definition (RFC 2104), so that the expected values are computed another way."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in key) + text).digest()
    return hashlib.sha256(bytes(b ^ 0x5C for b in key) + inner).digest()


def head(
    *,
    keys: tuple[bytes, ...] = (KEY,),
    headers: Mapping[str, str] | None = None,
    body: bytes = BODY,
    webhook_id: str = "wh_1",
    timestamp: int = NOW,
    content_type: str = "application/json",
) -> bytes:
    return signed_head(
        webhook_id=webhook_id,
        attempt=3,
        timestamp=timestamp,
        body=body,
        keys=keys,
        user_agent="howk/1",
        content_type=content_type,
        headers=headers or {},
    )


def parsed(lines: bytes) -> list[tuple[str, str]]:
    assert lines.endswith(b"\r\n")
    pairs = [line.partition(": ") for line in lines.decode().split("\r\n")[:-1]]
    return [(name, value) for name, _, value in pairs]


def sent(lines: bytes) -> dict[str, str]:
    return dict(parsed(lines))


def test_the_example_of_the_reference_libraries_gives_its_signature() -> None:
    # The vector of the reference libraries' own tests.
    key = secret_bytes("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = standard_v1([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@given(keys=KEYS, webhook_id=IDS, timestamp=TIMES, body=st.binary(max_size=300))
def test_standard_v1_signs_id_timestamp_and_body_with_each_key(
    keys: list[bytes], webhook_id: str, timestamp: int, body: bytes
) -> None:
    text = webhook_id.encode() + b"." + str(timestamp).encode() + b"." + body
    expected = " ".join("v1," + base64.b64encode(mac(key, text)).decode() for key in keys)
    assert standard_v1(keys, webhook_id, timestamp, body) == expected


@given(keys=KEYS, timestamp=TIMES, body=st.binary(max_size=300))
def test_the_howk_signature_signs_timestamp_and_body_with_each_key(
    keys: list[bytes], timestamp: int, body: bytes
) -> None:
    text = str(timestamp).encode() + b"." + body
    expected = f"t={timestamp}" + "".join(",v1=" + mac(key, text).hex() for key in keys)
    assert howk_signature(keys, timestamp, body) == expected


@given(keys=KEYS, webhook_id=IDS, timestamp=TIMES, body=st.binary(max_size=300))
def test_a_head_carries_both_signatures_of_one_clock_read(
    keys: list[bytes], webhook_id: str, timestamp: int, body: bytes
) -> None:
    got = sent(head(keys=tuple(keys), webhook_id=webhook_id, timestamp=timestamp, body=body))
    assert got["webhook-signature"] == standard_v1(keys, webhook_id, timestamp, body)
    assert got["X-Webhook-Signature"] == howk_signature(keys, timestamp, body)
    assert got["webhook-timestamp"] == got["X-Webhook-Timestamp"] == str(timestamp)


@given(body=st.text(max_size=200), webhook_id=IDS)
def test_the_official_library_verifies_a_signed_head(body: str, webhook_id: str) -> None:
    lines = head(
        keys=(KEY, OTHER),
        webhook_id=webhook_id,
        timestamp=int(time.time()),
        body=body.encode(),
    )
    Webhook(SECRET).verify(body.encode(), sent(lines), json_parse=False)
    Webhook(OTHER).verify(body.encode(), sent(lines), json_parse=False)


def test_the_official_library_refuses_another_body() -> None:
    lines = head(timestamp=int(time.time()))
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", sent(lines), json_parse=False)


@given(body=st.text(max_size=200))
def test_what_the_official_library_signs_is_verified(body: str) -> None:
    signature = Webhook(SECRET).sign("msg_1", datetime.fromtimestamp(NOW, UTC), body)
    headers = {"Webhook-Id": "msg_1", "Webhook-Timestamp": str(NOW), "Webhook-Signature": signature}
    assert verify_standard(SECRET, headers, body.encode(), NOW) == ""


@given(secret=st.text(min_size=1, max_size=40), body=st.binary(max_size=200), webhook_id=IDS, timestamp=TIMES)
def test_both_verifiers_take_what_a_head_carries(secret: str, body: bytes, webhook_id: str, timestamp: int) -> None:
    got = sent(head(keys=(OTHER, secret_bytes(secret)), body=body, webhook_id=webhook_id, timestamp=timestamp))
    assert verify_standard(secret, got, body, timestamp) == ""
    assert verify_howk(secret, got, body, timestamp) == ""


@pytest.mark.parametrize("verify", [verify_standard, verify_howk])
def test_a_verifier_refuses_another_secret_and_another_body(verify: Verify) -> None:
    got = sent(head())
    wrong = "no signature is that of this secret over these bytes"
    assert verify("another secret", got, BODY, NOW) == wrong
    assert verify(SECRET, got, BODY + b"\n", NOW) == wrong


@pytest.mark.parametrize("verify", [verify_standard, verify_howk])
@pytest.mark.parametrize(("off", "said"), [(301, "too old"), (-301, "too new"), (300, ""), (-300, "")])
def test_a_verifier_tolerates_five_minutes_either_way(verify: Verify, off: int, said: str) -> None:
    verdict = verify(SECRET, sent(head()), BODY, NOW + off)
    assert said in verdict
    assert bool(verdict) == bool(said)


@pytest.mark.parametrize("verify", [verify_standard, verify_howk])
def test_a_verifier_names_the_header_that_is_missing(verify: Verify) -> None:
    assert "missing" in verify(SECRET, sent(head(keys=())), BODY, NOW)


@pytest.mark.parametrize("timestamp", ["", "1e9", "-1", " 1", "1_0", "\u0661", "9" * 5000])
def test_a_timestamp_is_a_whole_number_of_seconds(timestamp: str) -> None:
    got = {"webhook-id": "wh_1", "webhook-timestamp": timestamp, "webhook-signature": "v1,x"}
    assert verify_standard(SECRET, got, BODY, NOW)
    assert verify_howk(SECRET, {"X-Webhook-Signature": f"t={timestamp},v1=x"}, BODY, NOW)


@given(value=st.text(max_size=60))
def test_no_signature_text_makes_a_verifier_fail(value: str) -> None:
    headers = {"webhook-id": value or "x", "webhook-timestamp": str(NOW), "webhook-signature": value or "x"}
    assert verify_standard(SECRET, headers, BODY, NOW)
    assert verify_howk(SECRET, {"x-webhook-signature": value}, BODY, NOW)
    assert verify_howk(SECRET, {"x-webhook-signature": f"t={NOW},v1={value}"}, BODY, NOW)


@given(st.binary(min_size=1, max_size=64))
def test_a_whsec_secret_is_base64_with_or_without_padding(key: bytes) -> None:
    text = base64.b64encode(key).decode()
    assert secret_bytes("whsec_" + text) == key
    assert secret_bytes("whsec_" + text.rstrip("=")) == key


def test_any_other_secret_is_its_utf8_bytes() -> None:
    assert secret_bytes("geheim ü") == "geheim ü".encode()


@pytest.mark.parametrize(
    "secret",
    ["", "whsec_", "whsec_a", "whsec_ab=", "whsec_ab c", "whsec_ab-_", "whsec_=", "whsec_ü", "\ud800"],
)
def test_a_broken_secret_is_refused_with_a_sentence_that_keeps_it(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^a signing secret .*[a-z0-9-]$") as caught:
        secret_bytes(secret)
    assert type(caught.value) is ValueError
    assert secret.removeprefix("whsec_") in ("", "a", "=") or secret not in str(caught.value)


def test_an_unsigned_head_holds_these_lines_in_this_order() -> None:
    assert head(keys=()) == (
        b"Content-Type: application/json\r\n"
        b"User-Agent: howk/1\r\n"
        b"webhook-id: wh_1\r\n"
        b"webhook-timestamp: 1700000000\r\n"
        b"X-Webhook-ID: wh_1\r\n"
        b"X-Webhook-Attempt: 3\r\n"
        b"X-Webhook-Timestamp: 1700000000\r\n"
    )


def test_tenant_headers_replace_type_and_agent_in_any_case_and_come_last_otherwise() -> None:
    got = parsed(head(headers={"content-TYPE": "text/plain", "USER-agent": "me", "X-Own": "grüße"}))
    assert got[:2] == [("Content-Type", "text/plain"), ("User-Agent", "me")]
    assert got[-1] == ("X-Own", "grüße")
    assert len(got) == 10


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "\r\n", "a\r\nHost: b"])
def test_a_control_character_in_a_value_is_refused(bad: str) -> None:
    for headers in ({"X-Own": f"a{bad}"}, {"Content-Type": bad}, {"User-Agent": bad}):
        with pytest.raises(ValueError, match="line break or a NUL"):
            head(headers=headers)
    with pytest.raises(ValueError, match="line break or a NUL"):
        head(content_type=bad)
    with pytest.raises(ValueError, match="line break or a NUL"):
        head(webhook_id=bad)


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", "a\0", "Host: x", "ü", "a\n", *sorted(RESERVED), "HOST"])
def test_a_name_that_would_break_or_forge_a_line_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="reserved or not an HTTP token"):
        head(headers={name: "x"})


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=3))
def test_a_head_has_only_its_own_lines_or_is_refused(headers: dict[str, str]) -> None:
    try:
        lines = head(headers=headers)
    except ValueError:
        return
    got = parsed(lines)
    assert len(got) == 9 + len(headers) - len({"content-type", "user-agent"} & {h.lower() for h in headers})
    assert b"\0" not in lines


def test_hmac_of_the_library_and_of_the_definition_agree() -> None:
    assert mac(KEY, BODY) == hmac.digest(KEY, BODY, "sha256")
