"""A load client: POSTs webhooks to a door over kept connections, one request at a time on each, and counts the answers.

Closed loop (each connection sends its next request when the last was answered) or open loop (`--rate`). With `--sink`
it afterwards asks the sink which webhooks came: lost, repeated, and how long after their request. It prints one JSON
line when measuring begins, one when it ends, and one with the figures.
"""

import argparse
import asyncio
import json
import re
import sys
import time
from array import array
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import uvloop

_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - a sample, sent to a sink
_LENGTH = re.compile(rb"\r\nContent-Length: *([0-9]+)", re.IGNORECASE)
_IDS = re.compile(rb'"webhook_id":"([^"]+)"')
_TICK = 0.001
_POLL = 0.05
_LOOK = 0.25


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie; 0 when there are none."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    found = {f"p{share:g}": percentile(ordered, share / 100) for share in (50, 90, 99, 99.9)}
    found["max"] = ordered[-1] if ordered else 0.0
    return {name: round(value * 1000, 2) for name, value in found.items()}


def webhook(endpoint: str, size: int, *, signed: bool) -> bytes:
    """One request's JSON; its payload is a JSON object of `size` bytes."""
    item: dict[str, Any] = {"endpoint": endpoint, "payload": {"type": "bench", "pad": ""}}
    room = size - len(json.dumps(item["payload"], separators=(",", ":")))
    item["payload"]["pad"] = "x" * max(0, room)
    if signed:
        item["signing_secret"] = _SECRET
    return json.dumps(item, separators=(",", ":")).encode()


class Kind(NamedTuple):
    """A request's bytes, and whether its endpoint answers."""

    request: bytes
    counts: bool


def kinds(options: argparse.Namespace) -> list[Kind]:
    """The requests, one for each endpoint; those that hang or are slow are spread among the others."""
    if options.endpoints == 1:
        return [Kind(request(options, options.endpoint), counts=True)]
    every = options.endpoints // options.hanging if options.hanging else options.endpoints + 1
    found: list[Kind] = []
    for number in range(options.endpoints):
        hangs = number % every == 0 and options.hanging > 0
        path = f"/{options.aside}/{number}" if hangs else f"/{number}"
        found.append(Kind(request(options, options.endpoint + path), counts=not hangs))
    return found


def request(options: argparse.Namespace, endpoint: str) -> bytes:
    """The bytes of a request."""
    body = webhook(endpoint, options.size, signed=not options.unsigned)
    path = "/webhooks/bench/enqueue"
    if options.batch > 1:
        body = b'{"webhooks":[' + b",".join([body] * options.batch) + b"]}"
        path += "/batch"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


class Tally:
    """What came of the requests. `ids` and `sent` are of every webhook accepted, warm-up included."""

    def __init__(self) -> None:
        self.accepted = 0
        self.ids: list[bytes] = []
        self.sent = array("d")
        self.waits = array("d")
        self.measuring = False
        self.measured = 0
        self.statuses: dict[str, int] = {}
        self.dropped = 0
        self.unsent = 0


class Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, load: "Load") -> None:
        self.load = load
        self.began = 0.0
        self.buffer = b""
        self.counts = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not registered as such.
        self.transport = cast(asyncio.Transport, transport)

    def send(self, began: float) -> None:
        self.began = began
        self.transport.write(self.load.next(self))

    def data_received(self, data: bytes) -> None:
        if self.buffer:
            data = self.buffer + data
        end = data.find(b"\r\n\r\n")
        if end >= 0:
            length = _LENGTH.search(data, 0, end)
            if length and len(data) >= end + 4 + int(length[1]):
                self.buffer = b""
                self.load.answered(self, data)
                return
        self.buffer = data

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.tally.dropped += 1


class Load:
    """Keeps the connections busy until told to stop."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.kinds = kinds(options)
        self.number = 0
        self.tally = Tally()
        self.clients: list[Client] = []
        self.idle: deque[Client] = deque()
        self.overdue: deque[float] = deque()
        self.sending = True
        self.held = False
        self.highest = 0

    def next(self, client: Client) -> bytes:
        """The request of the next endpoint in turn."""
        kind = self.kinds[self.number % len(self.kinds)]
        self.number += 1
        client.counts = kind.counts
        return kind.request

    def answered(self, client: Client, data: bytes) -> None:
        tally = self.tally
        now = time.time()
        if data.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")):
            count = self.options.batch if client.counts else 0
            tally.accepted += count
            if self.options.sink and count:
                ids = _IDS.findall(data)
                tally.ids += ids
                tally.sent.extend([client.began] * len(ids))
            if tally.measuring and count:
                tally.measured += count
                tally.waits.append(now - client.began)
        else:
            status = data[9:12].decode("latin-1")
            tally.statuses[status] = tally.statuses.get(status, 0) + 1
        if self.overdue and self.sending:
            client.send(self.overdue.popleft())
        elif self.options.rate or self.held or not self.sending:
            self.idle.append(client)
        else:
            client.send(now)

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(self.options.connections):
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self.options.port)
            self.clients.append(client)
            self.idle.append(client)

    def release(self) -> None:
        """Let every idle connection of a closed loop go on."""
        self.held = False
        while self.idle:
            self.idle.popleft().send(time.time())

    async def answered_all(self, within: float) -> None:
        """Returns when no request waits for its answer."""
        deadline = time.monotonic() + within
        while len(self.idle) < len(self.clients) and time.monotonic() < deadline:  # noqa: ASYNC110 - only at the end
            await asyncio.sleep(_TICK)

    async def pace(self) -> None:
        """Open loop: what is due is sent at the tick, or as soon as a connection is free, its wait counted."""
        began, sent = time.monotonic(), 0
        while self.sending:
            due = int((time.monotonic() - began) * self.options.rate / self.options.batch) - sent
            sent += due
            now = time.time()
            for _ in range(due):
                if self.idle:
                    self.idle.popleft().send(now)
                else:
                    self.overdue.append(now)
            await asyncio.sleep(_TICK)
        self.tally.unsent = len(self.overdue)

    async def watch(self) -> None:
        """Closed loop bounded by what is accepted and not received: the backlog can't grow beyond `--outstanding`."""
        behind, next_look = 0, 0.0
        while self.sending:
            counts = await ask(self.options.sink, "/__counts")
            outstanding = self.tally.accepted - counts["distinct"]
            if self.options.watch_metrics and time.monotonic() >= next_look:
                behind = await backlog(self.options.port)
                next_look = time.monotonic() + _LOOK
            self.highest = max(self.highest, outstanding, behind)
            if max(outstanding, behind) > self.options.outstanding:
                self.held = True
            elif self.held:
                self.release()
            await asyncio.sleep(_POLL)


async def fetch(port: int, path: str) -> bytes:
    """The body of a GET."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(_LENGTH.findall(head)[0])
    body = await reader.readexactly(length)
    writer.close()
    return body


async def ask(port: int, path: str) -> Any:
    """What a sink reports."""
    return json.loads(await fetch(port, path))


async def backlog(port: int) -> int:
    """How many records wait for their room, over all streams."""
    text = (await fetch(port, "/metrics")).decode()
    return sum(int(float(line.rpartition(" ")[2])) for line in text.splitlines() if line.startswith("howk_backlog{"))


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


async def run(options: argparse.Namespace) -> None:
    load = Load(options)
    await load.connect()
    tally = load.tally
    tasks = [asyncio.ensure_future(load.pace())] if options.rate else []
    if options.outstanding:
        tasks.append(asyncio.ensure_future(load.watch()))
    if not options.rate:
        load.release()
    await asyncio.sleep(options.warm)
    cpu, began = time.process_time(), time.monotonic()
    tally.measuring = True
    say(event="begin", accepted=tally.accepted)
    await asyncio.sleep(options.seconds)
    tally.measuring = False
    took, spent = time.monotonic() - began, time.process_time() - cpu
    say(event="end", accepted=tally.accepted)
    load.sending = False
    await asyncio.gather(*tasks)
    await load.answered_all(options.settle)
    figures: dict[str, Any] = {
        "event": "result",
        "accepted": tally.measured,
        "accepted_in_all": tally.accepted,
        "seconds": round(took, 3),
        "per_second": round(tally.measured / took),
        "wait_ms": spread(tally.waits),
        "other_statuses": tally.statuses,
        "dropped_connections": tally.dropped,
        "unsent": tally.unsent,
        "client_core_share": round(spent / took, 2),
    }
    if options.outstanding:
        figures["highest_backlog"] = load.highest
    if options.sink:
        figures["received"] = await received(tally, options)
    for client in load.clients:
        client.transport.close()
    say(**figures)


async def received(tally: Tally, options: argparse.Namespace) -> dict[str, Any]:
    """What the sink says of the webhooks that were accepted, once they have had time to come."""
    deadline = time.monotonic() + options.settle
    counts = await ask(options.sink, "/__counts")
    while counts["distinct"] < len(tally.ids) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        counts = await ask(options.sink, "/__counts")
    arrivals: dict[str, float] = await ask(options.sink, "/__arrivals")
    names = [name.decode() for name in tally.ids]
    late = [arrivals[name] - sent for name, sent in zip(names, tally.sent, strict=True) if name in arrivals]
    return {
        "accepted": len(names),
        "distinct": counts["distinct"],
        "lost": sum([name not in arrivals for name in names]),
        "repeated": counts["repeats"],
        "unknown": len(arrivals.keys() - set(names)),
        "accept_to_receiver_ms": spread(late),
    }


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="of the door, or of a sink")
    parser.add_argument("--endpoint", required=True, help="where the webhooks are to go")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--batch", type=int, default=1, help="webhooks in a request")
    parser.add_argument("--endpoints", type=int, default=1, help="so many paths in turn, each an endpoint of its own")
    parser.add_argument("--hanging", type=int, default=0, help="so many of them hang, and are not counted")
    parser.add_argument(
        "--aside", default="hangs", help="the path of those, which the sink knows them by (%(default)s)"
    )
    parser.add_argument("--rate", type=float, default=0.0, help="webhooks a second; 0: closed loop")
    parser.add_argument("--size", type=int, default=512, help="bytes of each payload")
    parser.add_argument("--unsigned", action="store_true", help="without a signing secret")
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before measuring")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--settle", type=float, default=10.0, help="most seconds to wait for what is on its way")
    parser.add_argument("--sink", type=int, default=0, help="port of the sink to compare with")
    parser.add_argument("--outstanding", type=int, default=0, help="hold back while more is accepted and not received")
    parser.add_argument("--watch-metrics", action="store_true", help="hold back by the door's howk_backlog too")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    options = parser().parse_args(args)
    if options.outstanding and not options.sink:
        sys.exit("--outstanding needs --sink")
    uvloop.run(run(options))


if __name__ == "__main__":
    main()
