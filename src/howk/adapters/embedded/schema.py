"""The tables of `log.db` and every statement on them; what a row means is known by `rows`, what a group is by `log`."""

import sqlite3
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from msgspec.json import decode, encode

from howk.adapters.embedded.db import connect, execute_rows, transaction
from howk.adapters.embedded.directory import Directory, Run
from howk.adapters.embedded.rows import Row, is_whole, placed
from howk.domain.errors import Permanent
from howk.domain.offsets import Finished
from howk.ports.log import Entry, Place

FORMAT = 2
STREAMS = ("howk.pending", "howk.slow", "howk.results", "howk.deadletter", "howk.keys")
TABLES = ("howk.state", "howk.control")
FIRST_OFFSET = 0
_TRIM_ROWS = 512
_TRIM_BYTES = 2 << 20
_TRIM_BYTES_OF_AGE = 256 << 10
_SPARE_BYTES = 8 << 20
_SPARE_SHARE = 2
_GIVE_BACK_BYTES = 1 << 20
_GIVE_BACK_BYTES_OF_AGE = 512 << 10
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file may raise: SQLite's message may quote what is no text."""
_OF_ROW = "base, count, at, sum, body"
MOST_AT_ONCE = 512
_LARGE_LETTER = 256 << 10
_FEWEST_LARGE = 2
_AFTER_ANY = "\U0010ffff"

Letter = tuple[Any, ...]
"""A row of any table as the inbox takes it: the table's name and five columns."""

_NAMES = {name: name.replace("howk.", "log_") for name in STREAMS + TABLES}
_PRAGMAS = (
    "page_size=8192",
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    "checkpoint_fullfsync=ON",
    "wal_autocheckpoint=0",
    # One that had to grow, behind a long reading, is cut when it begins anew.
    "journal_size_limit=67108864",
    "temp_store=MEMORY",
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
        _refuse_strange(path, directory.previous)
        connection = connect(path, pragmas=_PRAGMAS)
        _create(connection, directory)
    except UNREADABLE as error:
        if connection is not None:
            connection.close()
        raise unopened(path, error) from error
    return connection


def unopened(path: Path, error: Exception) -> Permanent:
    """Why a file can't be opened, and what to do."""
    return Permanent(f"{path} can't be opened ({error}): {_advice(error)}")


def _advice(error: Exception) -> str:
    code = getattr(error, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return "the disk is full: free some space; nothing was lost"
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_IOERR")):
        return (
            "see that it is a file, its permissions, and whether its file system can be written and has room; where it "
            "is lost, restore the data directory from a backup"
        )
    return "restore the data directory from a backup, or start with another one"


def _refuse_strange(path: Path, previous: Run | None) -> None:
    """Raises `Permanent` for a file of a newer version, or one that is not what the last run wrote. It is only read:
    a connection that may write would change it when it is closed."""
    if not path.is_file() or not path.stat().st_size:
        return
    with closing(look_into(path)) as connection:
        if sentence := too_new(connection, path) or foreign(connection, path, previous):
            raise Permanent(sentence)


def look_into(path: Path) -> sqlite3.Connection:
    """Read only. A write-ahead log that is not there must not come to be: its absence may be what is wrong."""
    log = path.with_name(path.name + "-wal")
    how = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.as_uri()}?{how}", uri=True)


def foreign(connection: sqlite3.Connection, path: Path, previous: Run | None) -> str:
    """Why the file and its write-ahead log can't be those of the last run, "" when they can."""
    known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone()
    row = connection.execute("SELECT session, before FROM run").fetchone() if known else None
    if row is None or previous is None or previous.session in row:
        return ""
    return (
        f"{path} and its write-ahead log are not those of the last run on this directory: they are of another time or "
        "another directory, and webhooks that were acknowledged may be missing. Restore the whole directory from one "
        "backup; run.json is part of it"
    )


def _refuse_loss(path: Path, directory: Directory) -> None:
    if sentence := loss(path, directory.previous):
        raise Permanent(sentence)


def loss(path: Path, previous: Run | None) -> str:
    """Why the files can't be all that the last run left, "" when they can."""
    if previous is None:
        return ""
    needed = [path] if previous.clean else [path, path.with_name(path.name + "-wal")]
    missing = [file.name for file in needed if not file.exists() or (file == path and not file.stat().st_size)]
    if not missing:
        return ""
    return (
        f"{' and '.join(missing)} is missing from {path.parent} or empty, and the last run left it there: "
        "webhooks that were acknowledged may be in it. Restore it from a backup; to give them up and begin anew, "
        "choose an empty directory with HOWK_DATA_DIR"
    )


def too_new(connection: sqlite3.Connection, path: Path) -> str:
    """Why this version must not touch the file, "" when it may."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found <= FORMAT:
        return ""
    return (
        f"{path} was written by a newer howk (format {found}, this one knows {FORMAT}): run that version; nothing "
        "was changed"
    )


def _create(connection: sqlite3.Connection, directory: Directory) -> None:
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
            "(who TEXT, stream TEXT, next INTEGER, beyond BLOB, sum INTEGER, PRIMARY KEY (who, stream)) WITHOUT ROWID"
        )
        if "sum" not in [row[1] for row in connection.execute("PRAGMA table_info(progress)")]:
            # Format 1 had none.
            connection.execute("ALTER TABLE progress ADD COLUMN sum INTEGER")
        _create_inbox(connection)
        # A write at every open, so that the write-ahead log is there before its absence means a loss.
        touch(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS run (one INTEGER PRIMARY KEY, session TEXT, before TEXT)")
        # The directory says it a little later, and still names the run before until then.
        before = directory.previous.session if directory.previous else ""
        connection.execute("REPLACE INTO run VALUES (1, ?, ?)", (directory.run.session, before))


def touch(connection: sqlite3.Connection) -> None:
    """Write what is there already."""
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def _create_inbox(connection: sqlite3.Connection) -> None:
    """A view that sends each row on to its table, so that one statement is the whole of a commit: each statement gives
    up the interpreter lock, and beside a busy loop getting it back costs more than the work."""
    connection.execute("CREATE TEMP VIEW inbox AS SELECT 0 AS kind, 0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e")
    actions = {
        name(stream): f"INSERT INTO {name(stream)} VALUES (new.a, new.b, new.c, new.d, new.e)" for stream in STREAMS
    }
    for table in TABLES:
        actions[name(table)] = f"REPLACE INTO {name(table)} VALUES (new.a, new.b, new.c)"
        actions[f"gone_{name(table)}"] = f"DELETE FROM {name(table)} WHERE key = new.a"
    actions["progress"] = "REPLACE INTO progress VALUES (new.a, new.b, new.c, new.d, new.e)"
    for kind, action in actions.items():
        connection.execute(
            f"CREATE TEMP TRIGGER to_{kind} INSTEAD OF INSERT ON inbox WHEN new.kind = '{kind}' BEGIN {action}; END"
        )


def write(connection: sqlite3.Connection, letters: Sequence[Letter]) -> None:
    """Commit rows of any tables, all or none; inside a transaction they are part of it."""
    large = [letter for letter in letters if _is_large(letter)]
    if len(letters) <= MOST_AT_ONCE and len(large) < _FEWEST_LARGE:
        execute_rows(connection, "INSERT INTO inbox", letters)
        return
    with nullcontext() if connection.in_transaction else transaction(connection):
        execute_rows(connection, "INSERT INTO inbox", [letter for letter in letters if not _is_large(letter)])
        # A statement of several rows is copied as a whole before the first of them goes on to its table.
        for letter in large:
            execute_rows(connection, "INSERT INTO inbox", [letter])


def _is_large(letter: Letter) -> bool:
    # The body of a stream's row, or the value of a table's.
    body = letter[5] or letter[3]
    return isinstance(body, bytes) and len(body) > _LARGE_LETTER


def close_writer(connection: sqlite3.Connection, directory: Directory) -> None:
    """Close whole where that can be done. The directory is marked clean while the write-ahead log is still there,
    empty: a crash in between is then never taken for a loss."""
    try:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            directory.closed_whole()
    except (sqlite3.DatabaseError, OSError):
        # A full disk: the write-ahead log stays, and the next start goes on from it.
        pass
    finally:
        connection.close()
    if not (directory.path / "log.db-wal").exists():
        # Closing may have done what the checkpoint could not.
        directory.closed_whole()


def leave_writer(connection: sqlite3.Connection, directory: Directory) -> None:
    """Close a log that is refused as it was found. SQLite removes the write-ahead log then, and the next start must
    not take that for a loss."""
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        directory.left_whole()
    finally:
        connection.close()


def end(connection: sqlite3.Connection, stream: str) -> int:
    """The offset that the next record of a stream gets."""
    last = connection.execute(f"SELECT {_OF_ROW} FROM {name(stream)} ORDER BY base DESC LIMIT 2").fetchall()
    if not last:
        return FIRST_OFFSET
    row: Row = last[0]
    if len(last) > 1:
        _insist_on_order(stream, last[1], row)
    if not is_whole(row):
        # One that is damaged as well says nothing of where this one begins.
        known = len(last) > 1 and is_whole(last[1])
        row = placed(row, last[1][0] + last[1][1] if known else None, None)
    return row[0] + row[1]


def first(connection: sqlite3.Connection, stream: str) -> int:
    """The earliest offset kept: where a new group starts."""
    bases = [base for (base,) in connection.execute(f"SELECT base FROM {name(stream)} ORDER BY base LIMIT 2")]
    if not bases:
        return FIRST_OFFSET
    if len(bases) == 2 and None not in bases and bases[0] < bases[1]:
        return bases[0]
    row: Row = connection.execute(f"SELECT {_OF_ROW} FROM {name(stream)} ORDER BY base LIMIT 1").fetchone()
    return row[0] if is_whole(row) else placed(row, None, bases[1] if len(bases) == 2 else None)[0]


def rows_from(connection: sqlite3.Connection, stream: str, offset: int) -> Generator[Row]:
    """Stored rows in order, beginning with the one that holds `offset`, read as they are asked for.

    A row begins where the one before it ends. One that does not is damaged, and gets the place that its neighbours
    leave it. Raises `Permanent` where rows are missing in between.
    """
    table = name(stream)
    with closing(
        connection.execute(
            f"SELECT {_OF_ROW} FROM {table} WHERE base >= "
            f"coalesce((SELECT max(base) FROM {table} WHERE base <= ?), 0) ORDER BY base",
            (offset,),
        )
    ) as found:
        reached: int | None = None
        row: Row | None = found.fetchone()
        while row is not None:
            following: Row | None = found.fetchone()
            if following is not None:
                _insist_on_order(stream, row, following)
            if not is_whole(row):
                if reached is None:
                    reached = _end_before(connection, table, row[0])
                row = placed(row, reached, following[0] if following else None)
            base, past = row[0], row[0] + row[1]
            if past > (offset if reached is None else max(reached, offset)):
                missing = reached if reached is not None else offset
                if base > missing and (reached is not None or _end_before(connection, table, base) is not None):
                    raise Permanent(
                        f"{stream} holds nothing from offset {missing} to {base - 1}: records are missing from the "
                        "log. Restore the data directory from a backup"
                    )
                yield row
            reached = past if reached is None else max(past, reached)
            row = following


def _insist_on_order(stream: str, row: Row, following: Row) -> None:
    """Raises `Permanent` where two whole rows overlap: no row is damaged then but what leads to them, and others may be
    out of reach."""
    kinds = {type(row[0]), type(row[1]), type(following[0])}
    # Checksums are looked at last, since few rows come to that.
    if kinds == {int} and following[0] < row[0] + row[1] and is_whole(row) and is_whole(following):
        raise Permanent(
            f"{stream} is out of order at offset {following[0]}: the log is damaged, and records of it may be missing. "
            "Restore the data directory from a backup"
        )


def _end_before(connection: sqlite3.Connection, table: str, base: int) -> int | None:
    """Where the row before this one ends, None where there is none."""
    before = f"SELECT base + count FROM {table} WHERE base < ? ORDER BY base DESC LIMIT 1"
    row = connection.execute(before, (base,)).fetchone()
    return row[0] if row else None


def trim(connection: sqlite3.Connection, stream: str, before: int, older_than: int | None) -> int:
    """Drop whole rows below `before` that were written before `older_than`, a bounded part, never the newest: it is
    what the next offset is known by. What goes by its age alone goes in small parts: nobody waits for its room, but
    others do for the writer."""
    if (last := _last_to_trim(connection, stream, before, older_than)) is not None:
        connection.execute(f"DELETE FROM {name(stream)} WHERE base <= ?", (last,))
    return first(connection, stream)


def give_back(connection: sqlite3.Connection, *, gently: bool) -> None:
    """Let the file shrink by a bounded part of what it holds without use. Outside a transaction."""
    held = pages(connection)
    if most := min(held.excess, _GIVE_BACK_BYTES_OF_AGE if gently else _GIVE_BACK_BYTES) // held.page:
        # It frees a page a step and has no columns: only a script is stepped to its end.
        connection.executescript(f"PRAGMA incremental_vacuum({most})")


def _last_to_trim(connection: sqlite3.Connection, stream: str, before: int, older_than: int | None) -> int | None:
    """The last row that may go with those before it, None when none may."""
    table = name(stream)
    last: int | None = None
    size = 0
    most = _TRIM_BYTES if older_than is None else _TRIM_BYTES_OF_AGE
    with closing(
        connection.execute(
            f"SELECT base, base + count, at, length(body) FROM {table} "
            f"WHERE base < (SELECT max(base) FROM {table}) ORDER BY base LIMIT {_TRIM_ROWS}"
        )
    ) as found:
        for base, end_, at, length in found:
            if end_ > before or size >= most or (older_than is not None and at >= older_than):
                break
            last = base
            size += length
    return last


class Pages(NamedTuple):
    """Bytes that hold something, bytes that hold nothing, those of them that are more than will soon be needed, and the
    size of a page."""

    used: int
    free: int
    excess: int
    page: int


def pages(connection: sqlite3.Connection) -> Pages:
    """What the file consists of, as it was last committed."""
    page, count, free = (
        connection.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_size", "page_count", "freelist_count")
    )
    used = (count - free) * page
    # In whole pages, since no less can be given back.
    excess = max(0, free * page - used // _SPARE_SHARE - _SPARE_BYTES) // page * page
    return Pages(used, free * page, excess, page)


def load_progress(connection: sqlite3.Connection, ends: Mapping[str, int]) -> dict[tuple[str, Place], Finished]:
    """What each group has finished. Raises `Permanent` where more was finished than there is, or it can't be told."""
    found: dict[tuple[str, Place], Finished] = {}
    for row in connection.execute("SELECT * FROM progress"):
        who, stream, finished = _progress(row)
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
    row = connection.execute("SELECT * FROM progress WHERE who = ? AND stream = ?", (group, stream)).fetchone()
    return Finished(first(connection, stream)) if row is None else _progress(row)[2]


def _progress(row: tuple[str, str, int, bytes, int | None]) -> tuple[str, str, Finished]:
    who, stream, next_, beyond, *sums = row
    # Format 1 wrote none.
    if sums and sums[0] is not None and sums[0] != _check_progress(who, stream, next_, beyond):
        raise Permanent(
            f"how far {who} has come in {stream} fails its checksum, so nobody can tell what is unfinished. Restore "
            "the data directory from a backup"
        )
    return who, stream, Finished(next_, decode(beyond, type=list[tuple[int, int]]))


def _check_progress(who: str, stream: str, next_: int, beyond: bytes) -> int:
    return crc32(beyond, crc32(f"{who}/{stream}/{next_}".encode()))


def batch_letters(stream: str, batch: Sequence[Row]) -> list[Letter]:
    """Rows of a stream."""
    kind = name(stream)
    return [(kind, *row) for row in batch]


def progress_letters(finished: Mapping[tuple[str, Place], Finished]) -> list[Letter]:
    """How far groups have come."""
    letters: list[Letter] = []
    for (who, place), state in finished.items():
        beyond = encode(state.beyond)
        check = _check_progress(who, place.stream, state.next, beyond)
        letters.append(("progress", who, place.stream, state.next, beyond, check))
    return letters


def table_letters(table: str, values: Mapping[str, bytes]) -> list[Letter]:
    """Rows of a table; an empty value removes its key."""
    kind = name(table)
    return [
        (kind, key, _check_row(key, value), value, None, None)
        if value
        else (f"gone_{kind}", key, None, None, None, None)
        for key, value in values.items()
    ]


class Snapshot(NamedTuple):
    """A table as it was at one instant, read in batches by a connection of its own."""

    connection: sqlite3.Connection
    rows: sqlite3.Cursor


def snapshot(path: Path, table: str, prefix: str) -> Snapshot:
    """Fix the instant: what was committed before is in, what comes later is not."""
    connection = connect(path, read_only=True)
    connection.text_factory = tolerant
    connection.execute("BEGIN")
    rows = connection.execute(
        f"SELECT key, sum, value FROM {name(table)} WHERE key >= ? AND key < ? ORDER BY key",
        (prefix, prefix + _AFTER_ANY),
    )
    return Snapshot(connection, rows)


def next_rows(taken: Snapshot, table: str, limit: int, room: int) -> Sequence[Entry]:
    """The next rows of a snapshot, none at its end: so many, or what fills `room` bytes. A row that fails its check
    says so."""
    rows: list[tuple[str, int, bytes]] = []
    for row in islice(taken.rows, limit):
        rows.append(row)
        # A damaged value may be of any kind.
        room -= len(row[2]) if isinstance(row[2], bytes) else 0
        if room <= 0:
            break
    return _row_entries(table, rows)


def rows_after(connection: sqlite3.Connection, table: str, key: str | None, limit: int) -> Sequence[Entry]:
    """Rows as they are now, in the order of their keys; the first ones, or those after a key."""
    where, values = ("", (limit,)) if key is None else ("WHERE key > ?", (key, limit))
    found = connection.execute(f"SELECT key, sum, value FROM {name(table)} {where} ORDER BY key LIMIT ?", values)
    return _row_entries(table, found.fetchall())


def _row_entries(table: str, rows: Sequence[tuple[str, int, bytes]]) -> Sequence[Entry]:
    return [
        Entry(
            table, 0, 0, key, value, 0, "" if _holds(key, sum_, value) else f"row {key} of {table} fails its checksum"
        )
        for key, sum_, value in rows
    ]


def _holds(key: str, check: int, value: bytes) -> bool:
    # What format 1 wrote is the value's alone.
    return check == _check_row(key, value) or check == crc32(value)


def _check_row(key: str, value: bytes) -> int:
    return crc32(value, crc32(key.encode()))


def tolerant(raw: bytes) -> str:
    """A text as it was stored, and a damaged one as far as it can be read, so that its checksum may tell."""
    return raw.decode(errors="replace")
