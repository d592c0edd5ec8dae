"""A large backlog drained while more arrives at a steady rate: the backlog falls, what arrives is answered, and
everything comes once.
"""

import argparse
import time
from typing import Any

from bench.machine import peak, spent
from bench.row import Row
from bench.scale import fill, reached, settings, sizes
from bench.stand import Howk, Stand

FULL_SIZE = 1_000_000
_RATE = 2_000
_SLOWEST = 6_000
_LOOKS = 5
_POLL = 0.5


def measure(options: argparse.Namespace) -> Row:
    rate = options.rate or _RATE
    row = Row("catch_up", f"a backlog drained while {rate:g} a second arrive")
    found: dict[str, Any] = {}
    for count in sizes(options, FULL_SIZE):
        with Stand(options) as stand:
            row.settings = settings(stand, endpoints=f"{options.endpoints} of one receiver, answering at once")
            found = row.details[f"{count} pending"] = one_size(row, stand, count, rate)
    row.add("delivered meanwhile", found["per_second"], "/s")
    row.add("own CPU of one delivery", found["cpu_us"], "µs")
    row.add("answer p99 meanwhile", found["answer_p99_ms"], "ms")
    row.add("most resident memory", found["peak_mb"], "MB")
    return row


def one_size(row: Row, stand: Stand, count: int, rate: float) -> dict[str, Any]:
    options = stand.options
    sink = stand.sink()
    fill(stand, "backlog", "fill", sink.url, count, endpoints=options.endpoints)
    began_at = time.monotonic()
    # What comes in is taken long before a backlog like this is looked through.
    howk = stand.howk().serving()
    serves = time.monotonic() - began_at
    load = stand.load(
        howk.port,
        sink.url,
        connections=options.connections or 64,
        endpoints=options.endpoints,
        rate=rate,
        warm=0,
        seconds=options.seconds or 5 + count / _SLOWEST,
    )
    load.begin()
    began, first, before = time.monotonic(), sink.counts()["distinct"], spent(howk.pid)
    left, ready = falling(howk, options.seconds or 5 + count / _SLOWEST)
    load.end()
    number, took = max(1, sink.counts()["distinct"] - first), time.monotonic() - began
    used = spent(howk.pid).since(before)
    result = load.result()
    if result["other_statuses"] or result["unsent"] or result["dropped_connections"]:
        row.problems.append(f"refused {result['other_statuses']}, unsent {result['unsent']}")
    total = count + result["accepted_in_all"]
    end = reached(sink, howk, total)
    if end["distinct"] != total or end["repeats"]:
        row.problems.append(f"{end['distinct']} of {total} came, {end['repeats']} of them repeated")
    found = {
        "serves_s": round(serves, 2),
        "ready_s": round(ready - began_at) if ready else None,
        "left": left,
        "per_second": round(number / took),
        "cpu_us": round(used.total / number * 1e6, 1),
        "answer_p50_ms": result["wait_ms"]["p50"],
        "answer_p99_ms": result["wait_ms"]["p99"],
        "answer_max_ms": result["wait_ms"]["max"],
        "all_s": round(end["last"] - end["first"], 1),
        "peak_mb": round(peak(howk.pid)),
    }
    howk.kill()
    return found


def falling(howk: Howk, seconds: float) -> tuple[list[int], float]:
    """What waits for its first attempt, now and then, and when all of it had been looked through, 0.0 for not yet."""
    found: list[int] = []
    ready, began = 0.0, time.monotonic()
    for look in range(_LOOKS):
        backlog = howk.backlog()
        found.append(backlog.get("howk.pending", 0) + backlog.get("howk.slow", 0))
        while time.monotonic() < began + seconds * (look + 1) / _LOOKS:
            if not ready and howk.is_ready():
                ready = time.monotonic()
            time.sleep(_POLL)
    return found, ready
