"""What the rows of the group scale share: the sizes that growth is shown over, data directories that are filled before,
and a howk that drains them while its cost is read.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from bench.machine import peak, spent
from bench.stand import Howk, Sink, Stand, line

_WITHIN = 900.0
_POLL = 0.05


def sizes(options: argparse.Namespace, default: int) -> list[int]:
    """What growth is shown over: a hundredth, a tenth and all of it."""
    most = options.deliveries or default
    if options.only:
        return [most]
    return sorted({max(1, most // 100), max(1, most // 10), most})


def settings(stand: Stand, **more: object) -> dict[str, object]:
    """What all of these rows say."""
    options = stand.options
    return {"payload_bytes": options.size, "signed": not options.unsigned, **more, "cores": str(stand.cores)}


def fill(stand: Stand, module: str, act: str, url: str, count: int, **flags: object) -> float:
    """Put deliveries into the data directory, by `bench.stock` or `bench.backlog`; the seconds that it took."""
    options = stand.options
    began = time.monotonic()
    given = {"data-dir": stand.directory / "data", "endpoint": url, "count": count, "size": options.size, **flags}
    command = ["-m", f"bench.{module}", act, *[f"--{name.replace('_', '-')}={value}" for name, value in given.items()]]
    child = stand.start([*command, *(["--unsigned"] if options.unsigned else [])], stand.cores.measured)
    line(child)
    child.wait()
    return round(time.monotonic() - began, 1)


def started(stand: Stand, **settings: object) -> tuple[Howk, float]:
    """A howk that is ready, and the seconds from its start until then."""
    began = time.monotonic()
    howk = stand.howk(**settings).ready(_WITHIN)
    return howk, round(time.monotonic() - began, 2)


def disk(data: Path) -> int:
    """MB of a data directory."""
    return round(sum(file.stat().st_size for file in data.iterdir()) / (1 << 20))


def drained(howk: Howk, sink: Sink, count: int, wrong: list[str], start: float | None = None) -> dict[str, Any]:
    """Until all have come, what each cost and how many there were a second, without the first and the last tenth.

    With `start`, the CPU seconds of a start that has nothing to do, the cost is that of the whole life instead until
    all are settled: ten thousand may be in hand at once, so of few the work on most lies outside of any part.
    """
    reached(sink, howk, count // 10)
    began, first, before = time.monotonic(), sink.counts()["distinct"], spent(howk.pid)
    reached(sink, howk, count - count // 10)
    number, took = max(1, sink.counts()["distinct"] - first), time.monotonic() - began
    used = spent(howk.pid).since(before)
    end = reached(sink, howk, count)
    if end["distinct"] != count or end["repeats"]:
        wrong.append(f"{end['distinct']} of {count} came, {end['repeats']} of them repeated")
    cost = used.total / number
    if start is not None:
        settled(howk)
        cost = (spent(howk.pid).total - start) / count
    return {
        "drained_s": round(end["last"] - end["first"], 1),
        "per_second": round(number / took),
        "cpu_us": round(cost * 1e6, 1),
        "peak_mb": round(peak(howk.pid)),
    }


def settled(howk: Howk) -> None:
    """Returns when no room has anything left to read."""
    deadline = time.monotonic() + _WITHIN
    while any(howk.backlog().values()):
        if time.monotonic() > deadline or not howk.runs():
            raise SystemExit("what was delivered is not settled")
        time.sleep(_POLL)


def reached(sink: Sink, howk: Howk, count: int) -> dict[str, Any]:
    """The sink's counts once so many have come."""
    deadline = time.monotonic() + _WITHIN
    while (counts := sink.counts())["distinct"] < count:
        if time.monotonic() > deadline or not howk.runs():
            raise SystemExit(f"only {counts['distinct']} of {count} came to the receiver")
        time.sleep(_POLL)
    return counts
