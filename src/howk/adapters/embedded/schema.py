"""The tables of `log.db` and every statement on them; what a row means is known by `rows`, what a group is by `log`."""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from msgspec.json import decode, encode

from howk.adapters.embedded.db import connect, execute_rows, transaction
from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.rows import Row
from howk.domain.errors import Permanent
from howk.domain.offsets import Finished
from howk.ports.log import Entry, Place

FORMAT = 1
STREAMS = ("howk.pending", "howk.slow", "howk.results", "howk.deadletter")
TABLES = ("howk.state",)
FIRST_OFFSET = 0

_NAMES = {name: name.replace("howk.", "log_") for name in STREAMS + TABLES}
_PRAGMAS = (
    "page_size=8192",
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    "checkpoint_fullfsync=ON",
    "wal_autocheckpoint=2000",
    "cache_size=-16384",
)


def name(stream: str) -> str:
    """The SQL name of a stream or table of the log."""
    return _NAMES[stream]


def open_writer(path: Path, directory: Directory) -> sqlite3.Connection:
    """The writing connection. Raises `Permanent` for a file that is missing its past, damaged, or too new."""
    _refuse_loss(path, directory)
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, pragmas=_PRAGMAS)
        _create(connection, path)
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        raise Permanent(
            f"{path} can't be opened ({error}): restore the data directory from a backup, or start with another one"
        ) from error
    except Permanent:
        if connection is not None:
            connection.close()
        raise
    directory.opened()
    return connection


def _refuse_loss(path: Path, directory: Directory) -> None:
    previous = directory.previous
    if previous is None:
        return
    needed = [path] if previous.clean else [path, path.with_name(path.name + "-wal")]
    missing = [file.name for file in needed if not file.exists()]
    if missing:
        raise Permanent(
            f"{' and '.join(missing)} is missing from {directory.path}, and the last run left it there: webhooks that "
            "were acknowledged may be in it. Restore it from a backup; to give them up and begin anew, choose an "
            "empty directory with HOWK_DATA_DIR"
        )


def _create(connection: sqlite3.Connection, path: Path) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > FORMAT:
        raise Permanent(
            f"{path} was written by a newer howk (format {found}, this one knows {FORMAT}): run that version; nothing "
            "was changed"
        )
    with transaction(connection):
        for stream in STREAMS:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {name(stream)} "
                "(base INTEGER PRIMARY KEY, count INTEGER, at INTEGER, sum INTEGER, body BLOB)"
            )
        for table in TABLES:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {name(table)} (key TEXT PRIMARY KEY, sum INTEGER, value BLOB)"
            )
        connection.execute(
            "CREATE TABLE IF NOT EXISTS progress "
            "(who TEXT, stream TEXT, next INTEGER, beyond BLOB, PRIMARY KEY (who, stream)) WITHOUT ROWID"
        )
        # A write at every open, so that the write-ahead log is there before its absence means a loss.
        connection.execute(f"PRAGMA user_version = {FORMAT}")


def close_writer(connection: sqlite3.Connection, directory: Directory) -> None:
    """Close whole. The directory is marked clean while the write-ahead log is still there, empty: a crash in
    between is then never taken for a loss."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    directory.closed_whole()
    connection.close()


def end(connection: sqlite3.Connection, stream: str) -> int:
    """The offset that the next record of a stream gets."""
    row = connection.execute(f"SELECT base + count FROM {name(stream)} ORDER BY base DESC LIMIT 1").fetchone()
    return row[0] if row else FIRST_OFFSET


def first(connection: sqlite3.Connection, stream: str) -> int | None:
    """The earliest offset kept, None where there is none."""
    row = connection.execute(f"SELECT base FROM {name(stream)} ORDER BY base LIMIT 1").fetchone()
    return row[0] if row else None


def rows_from(connection: sqlite3.Connection, stream: str, offset: int, limit: int) -> list[Row]:
    """Stored rows in order, beginning with the one that holds `offset`."""
    table = name(stream)
    return connection.execute(
        f"SELECT base, count, at, sum, body FROM {table} WHERE base >= "
        f"coalesce((SELECT max(base) FROM {table} WHERE base <= ?), 0) AND base + count > ? ORDER BY base LIMIT ?",
        (offset, offset, limit),
    ).fetchall()


def trim(connection: sqlite3.Connection, stream: str, before: int) -> int:
    """Drop whole rows below `before`, never the newest: it is what the next offset is known by."""
    table = name(stream)
    connection.execute(
        f"DELETE FROM {table} WHERE base + count <= ? AND base < (SELECT max(base) FROM {table})", (before,)
    )
    earliest = first(connection, stream)
    return FIRST_OFFSET if earliest is None else earliest


def load_progress(connection: sqlite3.Connection, ends: Mapping[str, int]) -> dict[tuple[str, Place], Finished]:
    """What each group has finished. Raises `Permanent` where more was finished than there is."""
    found: dict[tuple[str, Place], Finished] = {}
    for who, stream, next_, beyond in connection.execute("SELECT who, stream, next, beyond FROM progress"):
        finished = Finished(next_, decode(beyond, type=list[tuple[int, int]]))
        last = finished.beyond[-1][1] if finished.beyond else finished.next
        if last > ends.get(stream, 0):
            raise Permanent(
                f"{stream} ends at offset {ends.get(stream, 0)}, but {who} has finished it up to {last}: records are "
                "missing from the log. Restore the data directory from a backup"
            )
        found[who, Place(stream, 0)] = finished
    return found


def load_group(connection: sqlite3.Connection, stream: str, group: str) -> Finished:
    """What one group has finished of one stream, as it was last committed."""
    row = connection.execute(
        "SELECT next, beyond FROM progress WHERE who = ? AND stream = ?", (group, stream)
    ).fetchone()
    return Finished(row[0], decode(row[1], type=list[tuple[int, int]])) if row else Finished(FIRST_OFFSET)


def store_progress(connection: sqlite3.Connection, finished: Mapping[tuple[str, Place], Finished]) -> None:
    """Write how far groups have come."""
    changed = [(who, place.stream, state.next, encode(state.beyond)) for (who, place), state in finished.items()]
    execute_rows(connection, "REPLACE INTO progress", changed)


def put(connection: sqlite3.Connection, table: str, values: Mapping[str, bytes]) -> None:
    """Set rows of a table; an empty value removes its key."""
    kept = [(key, crc32(value), value) for key, value in values.items() if value]
    execute_rows(connection, f"REPLACE INTO {name(table)}", kept)
    gone = [key for key, value in values.items() if not value]
    if gone:
        connection.execute(
            f"DELETE FROM {name(table)} WHERE key IN (SELECT value FROM json_each(?))", (encode(gone).decode(),)
        )


class Snapshot(NamedTuple):
    """A table as it was at one instant, read in batches by a connection of its own."""

    connection: sqlite3.Connection
    rows: sqlite3.Cursor


def snapshot(path: Path, table: str) -> Snapshot:
    """Fix the instant: what was committed before is in, what comes later is not."""
    connection = connect(path, read_only=True)
    connection.execute("BEGIN")
    return Snapshot(connection, connection.execute(f"SELECT key, sum, value FROM {name(table)} ORDER BY key"))


def next_rows(taken: Snapshot, table: str, limit: int) -> Sequence[Entry]:
    """The next rows of a snapshot, none at its end. A row that fails its check says so."""
    return [
        Entry(table, 0, 0, key, value, 0, "" if crc32(value) == sum_ else f"row {key} of {table} fails its checksum")
        for key, sum_, value in taken.rows.fetchmany(limit)
    ]
