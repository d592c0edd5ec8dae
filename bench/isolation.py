"""What endpoints that hang cost the others: a fixed rate to 200 endpoints, first all of them well, then with 20 that
never answer. Counted at the receiver, and only of those that are well both times.
"""

import argparse
from typing import Any

from bench.row import Row
from bench.stand import Stand

ENDPOINTS = 200
HANGING = 20
RATE = 4_000
LOSS_GOAL = 10.0
TIMES_GOAL = 2.0


def measure(options: argparse.Namespace) -> Row:
    rate = options.rate or RATE
    row = Row("isolation", f"{HANGING} of {ENDPOINTS} endpoints hang, {rate:g} webhooks a second to all")
    row.settings = {"payload_bytes": options.size, "signed": not options.unsigned, "delivery.timeout": "30s"}
    well, hanging = run(row, options, rate, 0), run(row, options, rate, HANGING)
    # The same share of the rate goes to those that are well both times.
    expected = well["distinct"] * (1 - HANGING / ENDPOINTS)
    loss = 100 * (1 - hanging["distinct"] / expected)
    before, after = (each["accept_to_receiver_ms"] for each in (well, hanging))
    row.add("lost throughput of the others", round(max(0.0, loss), 2), "%", LOSS_GOAL, at_most=True)
    row.add("their p99, times that without", round(after["p99"] / before["p99"], 2), "", TIMES_GOAL, at_most=True)
    row.add("p99 with all well", before["p99"], "ms")
    row.add("p99 with some that hang", after["p99"], "ms")
    row.details = {"all well": before, "some hang": after}
    return row


def run(row: Row, options: argparse.Namespace, rate: float, hanging: int) -> dict[str, Any]:
    """What came to the endpoints that are well."""
    with Stand(options) as stand:
        sink = stand.sink()
        howk = stand.howk().ready()
        row.settings["cores"] = str(stand.cores)
        load = stand.load(
            howk.port,
            sink.url,
            sink=sink.port,
            connections=options.connections or 64,
            endpoints=ENDPOINTS,
            hanging=hanging,
            rate=rate,
            warm=options.warm,
            # Longer than a call may hang, so that breakers open and retries come.
            seconds=options.seconds or 45.0,
        )
        load.begin()
        load.end()
        found = load.result()
        received = found["received"]
        if received["lost"] or found["unsent"] or found["other_statuses"]:
            row.problems.append(f"lost {received['lost']}, unsent {found['unsent']}, refused {found['other_statuses']}")
        return received
