"""Accepting alone: one webhook a request over kept connections, each durable when its 202 comes. One delivery is in
flight to a receiver that never answers, so the backlog stays in the log and delivering takes no CPU. Afterwards howk is
killed, and what it accepted is counted in its log.
"""

import argparse
import sqlite3
from pathlib import Path

from bench.limits import Limits
from bench.row import Row
from bench.stand import Howk, Sink, Stand, Window

RATE_GOAL = 12_000
HALF_LOAD_P99_GOAL = 20.0


def measure(options: argparse.Namespace) -> Row:
    row = Row("accept", "one webhook a request, durable at the 202, one process")
    seconds = options.seconds or 10.0
    with Stand(options) as stand:
        limits = Limits(stand)
        limits.take()
        sink, howk = held_up(stand)
        connections = options.connections or 64
        row.settings = {"connections": connections, **settings(stand)}
        load = stand.load(howk.port, sink.url, connections=connections, warm=options.warm, seconds=seconds)
        load.begin()
        window = Window(stand, howk)
        load.end()
        full = load.result()
        row.details["own cost of one accept"] = window.per(full["accepted"])
        half = full["per_second"] / 2
        load = stand.load(
            howk.port, sink.url, connections=256, warm=options.warm, seconds=seconds / 2, rate=max(half, 1)
        )
        load.begin()
        load.end()
        paced = load.result()
        limits.take()
        row.add("accepted, full load", full["per_second"], "/s", RATE_GOAL, limit=limits.http())
        row.add("answer p50, full load", full["wait_ms"]["p50"], "ms")
        row.add("answer p99, full load", full["wait_ms"]["p99"], "ms")
        row.add(
            f"answer p99 at {paced['per_second']}/s", paced["wait_ms"]["p99"], "ms", HALF_LOAD_P99_GOAL, at_most=True
        )
        row.details["paced, half load"] = {"asked": round(half), **paced["wait_ms"], "unsent": paced["unsent"]}
        check(row, stand, howk, [full, paced])
    return row


def held_up(stand: Stand) -> tuple[Sink, Howk]:
    """A howk that delivers nothing, and the receiver that holds it up."""
    sink = stand.sink("--hang", "1")
    return sink, stand.howk(DELIVERY_MAX_IN_FLIGHT=1, DELIVERY_TIMEOUT="10m", DELIVERY_DRAIN="0s").ready()


def settings(stand: Stand) -> dict[str, object]:
    """What all rows that measure accepting have in common."""
    return {
        "payload_bytes": stand.options.size,
        "signed": not stand.options.unsigned,
        "deliveries": "held up at one in flight by a receiver that never answers",
        "cores": str(stand.cores),
    }


def check(row: Row, stand: Stand, howk: Howk, results: list[dict[str, object]]) -> None:
    """Every webhook that was answered with a 202 has to be in the log after a crash."""
    howk.kill()
    durable = in_log(stand.directory / "data")
    answered = sum(int(str(result["accepted_in_all"])) for result in results)
    row.details["durable"] = {"answered": answered, "in the log after a kill": durable}
    if durable < answered:
        row.problems.append(f"{answered - durable} accepted webhooks are not in the log")
    for result in results:
        if result["other_statuses"] or result["dropped_connections"]:
            row.problems.append(f"refused: {result['other_statuses']}, dropped: {result['dropped_connections']}")


def in_log(data: Path) -> int:
    """How many delivery records a data directory holds."""
    connection = sqlite3.connect(data / "log.db")
    try:
        return connection.execute(
            "SELECT (SELECT coalesce(sum(count), 0) FROM log_pending) + (SELECT coalesce(sum(count), 0) FROM log_slow)"
        ).fetchone()[0]
    finally:
        connection.close()
