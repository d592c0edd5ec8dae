"""`howk receiver`: a receiver to try howk against. It prints each webhook as it comes, for people a line of
summary, for programs a line of JSON, and ends with Ctrl-C.
"""

import asyncio
import os
import signal
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import click
from msgspec import json

from howk.cli.client import Failure
from howk.cli.options import Misuse, json_option
from howk.cli.output import plain
from howk.testing.receiver import Received, Receiver, serve


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9000,
    show_default=True,
    help="Port to listen on; 0 takes any free one.",
)
@click.option("--status", type=click.IntRange(200, 599), default=200, show_default=True, help="Status to answer.")
@click.option("--hang", is_flag=True, help="Never answer.")
@click.option(
    "--fail-first-n",
    type=click.IntRange(min=0),
    default=0,
    envvar="FAIL_FIRST_N",
    show_envvar=True,
    help="Answer 500 to the first attempts of each webhook.",
)
@click.option(
    "--delay-ms",
    type=click.IntRange(min=0),
    default=0,
    envvar="RESPONSE_DELAY_MS",
    show_envvar=True,
    help="Wait this long before each answer.",
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    help="Refuse what is not signed with it; a public key (whpk_...) checks Ed25519 signatures. May be repeated. "
    "[env var: ENDPOINT_SECRET]",
)
@json_option
def receiver(
    *,
    host: str,
    port: int,
    status: int,
    hang: bool,
    fail_first_n: int,
    delay_ms: int,
    secrets: Sequence[str],
    as_json: bool,
) -> None:
    """Take webhooks and print them."""
    if not secrets and os.environ.get("ENDPOINT_SECRET"):
        # Not by click's own `envvar`, which would cut a secret at its spaces.
        secrets = [os.environ["ENDPOINT_SECRET"]]
    try:
        endpoint = Receiver(
            host=host,
            port=port,
            status=status,
            hang=hang,
            fail_first_n=fail_first_n,
            delay_ms=delay_ms,
            secrets=secrets,
            keep=0,
            on_received=_printing(json_line if as_json else line),
        )
    except ValueError as error:
        raise Misuse(f"--secret: {error}") from error
    try:
        asyncio.run(serve(endpoint, lambda it: click.echo(_greeting(it.url, as_json=as_json))))
    except OSError as error:
        # What follows repeats the address.
        why = (error.strerror or str(error)).partition(" (while ")[0]
        raise Failure(f"cannot listen on {plain(host)} port {port}: {why}") from error


def _greeting(url: str, *, as_json: bool) -> str:
    if as_json:
        return json.encode({"url": url}).decode()
    return f"howk receiver listens at {url} (Ctrl-C ends it)"


def _printing(form: Callable[[Received], str]) -> Callable[[Received], None]:
    def show(received: Received) -> None:
        try:
            click.echo(form(received))
        except BrokenPipeError:
            # Nobody reads any more: end, and let the interpreter's last flush go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            signal.raise_signal(signal.SIGTERM)

    return show


def line(received: Received) -> str:
    """A webhook in one line, for people."""
    parts = [
        _time(received),
        plain(received.id),
        f"attempt {received.attempt}" if received.attempt else "",
        plain(received.target),
        f"{len(received.body)} B {plain(received.header('content-type'))}",
        f"signature {plain(received.verdict)}",
        f"-> {received.status or 'no answer'}",
    ]
    return "  ".join(part for part in parts if part)


def json_line(received: Received) -> str:
    """A webhook as one JSON document, for programs; a body that is not UTF-8 is base64."""
    try:
        body = {"body": received.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": b64encode(received.body).decode()}
    return json.encode(
        {
            "id": received.id,
            "attempt": received.attempt,
            "at": _time(received),
            "target": received.target,
            "headers": [(name.decode("latin-1"), _text(value)) for name, value in received.headers],
            **body,
            "status": received.status,
            "signature": received.verdict,
        }
    ).decode()


def _time(received: Received) -> str:
    moment = datetime.fromtimestamp(received.at / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
