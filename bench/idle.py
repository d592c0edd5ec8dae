"""What a `howk up` costs that nobody uses, once it has been ready for a moment."""

import argparse
import time

from bench.machine import resident, spent
from bench.row import Row
from bench.stand import Stand

CPU_GOAL = 1.0
MEMORY_GOAL = 120.0


def measure(options: argparse.Namespace) -> Row:
    row = Row("idle", "an idle howk up")
    with Stand(options) as stand:
        howk = stand.howk().ready()
        time.sleep(options.warm)
        before, began = spent(howk.pid), time.monotonic()
        time.sleep(options.seconds or 20.0)
        used, took = spent(howk.pid).since(before), time.monotonic() - began
        row.settings = {"seconds": round(took)}
        row.add("CPU", round(used.total / took * 100, 2), "% core", CPU_GOAL, at_most=True)
        row.add("resident memory", round(resident(howk.pid), 1), "MB", MEMORY_GOAL, at_most=True)
    return row
