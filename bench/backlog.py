"""Parts of howk, wired as `howk up` wires them, in a process of their own: `fill` puts webhooks into the log of a data
directory by way of ingest, `drain` runs the deliver room and its stage over it and nothing else, until it is killed.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from itertools import cycle, islice

import uvloop
from msgspec.json import decode

from bench.load import webhook
from howk.domain.errors import Rejected
from howk.flow.ingest import Enqueue
from howk.runtime.clock import SystemClock
from howk.runtime.door import trust
from howk.runtime.lines import Lines
from howk.runtime.loading import load_from_process
from howk.runtime.observability import Metrics
from howk.runtime.wiring import House, SystemRandom, Tools, engines, wire

_AT_ONCE = 1_000
# As `howk up` sets it.
_SWITCH_INTERVAL = 0.0005


async def run(options: argparse.Namespace) -> None:
    settings = load_from_process({"data_dir": options.data_dir}).settings
    trusted = trust(settings)
    tools = Tools(SystemClock(), SystemRandom(), Metrics(), Lines(form="json", least="warning"))
    async with engines(settings, trusted, tools) as opened:
        house = wire(settings, trusted, opened, tools)
        if options.act == "fill":
            await fill(house, options)
        else:
            print(json.dumps({"event": "ready"}), flush=True)
            async with asyncio.TaskGroup() as group:
                group.create_task(house.deliver_stage.run())
                group.create_task(house.pace.run())


async def fill(house: House, options: argparse.Namespace) -> None:
    every = options.endpoints // options.slow if options.slow else options.endpoints
    paths = [f"slow/{n}" if options.slow and n % every == 0 else str(n) for n in range(options.endpoints)]
    requests = [
        decode(webhook(f"{options.endpoint}/{path}", options.size, signed=not options.unsigned), type=Enqueue)
        for path in paths
    ]
    left = options.count
    turns = cycle(requests)
    while left:
        number = min(left, _AT_ONCE)
        taken = list(islice(turns, number))
        answers = await house.ingest.accept("bench", taken, "bench")
        refused = [answer for answer in answers if isinstance(answer, Rejected)]
        if refused:
            sys.exit(f"refused: {refused[0]}")
        left -= number
    print(json.dumps({"event": "filled", "count": options.count}), flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("act", choices=["fill", "drain"])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--endpoint", default="", help="where the webhooks are to go")
    parser.add_argument("--endpoints", type=int, default=1, help="paths at the receiver, each an endpoint of its own")
    parser.add_argument("--slow", type=int, default=0, help="so many of them are slow")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=512, help="bytes of each payload")
    parser.add_argument("--unsigned", action="store_true", help="without a signing secret")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    options = parser().parse_args(args)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(options))


if __name__ == "__main__":
    main()
