"""Many endpoints at once, one in a hundred of them slow: a backlog for all of them drained, and then a steady rate to
all of them in turn. Only those that are not slow are counted.
"""

import argparse
from typing import Any

from bench.machine import peak, resident
from bench.row import Row
from bench.scale import drained, fill, settings, sizes
from bench.stand import Stand

FULL_SIZE = 10_000
_EACH = 10
_SLOW = 100
_RATE = 2_000


def measure(options: argparse.Namespace) -> Row:
    rate = options.rate or _RATE
    row = Row("endpoints", f"{_EACH} deliveries to each of many endpoints, then {rate:g} a second to all of them")
    found: dict[str, Any] = {}
    for count in sizes(options, FULL_SIZE * _EACH):
        with Stand(options) as stand:
            row.settings = settings(stand, slow="1 endpoint in 100 answers after 1 s")
            endpoints = max(2, count // _EACH)
            found = row.details[f"{endpoints} endpoints"] = one_size(row, stand, endpoints, rate)
    row.add("delivered", found["per_second"], "/s")
    row.add("own CPU of one delivery", found["cpu_us"], "µs")
    row.add("request to receiver p99", found["p99_ms"], "ms")
    row.add("most resident memory", found["peak_mb"], "MB")
    return row


def one_size(row: Row, stand: Stand, endpoints: int, rate: float) -> dict[str, Any]:
    sink = stand.sink()
    slow = max(1, endpoints // _SLOW)
    # The same number for every size, so that only the number of endpoints differs.
    count = (stand.options.deliveries or FULL_SIZE * _EACH) // endpoints * endpoints
    fill(stand, "backlog", "fill", sink.url, count, endpoints=endpoints, slow=slow)
    # First attempts begin before it says that it is ready.
    howk = stand.howk().serving()
    found = drained(howk, sink, count - slow * (count // endpoints), row.problems)
    # The first one stays for what is still slow.
    sink = stand.sink()
    load = stand.load(
        howk.port,
        sink.url,
        sink=sink.port,
        connections=stand.options.connections or 64,
        endpoints=endpoints,
        hanging=slow,
        aside="slow",
        rate=rate,
        warm=stand.options.warm,
        seconds=stand.options.seconds or 10.0,
    )
    load.begin()
    load.end()
    result = load.result()
    received = result["received"]
    if received["lost"] or result["other_statuses"] or received["repeated"]:
        row.problems.append(f"lost {received['lost']}, repeated {received['repeated']}, {result['other_statuses']}")
    found |= {f"{name}_ms": received["accept_to_receiver_ms"][name] for name in ("p50", "p99")}
    found |= {"unsent": result["unsent"], "resident_mb": round(resident(howk.pid)), "peak_mb": round(peak(howk.pid))}
    howk.kill()
    return found
