"""Payloads of 1 MiB, as large as `api.max_payload_size` lets them be: alone from few and from many clients, in batches
of `api.max_batch_size`, and tried again; with small webhooks beside, which should not notice. Growth is shown over the
size of payloads and the number of clients.
"""

import argparse
import time
from itertools import product
from typing import Any

from bench.machine import peak, spent
from bench.row import Row
from bench.scale import settings
from bench.stand import Stand

_LARGEST = 1 << 20
_BESIDE = 200
_BATCH = 15
_OUTSTANDING = 256
# name: clients, webhooks a request, share of attempts that fail
_KINDS = {
    "16 clients": (16, 1, 0.0),
    "256 clients": (256, 1, 0.0),
    "batches": (8, _BATCH, 0.0),
    "retries": (16, 1, 0.2),
}
_SIZES = (1 << 10, 1 << 16)
_CLIENTS = (16, 64, 256)
_OUTSTANDING_SMALL = 4_000
_RETRYING = {"RETRY_BASE_DELAY": "1s", "CIRCUIT_BREAKER_FAILURE_RATIO": "1"}


def measure(options: argparse.Namespace) -> Row:
    size = options.large or _LARGEST
    row = Row("payloads", f"payloads of {size} bytes, {_BESIDE} small webhooks a second beside")
    for name, (clients, batch, fail) in _KINDS.items():
        with Stand(options) as stand:
            row.settings = settings(stand, large_bytes=size)
            found = row.details[name] = one_kind(row, stand, size, clients, batch, fail)
        row.add(f"{name}: delivered", found["mb_per_second"], "MB/s")
        row.add(f"{name}: small ones' answer p99", found["small_answer_p99_ms"], "ms")
        row.add(f"{name}: most resident memory", found["peak_mb"], "MB")
    if not options.only:
        for each, clients in product((*_SIZES, size), _CLIENTS):
            with Stand(options) as stand:
                row.details[f"{each} bytes, {clients} clients"] = one_kind(row, stand, each, clients, 1, 0.0)
    return row


def one_kind(row: Row, stand: Stand, size: int, clients: int, batch: int, fail: float) -> dict[str, Any]:
    options = stand.options
    large, small = stand.sink("--fail", str(fail)), stand.sink()
    howk = stand.howk(**_RETRYING).ready()
    seconds = options.seconds or 10.0
    loads = [
        stand.load(
            howk.port,
            large.url,
            endpoints=options.endpoints,
            sink=large.port,
            size=size,
            connections=clients,
            batch=batch,
            outstanding=_OUTSTANDING if size > max(_SIZES) else _OUTSTANDING_SMALL,
            warm=options.warm,
            seconds=seconds,
            settle=60,
        ),
        stand.load(
            howk.port, small.url, sink=small.port, connections=32, rate=_BESIDE, warm=options.warm, seconds=seconds
        ),
    ]
    for load in loads:
        load.begin()
    first, before, began = large.counts()["distinct"], spent(howk.pid), time.monotonic()
    for load in loads:
        load.end()
    came, took = large.counts()["distinct"] - first, time.monotonic() - began
    used = spent(howk.pid).since(before)
    results = [load.result() for load in loads]
    for result in results:
        received = result["received"]
        if received["lost"] or received["unknown"] or result["dropped_connections"] or result["other_statuses"]:
            row.problems.append(f"lost {received['lost']}, refused {result['other_statuses']}")
    found = {
        "mb_per_second": round(came * size / (1 << 20) / took, 1),
        "delivered_per_second": round(came / took),
        "accepted_per_second": results[0]["per_second"],
        "answer_p99_ms": results[0]["wait_ms"]["p99"],
        "cpu_ms_each": round(used.total / max(1, came) * 1e3, 2),
        "small_answer_p99_ms": results[1]["wait_ms"]["p99"],
        "small_receiver_p99_ms": results[1]["received"]["accept_to_receiver_ms"]["p99"],
        "failed": large.counts()["failed"],
        "peak_mb": round(peak(howk.pid)),
    }
    howk.kill()
    return found
