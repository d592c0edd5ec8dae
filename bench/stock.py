"""Data directories as a long life leaves them, made by the shipped rooms' own code without the network: `waiting` is
what an outage leaves (every first attempt failed, nothing held), `past` what was delivered some days ago, `ordered` a
backlog with ordering keys.
"""

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import uvloop
from msgspec.json import decode, encode

from bench.load import webhook
from howk.adapters.embedded.hot import CALLED
from howk.domain.breaker import BreakerPolicy
from howk.domain.errors import Rejected
from howk.domain.records import PENDING, RESULTS
from howk.domain.retry import RetryPolicy
from howk.domain.settlement import Rules
from howk.flow import deliver, journal, settle
from howk.flow.attempt import jobs_of, result_of
from howk.flow.ingest import Enqueue
from howk.flow.journal import Journal
from howk.flow.projection import effects_of, judge, watermark_of
from howk.ports.directory import NO_LIMITS
from howk.ports.log import Consumer, Entry, Finish, Place
from howk.ports.sender import Answer
from howk.runtime.clock import SystemClock
from howk.runtime.door import trust
from howk.runtime.lines import Lines
from howk.runtime.loading import load_from_process
from howk.runtime.observability import Metrics
from howk.runtime.wiring import House, SystemRandom, Tools, engines, wire

_AT_ONCE = 1_000
_DAY = 86_400_000
_NEVER = 1 << 40
_RULES = Rules(RetryPolicy(_DAY, _DAY, 0.0), BreakerPolicy(_NEVER, 1.0, _DAY, _DAY, _DAY, 1))


class Stock:
    """A house that nobody lives in: its rooms are asked one after the other."""

    def __init__(self, house: House, tools: Tools) -> None:
        self._house = house
        self._clock = tools.clock
        self._journal = Journal(house.engines.log, tools.meter)

    async def accept(self, requests: Sequence[Enqueue]) -> None:
        answers = await self._house.ingest.accept("bench", requests, "bench")
        refused = [answer for answer in answers if isinstance(answer, Rejected)]
        if refused:
            sys.exit(f"refused: {refused[0]}")

    async def tried(self, requests: Sequence[Enqueue], count: int, outcome: str) -> None:
        """Deliveries whose first attempt had this outcome."""
        log = self._house.engines.log
        first = await log.consume(PENDING, deliver.GROUP, lambda: None)
        outcomes = await log.consume(RESULTS, settle.GROUP, lambda: None)
        while count:
            taken = repeated(requests, min(count, _AT_ONCE))
            await self.accept(taken)
            await self._answer(await fetched(first, len(taken)), outcome)
            await self._settle(await fetched(outcomes, len(taken)))
            count -= len(taken)

    async def _answer(self, batch: Sequence[Entry], outcome: str) -> None:
        jobs, _ = jobs_of(batch, lambda _: None, lambda _: NO_LIMITS, hosts=False)
        now, good = self._clock.now(), outcome == "delivered"
        answer, error = Answer(status=200 if good else 503), "" if good else "the receiver answered 503"
        results = [result_of(job, now, outcome, answer, error=error) for job in jobs]
        await self._journal.append([journal.outcome(result) for result in results], finish(deliver.GROUP, batch))

    async def _settle(self, batch: Sequence[Entry]) -> None:
        state = self._house.engines.state
        items, endpoints = await judge(batch, state, _RULES)
        records = [record for item in items for record in settle.records_of(item)]
        await self._journal.append(records, finish(settle.GROUP, batch))
        await state.apply(effects_of(items), watermark_of(batch), endpoints)


async def fetched(consumer: Consumer, count: int) -> list[Entry]:
    found: list[Entry] = []
    while len(found) < count:
        found += await consumer.fetch(count - len(found))
    return found


def finish(group: str, batch: Sequence[Entry]) -> Finish:
    return Finish(group, {Place(batch[0].stream, 0): [entry.offset for entry in batch]})


def repeated(requests: Sequence[Enqueue], count: int) -> list[Enqueue]:
    return [requests[number % len(requests)] for number in range(count)]


def ordered(options: argparse.Namespace, start: int, count: int) -> list[Enqueue]:
    """Deliveries from number `start` on: the keys in turn, each with a number that rises."""
    made: list[Enqueue] = []
    for number in range(start, start + count):
        key, nth = number % options.keys, number // options.keys
        item = {
            "endpoint": f"{options.endpoint}/{key % options.endpoints}",
            "payload": {"key": f"k{key}", "n": nth + 1, "pad": "x" * max(0, options.size - 40)},
            "ordering_key": f"k{key}",
        }
        made.append(decode(encode(item), type=Enqueue))
    return made


async def run(options: argparse.Namespace) -> None:
    settings = load_from_process({"data_dir": options.data_dir}).settings
    trusted = trust(settings)
    behind = round(options.days * _DAY)
    tools = Tools(
        SystemClock(lambda: time.time_ns() // 1_000_000 - behind),
        SystemRandom(),
        Metrics(),
        Lines(form="json", least="warning"),
    )
    async with engines(settings, trusted, tools) as opened:
        house = wire(settings, trusted, opened, tools)
        await house.reconcile.recover()
        stock = Stock(house, tools)
        if options.act == "ordered":
            for start in range(0, options.count, _AT_ONCE):
                await stock.accept(ordered(options, start, min(_AT_ONCE, options.count - start)))
        else:
            requests = [
                decode(webhook(f"{options.endpoint}/{n}", options.size, signed=not options.unsigned), type=Enqueue)
                for n in range(options.endpoints)
            ]
            await stock.tried(requests, options.count, "failed" if options.act == "waiting" else "delivered")
    print(json.dumps({"event": "filled", "count": options.count}), flush=True)


def make_due(data: Path) -> None:
    """Everything that waits in a data directory which nobody has open is due now."""
    with closing(sqlite3.connect(data / "hot.db")) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("UPDATE waiting SET due = 1, sum = ?", (CALLED,))
        connection.commit()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.stock", description=__doc__)
    parser.add_argument("act", choices=["waiting", "past", "ordered"])
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--endpoint", required=True, help="where the webhooks are to go")
    parser.add_argument("--endpoints", type=int, default=1, help="paths at the receiver, each an endpoint of its own")
    parser.add_argument("--days", type=float, default=0.0, help="how long ago (%(default)s)")
    parser.add_argument("--keys", type=int, default=1_000, help="ordering keys")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=512, help="bytes of each payload")
    parser.add_argument("--unsigned", action="store_true", help="without a signing secret")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    uvloop.run(run(parser().parse_args(args)))


if __name__ == "__main__":
    main()
