"""A look at a data directory as the engine would judge it at its start: who holds it, how the last run ended, and
whether the log would be refused. It changes nothing.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from howk.adapters.embedded import schema
from howk.adapters.embedded.directory import Run, holder, last_run
from howk.domain.errors import Permanent

_HEAD = 100
"""Bytes of the head of an SQLite file (sqlite.org/fileformat2.html, 1.3)."""


class Found(NamedTuple):
    """`holder` is the process that has the directory, "" for none; `refusal` why a start would be refused, "" when it
    would not; `note` how the last run ended; `sqlite` the version of the library; `used` and `unused` the bytes of the
    log that hold something and those that do not, as they were when its write-ahead log was last moved into it."""

    holder: str
    refusal: str
    note: str
    sqlite: str
    used: int = 0
    unused: int = 0


def examine(path: Path) -> Found:
    """Look at an absolute path that may not exist. Raises `OSError` for what this user may not read."""
    used, unused = _pages(path / "log.db")
    return _examine(path)._replace(used=used, unused=unused)


def _pages(path: Path) -> tuple[int, int]:
    """Bytes in use and not, by the file's head: nothing is opened that could change it."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        return 0, 0
    if len(head) < _HEAD:
        return 0, 0
    page, count, free = (int.from_bytes(head[start:stop]) for start, stop in ((16, 18), (28, 32), (36, 40)))
    return (count - free) * page, free * page


def _examine(path: Path) -> Found:
    version = sqlite3.sqlite_version
    if held := holder(path):
        return Found(held, "", "it is in use, and was judged when that process started", version)
    try:
        previous = last_run(path)
        refusal = schema.loss(path / "log.db", previous) or _judge(path / "log.db", previous)
    except Permanent as error:
        return Found("", str(error), "", version)
    if previous is None:
        note = (
            "it does not say how its last run ended" if (path / "log.db").exists() else "nothing was written to it yet"
        )
        return Found("", refusal, note, version)
    if previous.clean:
        return Found("", refusal, "the last run closed it whole", version)
    return Found(
        "", refusal, f"the last run (process {previous.pid}) was cut off: the next start goes on from the log", version
    )


def _judge(path: Path, previous: Run | None) -> str:
    """Why the log would be refused when it is opened, "" when it would not."""
    if not path.exists() or not path.stat().st_size:
        return ""
    try:
        with closing(schema.look_into(path)) as connection:
            if sentence := schema.too_new(connection, path) or schema.foreign(connection, path, previous):
                return sentence
            known = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            streams = [stream for stream in schema.STREAMS if schema.name(stream) in known]
            if "progress" in known:
                schema.load_progress(connection, {stream: schema.end(connection, stream) for stream in streams})
    except schema.UNREADABLE as error:
        return str(schema.unopened(path, error))
    return ""
