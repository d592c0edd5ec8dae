"""Deliveries that wait for a retry after an outage: what they hold in memory and on disk, how long a start takes with
hot state kept, after a kill and with hot state lost, and how fast they go out once they are due.
"""

import argparse
from typing import Any

from bench.machine import peak, resident, spent
from bench.row import Row
from bench.scale import disk, drained, fill, settings, sizes, started
from bench.stand import Stand
from bench.stock import make_due

MEMORY_GOAL = 600.0
READY_GOAL = 20.0
FULL_SIZE = 1_000_000


def measure(options: argparse.Namespace) -> Row:
    row = Row("waiting", "deliveries that wait for a retry")
    found: dict[str, Any] = {}
    for count in sizes(options, FULL_SIZE):
        with Stand(options) as stand:
            row.settings = settings(stand, endpoints=f"{options.endpoints} of one receiver, answering at once")
            found = row.details[f"{count} waiting"] = one_size(row, stand, count)
    row.add("most resident memory", found["peak_mb"], "MB", MEMORY_GOAL, at_most=True)
    row.add("ready after a stop", found["ready_s_after_stop"], "s", READY_GOAL, at_most=True)
    row.add("ready after a kill", found["ready_s_after_kill"], "s", READY_GOAL, at_most=True)
    row.add("ready with hot state lost", found["ready_s_rebuilt"], "s", READY_GOAL, at_most=True)
    row.add("delivered once due", found["per_second"], "/s")
    row.add("own CPU of one delivery", found["cpu_us"], "µs")
    return row


def one_size(row: Row, stand: Stand, count: int) -> dict[str, Any]:
    sink = stand.sink()
    data = stand.directory / "data"
    filled = fill(stand, "stock", "waiting", sink.url, count, endpoints=stand.options.endpoints)
    found: dict[str, Any] = {"filled_s": filled, "disk_mb": disk(data)}
    howk, found["ready_s_after_stop"] = started(stand)
    found["resident_mb"] = round(resident(howk.pid))
    howk.kill()
    howk, found["ready_s_after_kill"] = started(stand)
    start = spent(howk.pid).total
    howk.kill()
    for file in data.glob("hot.db*"):
        file.unlink()
    howk, found["ready_s_rebuilt"] = started(stand)
    found["rebuild_cpu_us"] = round(spent(howk.pid).total / count * 1e6, 1)
    rebuilding = peak(howk.pid)
    howk.kill()
    make_due(data)
    howk, _ = started(stand)
    found |= drained(howk, sink, count, row.problems, start)
    howk.kill()
    return found | {"peak_mb": round(max(rebuilding, found["peak_mb"]))}
