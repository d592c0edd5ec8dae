"""Accepting and delivering at once in one `howk up`: a closed loop of clients that is held back while more is accepted
and not received, or waits for a room, than a bound; so the rate is the highest that leaves no growing backlog.
"""

import argparse
import time

from bench.limits import Limits
from bench.row import Row
from bench.stand import Stand, Window

GOAL = 8_000
CPU_GOAL = 120.0
_OUTSTANDING = 4_000


def measure(options: argparse.Namespace) -> Row:
    row = Row("end_to_end", "accepted and received, all rooms in one process, at the highest rate without a backlog")
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
            "most outstanding": _OUTSTANDING,
            "cores": str(stand.cores),
        }
        load = stand.load(
            howk.port,
            sink.url,
            sink=sink.port,
            connections=connections,
            outstanding=_OUTSTANDING,
            watch_metrics=True,
            warm=options.warm,
            seconds=options.seconds or 20.0,
        )
        load.begin()
        before, began, window = sink.counts(), time.monotonic(), Window(stand, howk)
        load.end()
        after, took = sink.counts(), time.monotonic() - began
        number = after["distinct"] - before["distinct"]
        cost = window.per(number)
        found = load.result()
        received = found["received"]
        limits.take()
        row.add("delivered, counted at the receiver", round(number / took), "/s", GOAL, limit=limits.http())
        row.add("accepted", found["per_second"], "/s")
        row.add("own CPU of one delivery", float(cost["cpu_us"]), "µs", CPU_GOAL, at_most=True, limit=limits.http())
        row.add("lost", received["lost"], "")
        row.add("repeated", received["repeated"], "")
        row.details = {
            "own cost of one delivery": cost,
            "backlog": {"most outstanding seen": found["highest_backlog"], "at the end": howk.backlog()},
            "accept_to_receiver_ms": received["accept_to_receiver_ms"],
            "answer_ms": found["wait_ms"],
        }
        if received["lost"] or found["other_statuses"] or found["dropped_connections"]:
            row.problems.append(f"lost {received['lost']}, refused {found['other_statuses']}")
    return row
