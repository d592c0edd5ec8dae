"""How many calls a second the outbound sender makes on one core: pooled plain HTTP to a local sink in a process of
its own. Every call is counted at the sink.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

import uvloop

from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.sender import OutboundSender
from howk.domain.addresses import AddressPolicy
from howk.ports.sender import Answer, Call, Origin

HEAD = (
    b"User-Agent: howk\r\nContent-Type: application/json\r\nwebhook-id: wh_%026d\r\n"
    b"webhook-timestamp: 1760000000\r\nwebhook-signature: v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=\r\n"
)


class Run:
    """Keeps `concurrency` calls in flight until `total` are answered."""

    def __init__(self, sender: OutboundSender, origin: Origin, total: int, concurrency: int, size: int) -> None:
        self.sender = sender
        self.origin = origin
        self.left = total
        self.open = 0
        self.concurrency = concurrency
        self.body = b"x" * size
        self.failed = 0
        self.number = 0
        self.done = asyncio.Event()

    def start(self) -> None:
        self.sender.send([self.call() for _ in range(min(self.concurrency, self.left))], self.answered)

    def call(self) -> Call:
        self.left -= 1
        self.open += 1
        self.number += 1
        return Call(self.origin, b"/hook", HEAD % self.number, self.body, 30.0)

    def answered(self, call: Call, answer: Answer) -> None:
        self.open -= 1
        if answer.status != 200:
            self.failed += 1
        if self.left:
            self.sender.send((self.call(),), self.answered)
        elif not self.open:
            self.done.set()


async def measure(options: argparse.Namespace, port: int) -> dict[str, Any]:
    sender = OutboundSender(SenderOptions(policy=AddressPolicy.of(allow_loopback=True)))
    origin = Origin("http", "127.0.0.1", port)
    warm = Run(sender, origin, options.concurrency * 20, options.concurrency, options.size)
    warm.start()
    await warm.done.wait()
    run = Run(sender, origin, options.calls, options.concurrency, options.size)
    began, cpu = time.perf_counter(), time.process_time()
    run.start()
    await run.done.wait()
    took, spent = time.perf_counter() - began, time.process_time() - cpu
    await sender.close()
    return {
        "bench": "send",
        "calls_per_second": round(options.calls / took),
        "cpu_us_per_call": round(spent / options.calls * 1e6, 2),
        "core_share": round(spent / took, 2),
        "failed": warm.failed + run.failed,
        "calls": options.calls,
        "concurrency": options.concurrency,
        "body_bytes": options.size,
        "connections": sender.dials,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "loop": options.loop,
    }


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench send", description=__doc__)
    parser.add_argument("--calls", type=int, default=300_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--size", type=int, default=512, help="bytes of each body")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop")
    parser.add_argument("--port", type=int, default=0, help="of a sink that runs already; 0 starts one")
    return parser


def main(args: Sequence[str] | None = None) -> None:
    options = parser().parse_args(args)
    sink = None
    port = options.port
    if not port:
        sink = subprocess.Popen([sys.executable, "-m", "bench.sink"], stdout=subprocess.PIPE, text=True)
        assert sink.stdout is not None
        port = json.loads(sink.stdout.readline())["port"]
    try:
        run = uvloop.run if options.loop == "uvloop" else asyncio.run
        figures = run(measure(options, port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/__counts", timeout=10) as answer:
            figures["received"] = json.load(answer)["requests"]
    finally:
        if sink is not None:
            sink.terminate()
            sink.communicate()
    figures["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
