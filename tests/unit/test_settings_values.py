"""How the values of settings are read and written: durations, sizes, and what each kind refuses."""

from base64 import b64encode, urlsafe_b64encode
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from howk.runtime import kinds
from howk.runtime.notation import Percent, format_duration, format_size, parse_duration, parse_size

QUANTITIES: tuple[kinds.Kind[Any], ...] = (
    kinds.DURATION,
    kinds.SIZE,
    kinds.COUNT,
    kinds.RATIO,
    kinds.DISK_BUDGET,
    kinds.NETWORK,
)


@given(st.just(0.0) | st.floats(min_value=1e-9, max_value=kinds.LONGEST))
@example(0.1 + 0.2)
@example(90.0)
@example(1_209_600.0)
def test_every_duration_reads_back_as_itself(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=10**15))
@example(1000)
@example(1024)
@example(3 * 2**40)
def test_every_size_reads_back_as_itself(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**4), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_compound_duration_is_the_sum_of_its_parts(h: int, m: int, s: int, ms: int) -> None:
    assert parse_duration(f"{h}h{m}m{s}s{ms}ms") == pytest.approx(h * 3600 + m * 60 + s + ms / 1000)


@given(st.text() | st.floats() | st.integers() | st.none() | st.booleans() | st.lists(st.integers()))
def test_whatever_is_given_a_quantity_is_read_or_refused_by_value_error(raw: object) -> None:
    for kind in QUANTITIES:
        try:
            value, refusal = kind.parse(raw), ""
        except ValueError as error:
            value, refusal = None, str(error)
        assert refusal.startswith("must be") or kind.parse(kind.show(value)) == value


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1m30s", 90),
        ("168h", 604_800),
        ("7d", 604_800),
        ("2w", 1_209_600),
        ("500ms", 0.5),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("250us", 0.000_25),
        ("250µs", 0.000_25),
        ("30", 30),
        (30, 30),
        (1.5, 1.5),
        (" 5s ", 5),
    ],
)
def test_a_duration_is_written_as_go_and_kubernetes_write_it(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10x", "1 h", "0.1ns", "-5s", "1e3s", "1h-5m", "inf", "nan", "1m 30s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (1.5, "1.5s"),
        (90, "1m30s"),
        (86_400, "1d"),
        (604_800, "7d"),
        (5400, "1h30m"),
    ],
)
def test_a_duration_is_shown_in_its_usual_notation(seconds: float, text: str) -> None:
    assert format_duration(float(seconds)) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", 512),
        (512, 512),
        ("512B", 512),
        ("1MiB", 2**20),
        ("1Mi", 2**20),
        ("16KiB", 16_384),
        ("2MB", 2_000_000),
        ("2 mb", 2_000_000),
        ("1.5KiB", 1536),
    ],
)
def test_a_size_is_written_in_powers_of_1024_or_1000(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "1XiB", "-1", "1.3B", "1e6", True, None, ["1"]])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="must be a size"):
        parse_size(text)


@pytest.mark.parametrize(("text", "budget"), [("80%", Percent(80)), ("0.5 %", Percent(0.5)), ("50GiB", 50 * 2**30)])
def test_a_disk_budget_is_a_share_or_a_size(text: str, budget: object) -> None:
    assert kinds.DISK_BUDGET.parse(text) == budget


@pytest.mark.parametrize("text", ["0%", "101%", "%", "-5%", "0", "much"])
def test_what_is_no_disk_budget_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a share of the disk"):
        kinds.DISK_BUDGET.parse(text)


KEY = bytes(range(224, 256))


@pytest.mark.parametrize(
    "text",
    [
        b64encode(KEY).decode(),
        b64encode(KEY).decode().rstrip("="),
        urlsafe_b64encode(KEY).decode(),
        KEY.hex(),
        KEY.hex().upper(),
        KEY.hex() + "\n",
    ],
)
def test_an_encryption_key_is_32_bytes_in_base64_or_hex(text: str) -> None:
    assert kinds.ENCRYPTION_KEY.parse(text) == KEY


@pytest.mark.parametrize("text", ["x", b64encode(KEY[:31]).decode(), KEY.hex()[:-1], "é" * 44, "A" * 45, 5])
def test_any_other_encryption_key_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="32 bytes as base64"):
        kinds.ENCRYPTION_KEY.parse(text)


@pytest.mark.parametrize(
    ("kind", "raw", "value"),
    [
        (kinds.BOOL, "YES", True),
        (kinds.BOOL, False, False),
        (kinds.BOOL, 0, False),
        (kinds.optional(kinds.BOOL), "", None),
        (kinds.optional(kinds.BOOL), "off", False),
        (kinds.HOST, "::1", "::1"),
        (kinds.listed(kinds.NAME), "a, b,,c ", ("a", "b", "c")),
        (kinds.listed(kinds.NAME), ["a", "b"], ("a", "b")),
        (kinds.listed(kinds.NAME), "", ()),
        (kinds.choice("1.2", "1.3"), 1.3, "1.3"),
        (kinds.choice("auto", "json"), " JSON ", "json"),
        (kinds.HEADER, "X-Api-Key", "x-api-key"),
        (kinds.PORT, "0", 0),
        (kinds.RATIO, 1, 1.0),
    ],
)
def test_a_value_may_be_text_or_a_yaml_scalar(kind: kinds.Kind[Any], raw: object, value: object) -> None:
    assert kind.parse(raw) == value


@pytest.mark.parametrize(
    ("kind", "raw", "wanted"),
    [
        (kinds.BOOL, "maybe", "true or false"),
        (kinds.BOOL, 2, "true or false"),
        (kinds.PORT, 65536, "from 0 to 65535"),
        (kinds.PORT, "-1", "from 0 to 65535"),
        (kinds.PORT, 80.5, "from 0 to 65535"),
        (kinds.PORT, True, "from 0 to 65535"),
        (kinds.COUNT, 0, "from 1 to"),
        (kinds.RATIO, 1.01, "from 0 to 1"),
        (kinds.RATIO, float("nan"), "from 0 to 1"),
        (kinds.RATE, -1, "of at least 0"),
        (kinds.DURATION, "0s", "above 0s"),
        (kinds.DURATION, "200000d", "up to 36500d"),
        (kinds.DURATION_OR_ZERO, "-1s", "from 0s"),
        (kinds.HOST, "", "without a port"),
        (kinds.HOST, "localhost:80", "without a port"),
        (kinds.HOST, "http://localhost", "without a port"),
        (kinds.ADDRESS, "localhost", "host:port"),
        (kinds.ADDRESS, "localhost:99999", "host:port"),
        (kinds.ADDRESS, "redis://localhost:6379", "host:port"),
        (kinds.NETWORK, "10.0.0.1/8", r"did you mean 10\.0\.0\.0/8\?"),
        (kinds.NETWORK, "example.com", "must be a network"),
        (kinds.URL, "ftp://example.com", "https://host"),
        (kinds.URL, "https://me:pw@example.com", "without credentials"),
        (kinds.URL, "http://[::1", "https://host"),
        (kinds.DSN, "host=db user=me", "postgresql://host"),
        (kinds.HEADER, "x api key", "name of a header"),
        (kinds.HEADER_VALUE, "Héraut/1", "ASCII"),
        (kinds.TEXT, "a\r\nb", "without control characters"),
        (kinds.TEXT, 5, "put quotes around it"),
        (kinds.NAME, " ", "must not be empty"),
        (kinds.KEY_HASH, "hk_live_key", "never the key itself"),
        (kinds.listed(kinds.NAME), {"a": 1}, "must be a list"),
        (kinds.choice("a", "b"), None, "one of a, b"),
        (kinds.RAW, "", "not empty"),
    ],
)
def test_a_refusal_says_what_would_be_right(kind: kinds.Kind[Any], raw: object, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        kind.parse(raw)
