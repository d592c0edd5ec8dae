"""Runs benchmarks, each in turn, and prints what they found."""

import argparse
import importlib
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType

from bench import send
from bench.machine import describe

ROWS = {
    "reference": "what the machine itself does: SQLite commits, HTTP between client and sink",
    "accept": "one webhook a request, durable at the 202",
    "accept_batch": "many webhooks a request",
    "deliver": "a backlog drained, without and with settle",
    "end_to_end": "accepted and received at the highest rate that leaves no backlog",
    "latency": "from the request to the receiver at a fixed rate",
    "isolation": "what endpoints that hang cost the others",
    "idle": "what an idle howk costs",
}
SCALE = {
    "waiting": "many deliveries that wait for a retry: memory, start, draining",
    "endpoints": "many endpoints at once, some of them slow",
    "ordering": "many ordering keys, to one endpoint and to several",
    "catch_up": "a large backlog drained while more arrives",
    "retention": "a day's worth of the log trimmed while serving",
    "payloads": "payloads of 1 MiB, alone, in batches and tried again",
}
GROUP = "scale"
ALONE = {"rooms": "CPU of one delivery end to end by room; needs py-spy"}


def parser() -> argparse.ArgumentParser:
    listed = _listed(ROWS)
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=f"{__doc__}\n\nnames, all of them by default:\n{listed}\n\n"
        f"names of the group {GROUP}, which takes an hour and runs only when asked for:\n{_listed(SCALE)}\n\n"
        f"and by name alone:\n{_listed(ALONE)}\n\n"
        "`python -m bench send --help` is about the outbound sender alone, without howk around it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure")
    parser.add_argument("--json", action="store_true", help="one JSON line a row")
    parser.add_argument("--seconds", type=float, help="of each measurement; each row has its own default")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before measuring (%(default)s)")
    parser.add_argument("--connections", type=int, help="of the load client; each row has its own default")
    parser.add_argument("--rate", type=float, help="webhooks a second, of latency (1000) and isolation (4000)")
    parser.add_argument("--batch", type=int, default=100, help="webhooks a request, of accept_batch (%(default)s)")
    parser.add_argument("--backlog", type=int, default=100_000, help="webhooks drained by deliver (%(default)s)")
    parser.add_argument("--endpoints", type=int, default=16, help="endpoints that the backlog is for (%(default)s)")
    parser.add_argument("--deliveries", type=int, help=f"of the rows of {GROUP}; each has its own default")
    parser.add_argument("--only", action="store_true", help="the sizes asked for, without those that show the growth")
    parser.add_argument("--size", type=int, default=512, help="bytes of each payload (%(default)s)")
    parser.add_argument("--large", type=int, help="bytes of each large payload, of payloads (1048576)")
    parser.add_argument("--unsigned", action="store_true", help="webhooks without a signing secret")
    parser.add_argument("--no-pin", action="store_true", help="leave the choice of cores to the kernel")
    parser.add_argument("--directory", help="where data is kept while measuring, on a real disk (the usual temporary)")
    return parser


def _listed(rows: Mapping[str, str]) -> str:
    return "\n".join(f"  {name:<14}{what}" for name, what in rows.items())


def chosen(names: Sequence[str]) -> list[str]:
    """The rows that are meant: all but those of the group where none is named."""
    found = [each for name in names or ROWS for each in (SCALE if name == GROUP else (name,))]
    known = (*ROWS, *SCALE, *ALONE)
    if unknown := [name for name in found if name not in known]:
        parser().error(f"there is no row {', '.join(unknown)}; there are {', '.join((*known, GROUP))}")
    return found


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(args: Sequence[str]) -> int:
    if args[:1] == ["send"]:
        send.main(args[1:])
        return 0
    options = parser().parse_args(args)
    # Raised where the stand is, which then ends its children.
    signal.signal(signal.SIGTERM, _terminated)
    machine = describe()
    void = False
    for name in chosen(options.names):
        row = importlib.import_module(f"bench.{name}").measure(options)
        void = void or bool(row.problems)
        shown = json.dumps(row.document(machine)) if options.json else row.text(machine) + "\n"
        print(shown, flush=True)
    return 1 if void else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
