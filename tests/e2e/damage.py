"""What tests do to the files of a data directory while nobody has it open: read them, write what a newer version would,
flip bytes. Rows are made by the engine's own code, so that they stay what it writes.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shutil import copy
from sqlite3 import Connection, connect
from tempfile import TemporaryDirectory
from typing import Any
from zlib import crc32

from howk.adapters.embedded import rows, schema
from howk.domain.records import RESULTS, Result, reader
from howk.ports.log import Record

Contents = dict[str, list[tuple[Any, ...]]]
_read = reader(Result)
_OF_ATTEMPTS = frozenset({"delivered", "failed", "rejected"})


@contextmanager
def edited(path: Path) -> Iterator[Connection]:
    """A closed database to tamper with."""
    with closing(connect(path, isolation_level=None)) as connection:
        yield connection


def contents(data: Path) -> Contents:
    """Every record and row of the log; how far each part has come is not looked at."""
    with edited(data / "log.db") as connection:
        return {
            stream: connection.execute(f"SELECT * FROM {schema.name(stream)} ORDER BY 1").fetchall()
            for stream in schema.STREAMS + schema.TABLES
        }


def outcomes(data: Path) -> set[tuple[str, int]]:
    """The attempts, by id and number, whose outcome is in the log that a killed process has left; it stays as it is."""
    with TemporaryDirectory() as folder:
        for path in data.glob("log.db*"):
            copy(path, folder)
        with edited(Path(folder) / "log.db") as connection:
            found = connection.execute(f"SELECT * FROM {schema.name(RESULTS)}").fetchall()
    results = [_read(entry.value) for row in found for entry in rows.unpack(RESULTS, row)]
    return {(result.id, result.attempt) for result in results if result.outcome in _OF_ATTEMPTS}


def write(data: Path, stream: str, key: str, value: bytes) -> None:
    """One more record of a stream, or row of a table."""
    table = schema.name(stream)
    with edited(data / "log.db") as connection:
        if stream in schema.TABLES:
            connection.execute(f"REPLACE INTO {table} VALUES (?, ?, ?)", (key, crc32(value), value))
        else:
            (row,) = rows.pack(schema.end(connection, stream), 1, [Record(stream, key, value)])
            connection.execute(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?)", row)


def erase(data: Path, stream: str, key: str) -> None:
    """Take back what was written last."""
    table = schema.name(stream)
    with edited(data / "log.db") as connection:
        if stream in schema.TABLES:
            connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
        else:
            connection.execute(f"DELETE FROM {table} WHERE base = (SELECT max(base) FROM {table})")
