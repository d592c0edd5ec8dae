"""What each room spends on a delivery end to end: the load of `end_to_end`, with py-spy beside it, which has to be
installed (`pip install py-spy`) and allowed to look at other processes. A sample belongs to the outermost frame that is
a room's, so that a room answers for what it asks of hot state, of the log and of the sender.
"""

import argparse
import shutil
import subprocess
from collections import Counter
from pathlib import Path

from bench.row import Row
from bench.stand import Stand, Window

_OUTSTANDING = 4_000
_RATE = 400
# Of a stack, outermost first: the first that fits says where it belongs.
_ROOMS = (
    ("door", ("(howk/web/", "(howk/flow/ingest.py", "(howk/flow/keyed.py")),
    ("answers of receivers", ("Deliver._answered (", "(howk/adapters/outbound/")),
    ("deliver", ("(howk/flow/deliver.py",)),
    ("settle", ("(howk/flow/settle.py", "(howk/flow/projection.py")),
    (
        "the other rooms",
        tuple(f"(howk/flow/{room}.py" for room in ("schedule", "retain", "recall", "configs", "reconcile")),
    ),
)
_BETWEEN = (
    ("log", ("(howk/adapters/embedded/",)),
    ("stages", ("(howk/flow/stage.py",)),
)
_LOOP = "loop and sockets"
_LOOPS = "Runner.run (asyncio/runners.py"


def measure(options: argparse.Namespace) -> Row:
    row = Row("rooms", "CPU of one delivery end to end, by room")
    spy = shutil.which("py-spy")
    if spy is None:
        row.problems.append("py-spy is not installed: pip install py-spy")
        return row
    seconds = options.seconds or 10.0
    with Stand(options) as stand:
        sink = stand.sink()
        howk = stand.howk().ready()
        load = stand.load(
            howk.port,
            sink.url,
            sink=sink.port,
            connections=options.connections or 64,
            outstanding=_OUTSTANDING,
            watch_metrics=True,
            warm=options.warm,
            seconds=seconds + 4,
        )
        load.begin()
        before, window = sink.counts(), Window(stand, howk)
        samples = stand.directory / "samples"
        command = [spy, "record", "--pid", str(howk.pid), "--duration", f"{seconds:.0f}", "--rate", str(_RATE)]
        looked = subprocess.run(
            [*command, "--format", "raw", "--output", str(samples)],
            check=False,
            capture_output=True,
            text=True,
        )
        number = sink.counts()["distinct"] - before["distinct"]
        cost = window.per(number)
        load.end()
        load.result()
        if looked.returncode or not samples.exists():
            row.problems.append(f"py-spy failed: {looked.stderr.strip()[-200:]}")
            return row
        row.settings = {"payload_bytes": options.size, "signed": not options.unsigned, "cores": str(stand.cores)}
        row.details["own cost of one delivery, looked at"] = cost
        found = shares(samples)
    loop, whole = float(cost["cpu_us_loop_thread"]), float(cost["cpu_us"])
    for room, share in found:
        row.add(room, round(loop * share, 1), "µs")
    row.add("threads beside the loop, most of it the log's", round(whole - loop, 1), "µs")
    row.add("all", whole, "µs")
    return row


def shares(samples: Path) -> list[tuple[str, float]]:
    """The share of each room in what was seen of the loop's thread, largest first. Other threads are seen while they
    wait, too."""
    counts: Counter[str] = Counter()
    for text in samples.read_text().splitlines():
        stack, _, count = text.rpartition(" ")
        if _LOOPS in stack:
            counts[_room(stack.split(";"))] += int(count)
    total = sum(counts.values()) or 1
    return [(room, count / total) for room, count in counts.most_common()]


def _room(stack: list[str]) -> str:
    for frame in stack:
        for room, marks in _ROOMS:
            if any(mark in frame for mark in marks):
                return room
    for room, marks in _BETWEEN:
        if any(mark in frame for frame in stack for mark in marks):
            return room
    return _LOOP
