"""A backlog drained with nothing accepted meanwhile: by the deliver room and its stage alone, then by a whole
`howk up`, which settles in the same process. Counted at the receiver, between a tenth and nine tenths of the backlog.
"""

import argparse
import time
from typing import Any

from bench.limits import Limits
from bench.row import Row
from bench.stand import Howk, Sink, Stand, Window, line

GOAL = 20_000
_WITHIN = 120.0
_POLL = 0.02


def measure(options: argparse.Namespace) -> Row:
    row = Row("deliver", f"a backlog of {options.backlog} drained, one process")
    with Stand(options) as stand:
        limits = Limits(stand)
        limits.take()
        row.settings = {
            "payload_bytes": options.size,
            "signed": not options.unsigned,
            "endpoints": f"{options.endpoints} of one receiver, answering at once",
            "cores": str(stand.cores),
        }
        alone = drained(row, stand, "alone")
        whole = drained(row, stand, "whole")
        limits.take()
        row.add("delivered, deliver room alone", alone, "/s", GOAL, limit=limits.http())
        row.add("delivered, with settle in one process", whole, "/s")
    return row


def drained(row: Row, stand: Stand, kind: str) -> float:
    """Deliveries a second; what they cost goes to the details, what is wrong to the problems."""
    sink = stand.sink()
    fill(stand, kind, sink)
    if kind == "alone":
        child = stand.start(
            ["-m", "bench.backlog", "drain", "--data-dir", str(stand.directory / kind)], stand.cores.measured
        )
        howk = Howk(child, 0)
    else:
        howk = stand.howk(kind)
    total = stand.options.backlog
    first = reached(sink, howk, total // 10)
    window = Window(stand, howk)
    began = time.monotonic()
    last = reached(sink, howk, total - total // 10)
    took = time.monotonic() - began
    number = last["distinct"] - first["distinct"]
    row.details[f"own cost of one delivery, {kind}"] = window.per(number)
    end = reached(sink, howk, total)
    howk.kill()
    row.details[f"received, {kind}"] = {"distinct": end["distinct"], "repeated": end["repeats"]}
    if end["distinct"] != total or end["repeats"]:
        row.problems.append(f"{kind}: {end['distinct']} of {total} came, {end['repeats']} of them repeated")
    sink.end()
    return round(number / took)


def fill(stand: Stand, data: str, sink: Sink) -> None:
    """Put the backlog into a fresh data directory."""
    options = stand.options
    command = ["-m", "bench.backlog", "fill", "--data-dir", str(stand.directory / data), "--endpoint", sink.url]
    command += ["--count", str(options.backlog), "--size", str(options.size), "--endpoints", str(options.endpoints)]
    child = stand.start([*command, *(["--unsigned"] if options.unsigned else [])], stand.cores.measured)
    line(child)
    child.wait()


def reached(sink: Sink, howk: Howk, count: int) -> dict[str, Any]:
    """The sink's counts once so many have come, or when nothing comes any more."""
    deadline = time.monotonic() + _WITHIN
    while (counts := sink.counts())["distinct"] < count:
        if time.monotonic() > deadline or not howk.runs():
            raise SystemExit(f"only {counts['distinct']} of {count} came to the receiver")
        time.sleep(_POLL)
    return counts
