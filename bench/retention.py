"""A day's worth of finished deliveries dropped from the log while others are accepted and delivered at a steady rate,
and the same rate while nothing is dropped.
"""

import argparse
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.machine import peak, spent
from bench.row import Row
from bench.scale import disk, fill, settings, sizes, started
from bench.stand import Howk, Stand

FULL_SIZE = 1_000_000
_RATE = 2_000
_DAYS = 8
_KEPT = {"RETENTION_PENDING": "30d", "RETENTION_RESULTS": "30d"}
_OLD = (
    "SELECT coalesce(sum(count), 0) FROM log_pending WHERE at < ?",
    "SELECT coalesce(sum(count), 0) FROM log_results WHERE at < ?",
)
_TIMES_GOAL = 2.0
_POLL = 0.5
_WITHIN = 300.0


def measure(options: argparse.Namespace) -> Row:
    rate = options.rate or _RATE
    row = Row("retention", f"what is {_DAYS} days old dropped while {rate:g} a second come and go")
    found: dict[str, Any] = {}
    for count in sizes(options, FULL_SIZE):
        with Stand(options) as stand:
            row.settings = settings(stand, endpoints=f"{options.endpoints} of one receiver, answering at once")
            found = row.details[f"{count} old ones"] = one_size(row, stand, count, rate)
    with_, without = found["dropping"], found["keeping"]
    row.add("answer p99 while dropping", with_["answer_p99_ms"], "ms")
    times = round(with_["answer_p99_ms"] / max(without["answer_p99_ms"], 0.01), 2)
    row.add("... times that without", times, "", _TIMES_GOAL, at_most=True)
    row.add("delivered while dropping", with_["per_second"], "/s")
    row.add("dropped", found["dropped_per_second"], "/s")
    row.add("the log afterwards", found["log_mb"][1], "MB")
    return row


def one_size(row: Row, stand: Stand, count: int, rate: float) -> dict[str, Any]:
    data = stand.directory / "data"
    filled = fill(stand, "stock", "past", stand.sink().url, count, endpoints=stand.options.endpoints, days=_DAYS)
    found: dict[str, Any] = {"filled_s": filled, "disk_mb": disk(data)}
    before = log_size(data)
    howk, _ = started(stand, **_KEPT)
    found["keeping"] = served(row, stand, howk, rate)
    howk.stop()
    began = time.monotonic()
    howk, _ = started(stand)
    found["dropping"] = served(row, stand, howk, rate)
    left = dropped(row, data, count)
    took = time.monotonic() - began
    found |= {"log_mb": [before, log_size(data)], "left": left, "dropped_s": round(took, 1)}
    found["dropped_per_second"] = round(2 * count / took)
    howk.kill()
    return found


def served(row: Row, stand: Stand, howk: Howk, rate: float) -> dict[str, Any]:
    """What serving is like for a while."""
    options, sink = stand.options, stand.sink()
    load = stand.load(
        howk.port,
        sink.url,
        sink=sink.port,
        connections=options.connections or 64,
        endpoints=options.endpoints,
        rate=rate,
        warm=2,
        seconds=options.seconds or 10.0,
    )
    load.begin()
    before = spent(howk.pid)
    load.end()
    used = spent(howk.pid).since(before)
    result = load.result()
    received = result["received"]
    if received["lost"] or received["repeated"] or result["other_statuses"] or result["unsent"]:
        row.problems.append(f"lost {received['lost']}, unsent {result['unsent']}, refused {result['other_statuses']}")
    return {
        "per_second": result["per_second"],
        "answer_p99_ms": result["wait_ms"]["p99"],
        "answer_max_ms": result["wait_ms"]["max"],
        "receiver_p99_ms": received["accept_to_receiver_ms"]["p99"],
        "cpu_us": round(used.total / max(1, result["accepted"]) * 1e6, 1),
        "peak_mb": round(peak(howk.pid)),
    }


def dropped(row: Row, data: Path, count: int) -> int:
    """How many old records are left, once no more go."""
    before, deadline = -1, time.monotonic() + _WITHIN
    while (left := old(data)) and time.monotonic() < deadline:
        if left == before:
            break
        before = left
        time.sleep(_POLL * 12)
    # The newest row of a stream stays, and one may hold old and new ones.
    if left > max(2_000, count // 10):
        row.problems.append(f"{left} old records are still there")
    return left


def old(data: Path) -> int:
    """Records of streams that are older than a week."""
    before = (time.time() - 7 * 86_400) * 1000
    with closing(sqlite3.connect(f"file:{data / 'log.db'}?mode=ro", uri=True)) as connection:
        return sum([connection.execute(each, (before,)).fetchone()[0] for each in _OLD])


def log_size(data: Path) -> int:
    """MB of the log's file."""
    return round((data / "log.db").stat().st_size / (1 << 20))
