"""Yardsticks of the same machine in the same run: durable commits of plain SQLite, and plain HTTP between the load
client and the sink that measure everything else.
"""

import argparse
import sqlite3
import time
from pathlib import Path

from bench.row import Row
from bench.stand import Stand

_ROW = 800
_BATCHES = (1, 50, 500)


def measure(options: argparse.Namespace) -> Row:
    row = Row("reference", "what the machine does without howk")
    with Stand(options) as stand:
        seconds = options.seconds or 3.0
        connections = options.connections or 64
        row.settings = {
            "sqlite": f"WAL, synchronous=FULL, rows of {_ROW} bytes, executemany",
            "http": f"{connections} connections, {options.size} bytes",
            "cores": str(stand.cores),
        }
        for batch in _BATCHES:
            rows = commits(stand.directory / f"{batch}.db", batch, seconds)
            row.add(f"SQLite rows, {batch} a commit", round(rows), "/s")
        sink = stand.sink()
        load = stand.load(sink.port, sink.url, connections=connections, warm=1.0, seconds=seconds)
        load.begin()
        load.end()
        found = load.result()
        row.add("client and sink, no howk between", found["per_second"], "/s")
        row.details["client's share of its core"] = found["client_core_share"]
    return row


def commits(path: Path, batch: int, seconds: float) -> float:
    """Rows a second."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE rows (body BLOB)")
    rows = [(b"x" * _ROW,)] * batch
    written, began = 0, time.monotonic()
    while (took := time.monotonic() - began) < seconds:
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO rows VALUES (?)", rows)
        connection.execute("COMMIT")
        written += batch
    connection.close()
    return written / took
