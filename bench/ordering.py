"""Many ordering keys with many deliveries each, to one endpoint and to several: how fast they go out one after the
other, and that they come in order.
"""

import argparse
from typing import Any

from bench.row import Row
from bench.scale import drained, fill, settings, sizes, started
from bench.stand import Stand

FULL_SIZE = 100_000
_KEYS = 1_000


def measure(options: argparse.Namespace) -> Row:
    row = Row("ordering", f"{_KEYS} ordering keys, in turn")
    found: dict[tuple[int, int], dict[str, Any]] = {}
    targets = (1, options.endpoints)
    for count in sizes(options, FULL_SIZE):
        for endpoints in targets:
            with Stand(options) as stand:
                row.settings = settings(stand, keys=_KEYS)
                found[count, endpoints] = one_size(row, stand, count, endpoints)
            row.details[f"{count} to {endpoints} endpoints"] = found[count, endpoints]
    for endpoints in targets:
        each = found[count, endpoints]
        row.add(f"delivered, {endpoints} endpoints", each["per_second"], "/s")
        row.add("own CPU of one delivery", each["cpu_us"], "µs")
        row.add("out of order", each["disordered"], "")
    return row


def one_size(row: Row, stand: Stand, count: int, endpoints: int) -> dict[str, Any]:
    sink = stand.sink("--order")
    fill(stand, "stock", "ordered", sink.url, count, endpoints=endpoints, keys=_KEYS)
    howk, _ = started(stand)
    found = drained(howk, sink, count, row.problems)
    found["disordered"] = sink.counts()["disordered"]
    if found["disordered"]:
        row.problems.append(f"{found['disordered']} came out of order")
    howk.kill()
    return found
