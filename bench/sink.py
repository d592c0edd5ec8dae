"""A receiver fast enough to measure against: answers 200 to every POST and counts what came, by `webhook-id`. Paths
with `/hangs/` in them are neither answered nor counted, those with `/slow/` are answered late and counted as `slow`
alone. With `--order` every body says of which key it is and the how manieth (`bench.stock`), and what comes out of its
order is counted as `disordered`.

`GET /__counts` tells the counts, `GET /__arrivals` the first arrival of each id in Unix seconds, both as JSON. It
prints `{"port": …}` once it listens and its counts when it is ended by a signal.
"""

import argparse
import asyncio
import json
import random
import signal
import time
from collections.abc import Sequence
from typing import Any, cast

import uvloop
from httptools import HttpParserError, HttpRequestParser

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
FAILED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Tally:
    """What came so far. A request without an id counts as a request only."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0
        self.repeats = 0
        self.failed = 0
        self.slow = 0
        self.disordered = 0
        self.latest: dict[str, int] = {}
        self.first = 0.0
        self.last = 0.0
        self.arrivals: dict[bytes, float] = {}

    def add(self, webhook_id: bytes) -> None:
        now = self.last = time.time()
        if not self.requests:
            self.first = now
        self.requests += 1
        if webhook_id:
            if webhook_id in self.arrivals:
                self.repeats += 1
            else:
                self.arrivals[webhook_id] = now

    def in_order(self, body: bytes) -> None:
        said = json.loads(body)
        key, number = said["key"], said["n"]
        if number != self.latest.get(key, 0) + 1:
            self.disordered += 1
        self.latest[key] = number

    def counts(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "distinct": len(self.arrivals),
            "repeats": self.repeats,
            "failed": self.failed,
            "slow": self.slow,
            "disordered": self.disordered,
            "connections": self.connections,
            "first": self.first,
            "last": self.last,
        }


class Sink(asyncio.Protocol):
    """One connection."""

    def __init__(self, tally: Tally, options: argparse.Namespace) -> None:
        self.tally = tally
        self.options = options
        self.plain = not (options.fail or options.hang or options.delay)
        self.webhook_id = b""
        self.path = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as such.
        self.transport = cast(asyncio.Transport, transport)
        self.parser = HttpRequestParser(self)
        self.tally.connections += 1

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self.path = url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 10 and name.lower() == b"webhook-id":
            self.webhook_id = value

    def on_message_complete(self) -> None:
        if self.path.startswith(b"/__"):
            self._report()
            return
        if b"/hangs/" in self.path:
            return
        if b"/slow/" in self.path:
            self.tally.slow += 1
            asyncio.get_running_loop().call_later(self.options.slow, self._answer_late)
            return
        self.tally.add(self.webhook_id)
        self.webhook_id = b""
        if self.plain:
            self.transport.write(OK)
        else:
            self._misbehave()

    def _answer_late(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(OK)

    def _misbehave(self) -> None:
        if random.random() < self.options.hang:
            return
        answer = OK
        if random.random() < self.options.fail:
            self.tally.failed += 1
            answer = FAILED
        if self.options.delay:
            asyncio.get_running_loop().call_later(self.options.delay, self.transport.write, answer)
        else:
            self.transport.write(answer)

    def _report(self) -> None:
        report: dict[str, Any] = {}
        if self.path == b"/__counts":
            report = self.tally.counts()
        elif self.path == b"/__arrivals":
            report = {webhook_id.decode("latin-1"): at for webhook_id, at in self.tally.arrivals.items()}
        body = json.dumps(report).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.transport.write(head + body)


class Ordered(Sink):
    """One that reads what comes."""

    def __init__(self, tally: Tally, options: argparse.Namespace) -> None:
        super().__init__(tally, options)
        self.body = b""

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if body:
            self.tally.in_order(body)
        super().on_message_complete()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.sink", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one, printed")
    parser.add_argument("--fail", type=float, default=0.0, help="share of requests answered with 503")
    parser.add_argument("--hang", type=float, default=0.0, help="share of requests never answered")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument(
        "--slow", type=float, default=1.0, help="seconds before the answers to slow paths (%(default)s)"
    )
    parser.add_argument("--order", action="store_true", help="look into bodies for their order")
    return parser


async def serve(options: argparse.Namespace) -> None:
    tally = Tally()
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    kind = Ordered if options.order else Sink
    server = await loop.create_server(lambda: kind(tally, options), options.host, options.port, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await ended.wait()
    server.close()
    print(json.dumps(tally.counts()), flush=True)


def main(args: Sequence[str] | None = None) -> None:
    uvloop.run(serve(parser().parse_args(args)))


if __name__ == "__main__":
    main()
