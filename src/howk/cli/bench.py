"""`howk bench`: what this machine takes in and delivers, counted at a receiver that the command starts itself, through
a howk that it starts in a directory of its own, or through one that runs.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import click
from msgspec import DecodeError, json

from howk.cli.client import Client, Failure, connect
from howk.cli.options import json_option
from howk.cli.output import plain, show

_OPENED_WITHIN = 30.0
_STOPS_WITHIN = 15.0
_PAUSE = 0.05
_CALM = 0.1
_MOST_CALM = 1_000
_LONGEST_CALM = 5.0


@click.command()
@click.option("--count", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="Webhooks to send.")
@click.option("--connections", type=click.IntRange(1, 1_000), default=64, show_default=True, help="Clients at once.")
@click.option("--size", type=click.IntRange(25, 1 << 20), default=512, show_default=True, help="Bytes of a payload.")
@click.option("--url", default="", help="A howk that runs. [default: one is started for the benchmark]")
@click.option("--api-key", default="", metavar="KEY", help="API key for --url; @FILE reads it from a file.")
@click.option(
    "--receiver-host", default="127.0.0.1", show_default=True, help="Own address at which howk reaches the receiver."
)
@click.option("--dir", "folder", metavar="PATH", help="Where the started howk keeps its data for a while.")
@click.option(
    "--patience",
    type=click.FloatRange(1),
    default=30.0,
    show_default=True,
    help="Seconds without an arrival after which the rest is lost.",
)
@json_option
def bench(
    *,
    count: int,
    connections: int,
    size: int,
    url: str,
    api_key: str,
    receiver_host: str,
    folder: str | None,
    patience: float,
    as_json: bool,
) -> None:
    """Measure how many webhooks a second this machine accepts and delivers.

    The load and the receiver run on the same machine and take their share of it. After the webhooks of --count, some
    more go at a tenth of that rate: theirs is the latency. The exit code is 1 when any was lost or refused.
    """
    with _server(url, api_key, folder) as (client, about):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            figures = runner.run(_measure(client, receiver_host, count, connections, size, patience))
    show(figures | about, as_json=as_json)
    _judge(figures)


async def _measure(
    client: Client, host: str, count: int, connections: int, size: int, patience: float
) -> dict[str, object]:
    from howk.testing.load import Load, Sink, arrived, figures, webhook

    try:
        async with Sink(host) as sink:
            body = webhook(sink.url, size)
            fast = Load(client.url, body, client.headers, count)
            with _bar("Accepting", count) as progress:
                await fast.run(connections, progress)
            with _bar("Delivering", len(fast.sent)) as progress:
                await arrived(sink, fast.sent, patience, progress)
            busy = figures(fast.sent, fast.last_answer, sink.arrivals)
            rate = max(1.0, busy.delivered_per_second * _CALM)
            number = round(min(_MOST_CALM, rate * _LONGEST_CALM)) if busy.accepted and not busy.lost else 0
            slow = Load(client.url, body, client.headers, number, rate)
            if number:
                with _bar("Latency", number) as progress:
                    await slow.run(min(connections, number), progress)
                    await arrived(sink, slow.sent, patience, lambda _: None)
            calm = figures(slow.sent, slow.last_answer, sink.arrivals)
            # Judged again, since a repeat may have come meanwhile.
            busy = figures(fast.sent, fast.last_answer, sink.arrivals)
    except OSError as error:
        raise Failure(
            f"cannot connect or listen: {error.strerror or error}; look at --url and --receiver-host"
        ) from error
    refused = [f"{status}: {detail}" for status, detail in (*fast.refused, *slow.refused)]
    examples = {"first_refusal": refused[:1], "first_lost": [*busy.lost, *calm.lost][:1]}
    found: dict[str, object] = {
        "accepted_per_second": round(busy.accepted_per_second),
        "delivered_per_second": round(busy.delivered_per_second),
        "latency_p50_ms": round(calm.p50, 2),
        "latency_p99_ms": round(calm.p99, 2),
        "latency_at_per_second": round(rate) if number else 0,
        "accepted": busy.accepted + calm.accepted,
        "refused": fast.refusals + slow.refusals,
        "lost": len(busy.lost) + len(calm.lost),
        "repeated": busy.repeated + calm.repeated,
        "connections": connections,
        "payload_bytes": size,
        "url": client.url,
    }
    return found | {name: some[0] for name, some in examples.items() if some}


def _judge(figures: dict[str, object]) -> None:
    if figures["refused"]:
        raise Failure(f"{figures['refused']} were refused, the first with {plain(figures['first_refusal'])}")
    if figures["lost"]:
        raise Failure(
            f"{figures['lost']} did not arrive; look at `howk delivery status {plain(figures['first_lost'])}`, or give "
            "them more time with --patience"
        )


@contextmanager
def _bar(label: str, length: int) -> Generator[Callable[[int], None]]:
    with click.progressbar(length=max(1, length), label=label.ljust(10), file=sys.stderr) as bar:
        yield lambda reached: bar.update(reached - bar.pos)


@contextmanager
def _server(url: str, api_key: str, folder: str | None) -> Generator[tuple[Client, dict[str, object]]]:
    """A howk to measure, and what there is to know of it."""
    if url:
        client = connect(url, api_key)
        client.get("/ready")
        yield client, {}
        return
    from howk.runtime.probes import look_at

    try:
        place = tempfile.TemporaryDirectory(prefix="howk-bench-", dir=folder)
    except OSError as error:
        raise Failure(f"cannot make a directory in {plain(folder)}: {error.strerror}; choose one with --dir") from error
    with place as name:
        kind = look_at(Path(name)).file_system
        about: dict[str, object] = {"file_system": kind or "not known", "cores": os.cpu_count()}
        if kind in ("tmpfs", "ramfs"):
            about["note"] = "the data was kept in memory, where fsync costs nothing: name a disk with --dir"
        with _started(name) as started:
            yield Client(started), about


@contextmanager
def _started(folder: str) -> Generator[str]:
    """`howk up` with its defaults; where it listens."""
    # Neither the environment's nor a file's settings are part of a measurement.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HOWK_")}
    command = [
        sys.executable,
        "-m",
        "howk",
        "up",
        "--port",
        "0",
        "--data-dir",
        f"{folder}/data",
        "--log-format",
        "json",
    ]
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        env=environ | {"HOWK_CONFIG": os.devnull},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            yield _ready(process)
        finally:
            process.terminate()
            try:
                process.wait(_STOPS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready(process: "subprocess.Popen[bytes]") -> str:
    """Where it listens, once it is ready."""
    lines: list[dict[str, Any]] = []
    if process.stderr is not None:
        # Read to its end: a log that nobody reads would stop its writer.
        threading.Thread(target=_read, args=(process.stderr, lines), daemon=True).start()
    deadline = time.monotonic() + _OPENED_WITHIN
    while time.monotonic() < deadline and process.poll() is None:
        url = next((str(line["message"]).split()[-1] for line in lines if line.get("event") == "started"), "")
        if url and _is_ready(Client(url)):
            return url
        time.sleep(_PAUSE)
    said = plain(lines[-1].get("message", "")) if lines else "nothing"
    raise Failure(f"the howk that was started for the benchmark is not ready; it said: {said}. Try `howk doctor`")


def _is_ready(client: Client) -> bool:
    try:
        client.get("/ready")
    except Failure as error:
        if error.status == 503:
            return False
        raise
    return True


def _read(stream: IO[bytes], lines: list[dict[str, Any]]) -> None:
    for line in stream:
        try:
            lines.append(json.decode(line, type=dict[str, Any]))
        except DecodeError:
            lines.append({"message": line.decode("utf-8", "replace").strip()})
        del lines[:-100]
