"""Latency at a fixed rate, open loop: a request is sent when it is due, whether or not the ones before were answered.
The client and the sink read the same clock.
"""

import argparse
import time

from bench.limits import Limits
from bench.row import Row
from bench.stand import Stand, Window

RATE = 1_000
P50_GOAL = 3.0
P99_GOAL = 15.0
_STEP = 0.0005


def measure(options: argparse.Namespace) -> Row:
    rate = options.rate or RATE
    row = Row("latency", f"at {rate:g} webhooks a second, open loop")
    with Stand(options) as stand:
        limits = Limits(stand)
        limits.take()
        sink = stand.sink()
        howk = stand.howk().ready()
        connections = options.connections or 64
        row.settings = {
            "connections": connections,
            "payload_bytes": options.size,
            "signed": not options.unsigned,
            "receivers": "1, answering at once",
            "cores": str(stand.cores),
        }
        clock = time.time() - time.monotonic()
        load = stand.load(
            howk.port,
            sink.url,
            sink=sink.port,
            connections=connections,
            rate=rate,
            warm=options.warm,
            seconds=options.seconds or 15.0,
        )
        load.begin()
        window = Window(stand, howk)
        load.end()
        found = load.result()
        row.details["own cost of one delivery"] = window.per(found["accepted"])
        received = found["received"]
        way = received["accept_to_receiver_ms"]
        limits.take()
        row.add("request to receiver p50", way["p50"], "ms", P50_GOAL, at_most=True, limit=limits.http())
        row.add("request to receiver p99", way["p99"], "ms", P99_GOAL, at_most=True, limit=limits.http())
        row.add("request to 202 p50", found["wait_ms"]["p50"], "ms")
        row.add("request to 202 p99", found["wait_ms"]["p99"], "ms")
        row.add("rate kept", found["per_second"], "/s")
        row.details["request to receiver, ms"] = way
        row.details["received"] = {name: received[name] for name in ("accepted", "lost", "repeated")}
        if abs(time.time() - time.monotonic() - clock) > _STEP:
            row.problems.append("the clock was set meanwhile")
        if received["lost"] or found["unsent"] or found["other_statuses"]:
            row.problems.append(f"lost {received['lost']}, unsent {found['unsent']}, refused {found['other_statuses']}")
    return row
