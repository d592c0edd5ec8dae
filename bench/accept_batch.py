"""Accepting in batches; delivering is held up as in `accept`."""

import argparse

from bench.accept import check, held_up, settings
from bench.limits import Limits
from bench.row import Row
from bench.stand import Stand, Window

GOAL = 60_000


def measure(options: argparse.Namespace) -> Row:
    row = Row("accept_batch", f"batches of {options.batch}, durable at the 202, one process")
    with Stand(options) as stand:
        limits = Limits(stand)
        limits.take()
        sink, howk = held_up(stand)
        connections = options.connections or 16
        row.settings = {"connections": connections, "batch": options.batch, **settings(stand)}
        load = stand.load(
            howk.port,
            sink.url,
            connections=connections,
            batch=options.batch,
            warm=options.warm,
            seconds=options.seconds or 8.0,
        )
        load.begin()
        window = Window(stand, howk)
        load.end()
        found = load.result()
        row.details["own cost of one webhook"] = window.per(found["accepted"])
        limits.take()
        row.add("accepted webhooks", found["per_second"], "/s", GOAL, limit=limits.disk())
        row.add("answer p50", found["wait_ms"]["p50"], "ms")
        row.add("answer p99", found["wait_ms"]["p99"], "ms")
        check(row, stand, howk, [found])
    return row
