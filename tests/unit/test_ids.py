"""Ids: the published form of a ULID, in the order of time, the same for the same inputs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.ids import RANDOM_BYTES, delivery_id, delivery_ids, is_delivery_id, time_of, ulid

times = st.integers(0, (1 << 48) - 1)
randoms = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


@pytest.mark.parametrize(
    ("now", "random", "text"),
    [
        (0, bytes(16), "0" * 26),
        ((1 << 48) - 1, b"\xff" * 16, "7" + "Z" * 25),
        # The time part of the specification's own example.
        (1_469_918_176_385, bytes(16), "01ARYZ6S41" + "0" * 16),
        (1, bytes(15) + b"\x01", "0000000001" + "0" * 15 + "1"),
        (1, bytes(15) + b"\xe1", "0000000001" + "0" * 15 + "1"),
    ],
)
def test_a_ulid_has_the_published_form(now: int, random: bytes, text: str) -> None:
    assert ulid(now, random) == text


@given(now=times, random=randoms)
def test_a_ulid_reads_back_as_the_number_it_was_made_of(now: int, random: bytes) -> None:
    digits = ["0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character) for character in ulid(now, random)]
    value = 0
    for digit in digits[:10]:
        value = value * 32 + digit
    assert value == now
    assert digits[10:] == [byte % 32 for byte in random]


@given(first=times, second=times, random=randoms, other=randoms)
def test_ids_sort_by_time(first: int, second: int, random: bytes, other: bytes) -> None:
    if first != second:
        assert (delivery_id(first, random) < delivery_id(second, other)) == (first < second)


@given(now=times, randoms=st.lists(randoms, max_size=5))
def test_ids_that_are_made_together_are_those_made_one_by_one(now: int, randoms: list[bytes]) -> None:
    assert delivery_ids(now, b"".join(randoms)) == [delivery_id(now, random) for random in randoms]


@given(now=times, random=randoms)
def test_an_id_tells_when_it_was_made(now: int, random: bytes) -> None:
    assert time_of(delivery_id(now, random)) == now


@pytest.mark.parametrize("text", ["", "wh_", "x", "cmd_" + "0" * 26, "wh_" + "U" * 26])
def test_what_is_no_id_tells_nothing(text: str) -> None:
    assert time_of(text) == 0


@given(now=times, random=randoms)
def test_what_is_made_is_recognised(now: int, random: bytes) -> None:
    assert is_delivery_id(delivery_id(now, random))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wh_",
        "0" * 29,
        "wh_" + "0" * 25,
        "wh_" + "0" * 27,
        "WH_" + "0" * 26,
        "wh_" + "0" * 25 + "U",
        "wh_" + "0" * 25 + "a",
        "wh_" + "0" * 25 + "/",
        "wh_" + "0" * 25 + "\n",
        "wh_" + "0" * 25 + "٣",
    ],
)
def test_anything_else_is_no_delivery_id(text: str) -> None:
    assert not is_delivery_id(text)
