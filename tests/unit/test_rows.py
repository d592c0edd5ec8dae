"""A row of the log whose place is damaged gets the one that its neighbours leave it."""

import sqlite3
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.adapters.embedded import schema
from howk.adapters.embedded.rows import Torn, is_whole, pack, placed, unpack
from howk.ports.log import Record

STREAM = "howk.pending"
_records = st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=40)), min_size=1, max_size=12)


def packed(base: int, items: list[tuple[str, bytes]]) -> tuple[int, int, int, int, bytes]:
    (row,) = pack(base, 5, [Record(STREAM, key, value) for key, value in items])
    return row


@given(st.integers(0, 1 << 40), _records, st.integers(0, 1), st.integers(0, 45), st.booleans(), st.booleans())
def test_one_flipped_bit_of_a_rows_place_is_mended(
    base: int, items: list[tuple[str, bytes]], column: int, bit: int, before: bool, after: bool
) -> None:
    row = packed(base, items)
    damaged = list(row)
    damaged[column] ^= 1 << bit
    # Without any neighbour nothing tells where a row stands whose base is damaged.
    begins = base if before or (column == 0 and not after) else None
    mended = placed((damaged[0], damaged[1], *row[2:]), begins, base + len(items) if after else None)
    assert mended == row
    assert is_whole(mended)


@given(st.integers(0, 1 << 40), _records, st.data())
def test_a_row_whose_bytes_are_damaged_stays_where_it_is_and_keeps_its_offsets(
    base: int, items: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    *place, body = packed(base, items)
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
    row = placed((place[0], place[1], place[2], place[3], damaged), base, base + len(items))
    assert row[:2] == (base, len(items))
    entries = unpack(STREAM, row)
    assert [entry.offset for entry in entries] == list(range(base, base + len(items)))
    assert any(entry.damage for entry in entries) or [(e.key, e.value) for e in entries] == items


@pytest.mark.parametrize("odd", [None, "text", 1.5])
@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_a_column_of_another_kind_is_damage_and_the_row_keeps_its_place(column: int, odd: Any) -> None:
    row: list[Any] = list(packed(70, [("a", b"1"), ("b", b"2")]))
    row[column] = odd
    assert not is_whole((row[0], row[1], row[2], row[3], row[4]))
    found = placed((row[0], row[1], row[2], row[3], row[4]), 70, 72)
    assert found[:2] == (70, 2)
    assert [entry.offset for entry in unpack(STREAM, found)] == [70, 71]


def test_a_row_without_an_offset_is_told_as_damage_of_the_file() -> None:
    row: Any = (None, *packed(70, [("a", b"1")])[1:])
    assert not is_whole(row)
    with pytest.raises(Torn, match="no offset"):
        placed(row, 70, 71)


def test_the_next_offset_is_known_by_the_last_row_alone_where_the_one_before_it_is_damaged_too() -> None:
    """As a bit in the head of a page may do it: a column is then missing."""
    (last,) = pack(7, 5, [Record(STREAM, "k", b"v")] * 3)
    base, count, at, check, body = last
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE TABLE {schema.name(STREAM)} (base, count, at, sum, body)")
        damaged = [(base, count, at, check ^ 1, body), (None, None, at, check, body), (4, None, at, check, body)]
        for before in damaged[1:]:
            connection.execute(f"DELETE FROM {schema.name(STREAM)}")
            for row in (before, damaged[0]):
                connection.execute(f"INSERT INTO {schema.name(STREAM)} VALUES (?, ?, ?, ?, ?)", row)
            assert schema.end(connection, STREAM) == 10
