"""How a batch of records is stored in one row, and read back with its damage found.

A row is (base offset, count, time in ms, check, body); body is MessagePack of [key, value, check of value] for
each record. The row's check covers all of the row, so a flipped byte and a misplaced row are both found; the check of
each record then tells which records of a damaged row are still whole.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import cast
from zlib import crc32

from msgspec import DecodeError
from msgspec.msgpack import Decoder, Encoder

from howk.ports.log import Entry, Record

Row = tuple[int, int, int, int, bytes]

_MAX_COUNT = 512
_MAX_BYTES = 1 << 20
_encode = Encoder().encode
_decode = Decoder(list[tuple[str, bytes, int]]).decode


def pack(base: int, at: int, records: Sequence[Record]) -> list[Row]:
    """Rows that hold these records, from offset `base` on."""
    packed: list[Row] = []
    items: list[tuple[str, bytes, int]] = []
    size = 0
    for record in records:
        key, value = record.key, record.value
        items.append((key, value, _check_record(key, value)))
        size += len(value)
        if size >= _MAX_BYTES or len(items) >= _MAX_COUNT:
            packed.append(_row(base, at, items))
            base += len(items)
            items, size = [], 0
    if items:
        packed.append(_row(base, at, items))
    return packed


def is_whole(row: Row) -> bool:
    """Whether nothing of it is damaged."""
    base, count, at, check, body = row
    # A flipped bit in the head of a row gives its columns other kinds.
    kinds = (type(base), type(count), type(at), type(body)) == (int, int, int, bytes)
    return kinds and check == _check(base, count, at, body)


def placed(row: Row, begins: int | None, ends: int | None) -> Row:
    """A damaged row with the place that its neighbours leave it: its offsets are `begins` up to `ends`, None where
    there is none. Where only its place was damaged its checksum then holds again. Raises `Torn` where it has none."""
    base, count, at, check, body = _of_its_kinds(row)
    held = len(_items(body))
    bases, counts = [base, 0 if begins is None else begins], [count, held]
    if ends is not None:
        bases += [ends - count, ends - held]
        counts += [ends - first for first in bases]
    for first in bases:
        for many in counts:
            if is_whole((first, many, at, check, body)):
                return first, many, at, check, body
    first = base if begins is None else begins
    last = first + (held or count) if ends is None else ends
    return first, min(max(last - first, 1), _MAX_COUNT), at, check, body


class Torn(sqlite3.DatabaseError):
    """A row without a place."""

    sqlite_errorname = "SQLITE_CORRUPT_ROW"


def _of_its_kinds(row: Row) -> Row:
    """With what a column can't be left out."""
    base, count, at, check, body = cast("tuple[object, object, object, object, object]", row)
    if not isinstance(base, int):
        raise Torn("a row of the log has no offset")
    return (
        base,
        count if isinstance(count, int) else 0,
        at if isinstance(at, int) else 0,
        check if isinstance(check, int) else -1,
        body if isinstance(body, bytes) else str(body or "").encode(errors="replace"),
    )


def _items(body: bytes) -> list[tuple[str, bytes, int]]:
    try:
        return _decode(body)
    except (DecodeError, UnicodeDecodeError):
        return []


def _row(base: int, at: int, items: list[tuple[str, bytes, int]]) -> Row:
    body = _encode(items)
    return base, len(items), at, _check(base, len(items), at, body), body


def _check(base: int, count: int, at: int, body: bytes) -> int:
    return crc32(body, crc32(b"%d/%d/%d" % (base, count, at)))


def _check_record(key: str, value: bytes) -> int:
    return crc32(value, crc32(key.encode()))


def unpack(stream: str, row: Row) -> list[Entry]:
    """The entries of a row, one for each offset it holds. Damaged ones say so and carry the bytes as found."""
    base, _, at, _, body = row
    if is_whole(row):
        return [Entry(stream, 0, base + i, key, value, at) for i, (key, value, _) in enumerate(_decode(body))]
    return list(_salvage(stream, row))


def _salvage(stream: str, row: Row) -> Iterator[Entry]:
    base, count, at, _, body = row
    damage = f"the stored bytes of {stream} at offset {base} to {base + count - 1} fail their checksum"
    items = _items(body)
    if len(items) != count:
        # Nothing tells where one record ends: the first offset keeps all the bytes, the others point to it.
        yield Entry(stream, 0, base, "", body, at, damage)
        for offset in range(base + 1, base + count):
            yield Entry(stream, 0, offset, "", b"", at, f"{damage}; the bytes are kept under offset {base}")
        return
    for i, (key, value, sum_) in enumerate(items):
        yield Entry(stream, 0, base + i, key, value, at, "" if _check_record(key, value) == sum_ else damage)
