"""The tables of `hot.db` and every statement on them; transactions, threads and validity are `state`'s business."""

import sqlite3
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import DecodeError
from msgspec.json import decode as decode_json
from msgspec.json import encode as encode_json
from msgspec.msgpack import Decoder, Encoder

from howk.adapters.embedded import windows
from howk.adapters.embedded.db import connect, execute_rows, transaction
from howk.adapters.embedded.directory import Run
from howk.domain.delivery import ENDED, OF_ENDPOINT, ORDER, Standing, Status
from howk.ports.state import Effect

PRAGMAS = (
    "page_size=8192",
    "journal_mode=WAL",
    "synchronous=OFF",
    "wal_autocheckpoint=0",
    "temp_store=MEMORY",
    "cache_size=-32768",
)

_FORMAT = 5
# Below it the time is worth more than the disk: compressing a record costs as much as a fifth of its delivery.
_COMPRESS_ABOVE = 4_096
# And above it the loop is worth more: a MiB takes it 8 ms.
_COMPRESS_UP_TO = 65_536
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT, sum INT) WITHOUT ROWID",
    "CREATE TABLE status (id TEXT PRIMARY KEY, series INT, gen INT, state TEXT, ended INT, body BLOB, sum INT) "
    "WITHOUT ROWID",
    "CREATE INDEX status_ended ON status (ended) WHERE ended > 0",
    "CREATE TABLE waiting (id TEXT PRIMARY KEY, series INT, gen INT, due INT, lease REAL, token INT, held TEXT, "
    "endpoint TEXT, record BLOB, sum INT)",
    "CREATE INDEX waiting_due ON waiting (due)",
    "CREATE INDEX waiting_endpoint ON waiting (endpoint) WHERE endpoint > ''",
    # Of few rows, so that a start need not look at all of them.
    "CREATE INDEX waiting_held ON waiting (endpoint, held) WHERE held > ''",
    "CREATE INDEX waiting_lease ON waiting (lease) WHERE lease > 0",
    "CREATE TABLE turns (turn TEXT, rank INT, id TEXT, PRIMARY KEY (turn, rank, id)) WITHOUT ROWID",
    "CREATE INDEX turns_id ON turns (id)",
    "CREATE TABLE marks (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE keys (key TEXT PRIMARY KEY, body BLOB, id TEXT, at INT, sum INT) WITHOUT ROWID",
    "CREATE INDEX keys_at ON keys (at)",
    *windows.SCHEMA,
)
_AS_IS = zlib.crc32(b"-")
_AMONG = "IN (SELECT value FROM json_each(?))"
_INTO_STATUS = "INSERT INTO status (id, series, gen, state, ended, body, sum)"
_INTO_WAITING = "REPLACE INTO waiting (id, series, gen, due, lease, token, held, endpoint, record, sum)"
_OF_STATUS = "id, series, gen, state, ended"
_OF_WAITING = "id, series, gen, due, held, endpoint"
_LOWEST = "(SELECT min(rank) FROM turns WHERE turn = asked.value)"
_OVERWRITE = (
    "ON CONFLICT (id) DO UPDATE SET series = excluded.series, gen = excluded.gen, state = excluded.state, "
    "ended = excluded.ended, body = excluded.body, sum = excluded.sum"
)

_NOWHERE = (0, False, 0)
_READ_AT_OPEN = ("session", "boot", "whole", "valid", "counted")
_ABOVE_ALL = "\U0010ffff"
_READ_AHEAD = 1 << 20
CALLED = -1
"""The check of a row that waits whose due time was moved: it is due."""

_encode = Encoder().encode
_decode = Decoder(Status).decode


class Damaged(sqlite3.DatabaseError):
    """A row is not what was written. SQLite's own errors of damage have such a name too."""

    sqlite_errorname = "SQLITE_CORRUPT_ROW"


def check_of(row: str) -> int:
    """The checksum of a row's columns, given as one text, so that a flipped bit is not taken for what was written."""
    return zlib.crc32(row.encode())


def _check_status(id_: str, series: int, gen: int, state: str, ended: int) -> int:
    return zlib.crc32(f"{id_}/{series}/{gen}/{state}/{ended}".encode())


def _check_waiting(id_: str, series: int, gen: int, due: int, held: str, endpoint: str) -> int:
    return zlib.crc32(f"{id_}/{series}/{gen}/{due}/{held}/{endpoint}".encode())


def _insist(holds: bool, table: str) -> None:
    if not holds:
        raise Damaged(f"a row of {table} fails its checksum")


def distrust(path: Path, previous: Run | None, run: Run) -> str:
    """Why the file can't be gone on from, "" when it can."""
    if not path.exists():
        return "it is missing"
    try:
        connection = connect(path)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                return "it has another format"
            if _tables(connection) != _expected_tables():
                return "it is damaged (its tables are not what they were)"
            session, boot, whole, valid, _ = (meta(connection, name) for name in _READ_AT_OPEN)
            if not valid:
                return "its rebuild was not finished"
            _read_ahead(path)
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            watermark(connection)
            keys_reached(connection)
            _look_at_rows(connection)
        finally:
            connection.close()
    except (sqlite3.DatabaseError, DecodeError, UnicodeDecodeError) as error:
        return f"it is damaged ({error})"
    if damage != "ok" or valid == "damaged":
        return f"it is damaged ({damage})"
    if previous is None or session != previous.session:
        return "it is not of the last run"
    if not whole and boot != run.boot:
        return "the machine was restarted while it was open"
    return ""


def _read_ahead(path: Path) -> None:
    """Have the file in memory: what looks at all of it goes through its trees, and a disk is five times slower at
    that than from one end to the other. What can't be read is for SQLite to say."""
    piece = bytearray(_READ_AHEAD)
    with suppress(OSError), path.open("rb", buffering=0) as file:
        while file.readinto(piece):
            pass


def _tables(connection: sqlite3.Connection) -> list[tuple[str, str, str]]:
    return connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql > '' ORDER BY name").fetchall()


@lru_cache(maxsize=1)
def _expected_tables() -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        for statement in _SCHEMA:
            connection.execute(statement)
        return _tables(connection)


def _look_at_rows(connection: sqlite3.Connection) -> None:
    """Raises `Damaged`, or SQLite's own error, where a delivery might wait for ever or be taken for one that has ended:
    what has lost its name or its time is found by no later reading. Everything else is looked at when it is read.

    Names and times stand in an index too, which SQLite compares; that those of both tables agree is asked in one
    statement; left are the few that neither wait nor have ended.
    """
    for table in ("waiting", "status", "turns"):
        (said,) = connection.execute(f"PRAGMA integrity_check('{table}')").fetchone()
        _insist(said == "ok", table)
    known = "status.id = waiting.id AND status.series = waiting.series AND status.gen = waiting.gen"
    lost = f"SELECT 1 FROM waiting WHERE NOT EXISTS (SELECT 1 FROM status WHERE {known}) LIMIT 1"
    _insist(connection.execute(lost).fetchone() is None, "status")
    moving = "ended = 0 AND NOT EXISTS (SELECT 1 FROM waiting WHERE waiting.id = status.id)"
    for row in connection.execute(f"SELECT {_OF_STATUS}, sum FROM status WHERE {moving}"):
        _insist(row[-1] == _check_status(*row[:-1]), "status")


def create(connection: sqlite3.Connection) -> None:
    """The empty tables."""
    with transaction(connection):
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_FORMAT}")


def wipe(connection: sqlite3.Connection) -> None:
    """Forget every delivery and every key; the file is not valid until a rebuild is sealed."""
    for table in ("status", "waiting", "turns", "marks", "keys"):
        connection.execute(f"DELETE FROM {table}")
    windows.wipe(connection)
    set_meta(connection, watermark="{}", counted="{}", keys="{}", valid="")


def write_through(connection: sqlite3.Connection) -> None:
    """From now on what is committed goes to the file at once, which is half of the writing, and a commit that the end
    of the process cuts off may leave it torn: only for a file that is begun anew then."""
    connection.execute("PRAGMA journal_mode=MEMORY")


def write_ahead(connection: sqlite3.Connection) -> None:
    """From now on what is committed is whole, however the process ends."""
    connection.execute("PRAGMA journal_mode=WAL")


def set_meta(connection: sqlite3.Connection, **values: str) -> None:
    """Set names of `meta`."""
    execute_rows(
        connection, "REPLACE INTO meta", [(name, value, check_of(f"{name}/{value}")) for name, value in values.items()]
    )


def meta(connection: sqlite3.Connection, name: str) -> str:
    """A name of `meta`, "" when it is not set."""
    row = connection.execute("SELECT value, sum FROM meta WHERE name = ?", (name,)).fetchone()
    if row is None:
        return ""
    _insist(row[1] == check_of(f"{name}/{row[0]}"), "meta")
    return row[0]


def watermark(connection: sqlite3.Connection) -> dict[int, int]:
    """The next offset of `results` that is not yet in, by partition."""
    return decode_json(meta(connection, "watermark") or "{}", type=dict[int, int])


def keys_reached(connection: sqlite3.Connection) -> dict[int, int]:
    """The next offset of `howk.keys` that is not yet in, by partition."""
    return decode_json(meta(connection, "keys") or "{}", type=dict[int, int])


def set_watermark(connection: sqlite3.Connection, reached: Mapping[int, int], **beside: str) -> None:
    """Store how far settle's effects are in, and names of `meta` beside it."""
    set_meta(connection, watermark=encode_json(dict(reached)).decode(), **beside)


def count_ended(connection: sqlite3.Connection) -> int:
    """How many statuses are of deliveries that have ended."""
    return connection.execute("SELECT count(*) FROM status WHERE ended > 0").fetchone()[0]


def last_id(connection: sqlite3.Connection) -> str:
    """The highest id that has a status, "" where none has; above all where damage hides it."""
    (found,) = connection.execute("SELECT max(id) FROM status").fetchone()
    return (found or "") if isinstance(found, str | None) else _ABOVE_ALL


def oldest_end(connection: sqlite3.Connection) -> int:
    """When the first of the deliveries that have ended did, 0 when none has."""
    return connection.execute("SELECT min(ended) FROM status WHERE ended > 0").fetchone()[0] or 0


def add_pending(connection: sqlite3.Connection, statuses: Sequence[Status]) -> None:
    """Add statuses of which nothing is known yet."""
    execute_rows(connection, _INTO_STATUS, [_row(status) for status in statuses], "ON CONFLICT DO NOTHING")


def standings(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Standing]:
    """Where the known ones of these deliveries stand."""
    standings: dict[str, Standing] = {}
    found = connection.execute(f"SELECT {_OF_STATUS}, sum FROM status WHERE id {_AMONG}", (_list(ids),))
    for id_, series, gen, state, ended, check in found:
        _insist(check == _check_status(id_, series, gen, state, ended), "status")
        standings[id_] = Standing(series, gen, state in ENDED)
    return standings


def statuses(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Status]:
    """The known ones of these statuses."""
    found = connection.execute(f"SELECT body FROM status WHERE id {_AMONG}", (_list(ids),))
    return {status.id: status for status in (_decode(_whole(body, "status")) for (body,) in found)}


Held = tuple[str, str]
"""(endpoint, reason) of a delivery that waits: both "" for one that waits for a retry, the first for one that its
endpoint does not hold."""


class Grown(NamedTuple):
    """By how many the ended deliveries have become more, and those that wait, by what holds them."""

    ended: int
    waiting: Mapping[Held, int]
    stored: Sequence[Effect]


def held(connection: sqlite3.Connection) -> Counter[Held]:
    """How many wait, by what holds them."""
    found = connection.execute("SELECT endpoint, held, count(*) FROM waiting WHERE held > '' GROUP BY endpoint, held")
    counts = Counter({(endpoint, reason): count for endpoint, reason, count in found})
    counts["", ""] = connection.execute("SELECT count(*) FROM waiting").fetchone()[0] - counts.total()
    return counts


def marks(connection: sqlite3.Connection) -> set[str]:
    """The deliveries that are to be cancelled."""
    return {id_ for (id_,) in connection.execute("SELECT id FROM marks")}


def mark(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """These deliveries are to be cancelled; what waits of them is due. A due time of 0 would be none."""
    execute_rows(connection, "INSERT INTO marks (id)", [(id_,) for id_ in ids], "ON CONFLICT DO NOTHING")
    connection.execute(f"UPDATE waiting SET due = 1, sum = {CALLED} WHERE id {_AMONG}", (_list(ids),))


def unmark(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """These deliveries have ended."""
    connection.execute(f"DELETE FROM marks WHERE id {_AMONG}", (_list(ids),))


def enter_turns(connection: sqlite3.Connection, places: Sequence[tuple[str, int, str]]) -> dict[str, int]:
    """Enter deliveries, each with its turn and rank; the lowest rank of each turn."""
    execute_rows(connection, "INSERT INTO turns (turn, rank, id)", places, "ON CONFLICT DO NOTHING")
    turns = _list(list({turn for turn, _, _ in places}))
    return dict(connection.execute(f"SELECT value, {_LOWEST} FROM json_each(?) AS asked", (turns,)))


def leave_turns(connection: sqlite3.Connection, ids: Sequence[str]) -> list[str]:
    """Take deliveries out of their turns; the turns that they left."""
    return [
        turn for (turn,) in connection.execute(f"DELETE FROM turns WHERE id {_AMONG} RETURNING turn", (_list(ids),))
    ]


def call_next(connection: sqlite3.Connection, turns: Sequence[str]) -> int:
    """What is held by its order and is the lowest of one of these turns is due, however far the wall clock is set back;
    how many there were."""
    return connection.execute(
        f"UPDATE waiting SET due = 1, sum = {CALLED} WHERE held = '{ORDER}' AND due > 1 AND id IN (SELECT turns.id "
        f"FROM json_each(?) AS asked JOIN turns ON turns.turn = asked.value AND turns.rank = {_LOWEST})",
        (_list(turns),),
    ).rowcount


def any_turns(connection: sqlite3.Connection) -> bool:
    """Whether any delivery is in a turn."""
    return connection.execute("SELECT 1 FROM turns LIMIT 1").fetchone() is not None


def restore(connection: sqlite3.Connection, effects: Sequence[Effect]) -> Grown:
    """Write deliveries that are rebuilt, never going back in (series, ended, gen)."""
    ids = [effect.status.id for effect in effects]
    known = _known(connection, ids)
    if not known and len(set(ids)) == len(ids):
        return store(connection, effects, any_known=False, any_waiting=True)
    reached = {id_: (standing.series, standing.ended, standing.gen) for id_, standing in known.items()}
    forward: list[Effect] = []
    for effect in effects:
        status = effect.status
        rank = (status.series, status.ended_at > 0, status.gen)
        if rank >= reached.get(status.id, _NOWHERE):
            reached[status.id] = rank
            forward.append(effect)
    return store(connection, forward, any_known=bool(known), any_waiting=True)


def _known(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Standing]:
    """Where these stand; a table is read in the order of its keys, so that most of its rows lie beyond all that was
    restored so far, which is known without looking for each."""
    if not ids:
        return {}
    some = connection.execute("SELECT 1 FROM status WHERE id >= ? LIMIT 1", (min(ids),)).fetchone()
    return standings(connection, ids) if some else {}


def store(connection: sqlite3.Connection, effects: Sequence[Effect], *, any_known: bool, any_waiting: bool) -> Grown:
    """Write settled deliveries, of two of one the later; `any_known` says that there may be rows of some of them
    already, `any_waiting` that something waits."""
    last = {effect.status.id: effect for effect in effects}
    ids = _list(list(last))
    ended_before = 0
    if any_known:
        ended_before = connection.execute(
            f"SELECT count(*) FROM status WHERE ended > 0 AND id {_AMONG}", (ids,)
        ).fetchone()[0]
    execute_rows(connection, _INTO_STATUS, [_row(effect.status) for effect in last.values()], _OVERWRITE)
    grown: Counter[Held] = Counter()
    if any_known and any_waiting:
        gone = connection.execute(f"DELETE FROM waiting WHERE id {_AMONG} RETURNING endpoint, held", (ids,))
        grown.subtract(map(_held, gone))
    waiting = [_waiting(effect) for effect in last.values() if effect.due_at]
    execute_rows(connection, _INTO_WAITING, waiting)
    grown.update([(row[7], row[6]) for row in waiting])
    ended = sum([effect.status.ended_at > 0 for effect in last.values()])
    return Grown(ended - ended_before, grown, list(last.values()))


def _waiting(effect: Effect) -> tuple[Any, ...]:
    status = effect.status
    id_, series, gen, due, held = status.id, status.series, status.gen, effect.due_at, status.held_by
    endpoint = effect.endpoint if held in OF_ENDPOINT else ""
    check = _check_waiting(id_, series, gen, due, held, endpoint)
    return (id_, series, gen, due, 0, 0, held, endpoint, _pack(effect.record), check)


def _held(row: tuple[str, str]) -> Held:
    endpoint, reason = row
    return endpoint, reason


def unschedule(connection: sqlite3.Connection, keys: Sequence[tuple[str, int, int]]) -> Counter[Held]:
    """These (id, series, gen) are in a stream already: they no longer wait. How many did, by what held them."""
    return _dropped(
        connection.execute(
            "DELETE FROM waiting WHERE (id, series, gen) IN "
            "(SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?)) RETURNING endpoint, held",
            (encode_json(keys).decode(),),
        )
    )


class Leased(NamedTuple):
    """A row that was leased."""

    id: str
    series: int
    gen: int
    held: str
    record: bytes


def lease_due(
    connection: sqlite3.Connection, now: int, clock: float, until: float, token: int, limit: int, room: int
) -> list[Leased]:
    """Lease what is due, earliest first: so many, or what fills `room` bytes."""
    where = "due <= ? AND lease <= ? ORDER BY due LIMIT ?"
    return _lease(connection, where, (now, clock, limit), until, token, room)


def lease_held(
    connection: sqlite3.Connection, endpoint: str, clock: float, until: float, token: int, limit: int, room: int
) -> list[Leased]:
    """Lease what an endpoint holds, oldest first: so many, or what fills `room` bytes."""
    where = "endpoint = ? AND endpoint > '' AND lease <= ? ORDER BY rowid LIMIT ?"
    return _lease(connection, where, (endpoint, clock, limit), until, token, room)


def _lease(
    connection: sqlite3.Connection, where: str, values: tuple[Any, ...], until: float, token: int, room: int
) -> list[Leased]:
    found: list[Leased] = []
    asked = connection.execute(f"SELECT {_OF_WAITING}, record, sum FROM waiting WHERE {where}", values)
    for id_, series, gen, due, reason, endpoint, record, check in asked:
        _insist(check in (_check_waiting(id_, series, gen, due, reason, endpoint), CALLED), "waiting")
        found.append(Leased(id_, series, gen, reason, _unpack(_whole(record, "waiting"))))
        room -= len(found[-1].record)
        if room <= 0:
            break
    asked.close()
    if found:
        ids = _list([row.id for row in found])
        connection.execute(f"UPDATE waiting SET lease = ?, token = ? WHERE id {_AMONG}", (until, token, ids))
    return found


def next_due(connection: sqlite3.Connection, clock: float) -> int:
    """When the next retry that nobody leases is due, 0 when there is none."""
    row = connection.execute("SELECT due FROM waiting WHERE lease <= ? ORDER BY due LIMIT 1", (clock,)).fetchone()
    return row[0] if row else 0


def drop_leased(connection: sqlite3.Connection, token: int, ids: Sequence[str]) -> Counter[Held]:
    """Forget the waiting rows that are still leased under `token`; how many there were, by what held them."""
    return _dropped(
        connection.execute(
            f"DELETE FROM waiting WHERE token = ? AND id {_AMONG} RETURNING endpoint, held", (token, _list(ids))
        )
    )


def _dropped(rows: sqlite3.Cursor) -> Counter[Held]:
    return Counter(map(_held, rows))


def drop_leases(connection: sqlite3.Connection) -> None:
    """The owner of every lease is gone."""
    connection.execute("UPDATE waiting SET lease = 0, token = 0 WHERE lease > 0")


def prune(connection: sqlite3.Connection, before: int, most: int) -> list[str]:
    """Drop at most `most` statuses that ended before `before`, oldest first; the ids of what was dropped."""
    found = connection.execute(
        "DELETE FROM status WHERE id IN "
        "(SELECT id FROM status WHERE ended > 0 AND ended < ? ORDER BY ended LIMIT ?) "
        f"RETURNING {_OF_STATUS}, sum",
        (before, most),
    ).fetchall()
    for row in found:
        # Or one that has not ended would be forgotten.
        _insist(row[-1] == _check_status(*row[:-1]), "status")
    return [row[0] for row in found]


def _list(ids: Sequence[str]) -> str:
    return encode_json(ids).decode()


def _row(status: Status) -> tuple[Any, ...]:
    id_, series, gen, state, ended = status.id, status.series, status.gen, status.state, status.ended_at
    return (id_, series, gen, state, ended, _sealed(_encode(status)), _check_status(id_, series, gen, state, ended))


def _sealed(stored: bytes) -> bytearray:
    """With a checksum at the end. Of the kinds of bytes, the driver looks for no adapter of this one."""
    return bytearray().join((stored, zlib.crc32(stored).to_bytes(4, "big")))


def _whole(sealed: bytes, table: str) -> bytes:
    stored = sealed[:-4]
    _insist(zlib.crc32(stored) == int.from_bytes(sealed[-4:], "big"), table)
    return stored


def _pack(record: bytes) -> bytearray:
    """As it is stored, sealed."""
    if _COMPRESS_ABOVE < len(record) <= _COMPRESS_UP_TO:
        return _sealed(b"z" + zlib.compress(record, 1))
    # Put together in one go: most of what is written is this.
    return bytearray().join((b"-", record, zlib.crc32(record, _AS_IS).to_bytes(4, "big")))


def _unpack(stored: bytes) -> bytes:
    return zlib.decompress(stored[1:]) if stored[:1] == b"z" else stored[1:]
