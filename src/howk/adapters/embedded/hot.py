"""The tables of `hot.db` and every statement on them; transactions, threads and validity are `state`'s business."""

import sqlite3
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
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

_FORMAT = 3
_COMPRESS_ABOVE = 512
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID",
    "CREATE TABLE status (id TEXT PRIMARY KEY, series INT, gen INT, state TEXT, ended INT, body BLOB) WITHOUT ROWID",
    "CREATE INDEX status_ended ON status (ended) WHERE ended > 0",
    "CREATE TABLE waiting (id TEXT PRIMARY KEY, series INT, gen INT, due INT, lease REAL, token INT, held TEXT, "
    "endpoint TEXT, record BLOB)",
    "CREATE INDEX waiting_due ON waiting (due)",
    "CREATE INDEX waiting_endpoint ON waiting (endpoint) WHERE endpoint > ''",
    "CREATE TABLE turns (turn TEXT, rank INT, id TEXT, PRIMARY KEY (turn, rank, id)) WITHOUT ROWID",
    "CREATE INDEX turns_id ON turns (id)",
    "CREATE TABLE marks (id TEXT PRIMARY KEY) WITHOUT ROWID",
    "CREATE TABLE keys (key TEXT PRIMARY KEY, body BLOB, id TEXT, at INT) WITHOUT ROWID",
    "CREATE INDEX keys_at ON keys (at)",
    *windows.SCHEMA,
)
_AMONG = "IN (SELECT value FROM json_each(?))"
_INTO_STATUS = "INSERT INTO status (id, series, gen, state, ended, body)"
_INTO_WAITING = "REPLACE INTO waiting (id, series, gen, due, lease, token, held, endpoint, record)"
_LOWEST = "(SELECT min(rank) FROM turns WHERE turn = asked.value)"
_OVERWRITE = (
    "ON CONFLICT (id) DO UPDATE SET series = excluded.series, gen = excluded.gen, state = excluded.state, "
    "ended = excluded.ended, body = excluded.body"
)

_encode = Encoder().encode
_decode = Decoder(Status).decode


def distrust(path: Path, previous: Run | None, run: Run) -> str:
    """Why the file can't be gone on from, "" when it can."""
    if not path.exists():
        return "it is missing"
    try:
        connection = connect(path)
        try:
            if connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
                return "it has another format"
            damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            session, boot, whole = (meta(connection, name) for name in ("session", "boot", "whole"))
            watermark(connection)
            keys_reached(connection)
        finally:
            connection.close()
    except (sqlite3.DatabaseError, DecodeError, UnicodeDecodeError) as error:
        return f"it is damaged ({error})"
    if damage != "ok":
        return f"it is damaged ({damage})"
    if previous is None or session != previous.session:
        return "it is not of the last run"
    if not whole and boot != run.boot:
        return "the machine was restarted while it was open"
    return ""


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


def set_meta(connection: sqlite3.Connection, **values: str) -> None:
    """Set names of `meta`."""
    execute_rows(connection, "REPLACE INTO meta", list(values.items()))


def meta(connection: sqlite3.Connection, name: str) -> str:
    """A name of `meta`, "" when it is not set."""
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return row[0] if row else ""


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


def oldest_end(connection: sqlite3.Connection) -> int:
    """When the first of the deliveries that have ended did, 0 when none has."""
    return connection.execute("SELECT min(ended) FROM status WHERE ended > 0").fetchone()[0] or 0


def add_pending(connection: sqlite3.Connection, statuses: Sequence[Status]) -> None:
    """Add statuses of which nothing is known yet."""
    execute_rows(connection, _INTO_STATUS, [_row(status) for status in statuses], "ON CONFLICT DO NOTHING")


def standings(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Standing]:
    """Where the known ones of these deliveries stand."""
    found = connection.execute(f"SELECT id, series, gen, state FROM status WHERE id {_AMONG}", (_list(ids),))
    return {id_: Standing(series, gen, state in ENDED) for id_, series, gen, state in found}


def statuses(connection: sqlite3.Connection, ids: Sequence[str]) -> dict[str, Status]:
    """The known ones of these statuses."""
    found = connection.execute(f"SELECT body FROM status WHERE id {_AMONG}", (_list(ids),))
    return {status.id: status for status in (_decode(body) for (body,) in found)}


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
    found = connection.execute("SELECT endpoint, held, count(*) FROM waiting GROUP BY endpoint, held")
    return Counter({(endpoint, reason): count for endpoint, reason, count in found})


def marks(connection: sqlite3.Connection) -> set[str]:
    """The deliveries that are to be cancelled."""
    return {id_ for (id_,) in connection.execute("SELECT id FROM marks")}


def mark(connection: sqlite3.Connection, ids: Sequence[str]) -> None:
    """These deliveries are to be cancelled; what waits of them is due. A due time of 0 would be none."""
    execute_rows(connection, "INSERT INTO marks (id)", [(id_,) for id_ in ids], "ON CONFLICT DO NOTHING")
    connection.execute(f"UPDATE waiting SET due = 1 WHERE id {_AMONG}", (_list(ids),))


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
        f"UPDATE waiting SET due = 1 WHERE held = '{ORDER}' AND due > 1 AND id IN (SELECT turns.id FROM "
        f"json_each(?) AS asked JOIN turns ON turns.turn = asked.value AND turns.rank = {_LOWEST})",
        (_list(turns),),
    ).rowcount


def any_turns(connection: sqlite3.Connection) -> bool:
    """Whether any delivery is in a turn."""
    return connection.execute("SELECT 1 FROM turns LIMIT 1").fetchone() is not None


def restore(connection: sqlite3.Connection, effects: Sequence[Effect]) -> Grown:
    """Write deliveries that are rebuilt, never going back in (series, ended, gen)."""
    ids = [effect.status.id for effect in effects]
    reached = {id_: (known.series, known.ended, known.gen) for id_, known in standings(connection, ids).items()}
    forward: list[Effect] = []
    for effect in effects:
        status = effect.status
        rank = (status.series, status.ended_at > 0, status.gen)
        if rank >= reached.get(status.id, (0, False, 0)):
            reached[status.id] = rank
            forward.append(effect)
    return store(connection, forward, any_known=True, any_waiting=True)


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
    endpoint = effect.endpoint if status.held_by in OF_ENDPOINT else ""
    packed = _pack(effect.record)
    return (status.id, status.series, status.gen, effect.due_at, 0, 0, status.held_by, endpoint, packed)


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
    connection: sqlite3.Connection, now: int, clock: float, until: float, token: int, limit: int
) -> list[Leased]:
    """Lease what is due, earliest first."""
    where = "due <= ? AND lease <= ? ORDER BY due LIMIT ?"
    return _lease(connection, where, (now, clock, limit), until, token)


def lease_held(
    connection: sqlite3.Connection, endpoint: str, clock: float, until: float, token: int, limit: int
) -> list[Leased]:
    """Lease what an endpoint holds, oldest first."""
    where = "endpoint = ? AND endpoint > '' AND lease <= ? ORDER BY rowid LIMIT ?"
    return _lease(connection, where, (endpoint, clock, limit), until, token)


def _lease(
    connection: sqlite3.Connection, where: str, values: tuple[Any, ...], until: float, token: int
) -> list[Leased]:
    found = connection.execute(f"SELECT id, series, gen, held, record FROM waiting WHERE {where}", values).fetchall()
    if found:
        ids = _list([row[0] for row in found])
        connection.execute(f"UPDATE waiting SET lease = ?, token = ? WHERE id {_AMONG}", (until, token, ids))
    return [Leased(id_, series, gen, reason, _unpack(record)) for id_, series, gen, reason, record in found]


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
        "(SELECT id FROM status WHERE ended > 0 AND ended < ? ORDER BY ended LIMIT ?) RETURNING id",
        (before, most),
    )
    return [id_ for (id_,) in found]


def _list(ids: Sequence[str]) -> str:
    return encode_json(ids).decode()


def _row(status: Status) -> tuple[Any, ...]:
    return (status.id, status.series, status.gen, status.state, status.ended_at, _encode(status))


def _pack(record: bytes) -> bytes:
    return b"z" + zlib.compress(record, 1) if len(record) > _COMPRESS_ABOVE else b"-" + record


def _unpack(stored: bytes) -> bytes:
    return zlib.decompress(stored[1:]) if stored[:1] == b"z" else stored[1:]
