"""`howk delivery`: what became of a delivery, and its end before its time."""

from collections.abc import Generator
from contextlib import contextmanager
from urllib.parse import quote

import click

from howk.cli.client import Failure, connect
from howk.cli.options import json_option, server_options
from howk.cli.output import plain, show


@click.group()
def delivery() -> None:
    """Look at deliveries, and end them."""


@delivery.command()
@click.argument("webhook_id", metavar="ID")
@server_options
@json_option
def status(webhook_id: str, *, url: str, api_key: str, as_json: bool) -> None:
    """Show where the delivery ID stands."""
    client = connect(url, api_key)
    with _known(webhook_id):
        show(client.get(status_path(webhook_id)), as_json=as_json)


@delivery.command()
@click.argument("webhook_id", metavar="ID")
@server_options
@json_option
def cancel(webhook_id: str, *, url: str, api_key: str, as_json: bool) -> None:
    """End the delivery ID: it is not sent any more.

    An attempt that is under way is not cut, and still delivers it if it succeeds; `howk delivery status` says what
    became of it. One that has ended already stays as it is, and the exit code is 1.
    """
    client = connect(url, api_key)
    with _known(webhook_id):
        show(client.post(f"/webhooks/{quote(webhook_id, safe='')}:cancel"), as_json=as_json)


@contextmanager
def _known(webhook_id: str) -> Generator[None]:
    """Says what may be wrong with an id that is not known."""
    try:
        yield
    except Failure as error:
        if error.status != 404:
            raise
        raise Failure(
            f"no delivery {plain(webhook_id)} is known: its id may be mistyped, or it ended longer ago "
            "than statuses are kept (ttl.status_ttl)",
            404,
        ) from error


def status_path(webhook_id: str) -> str:
    """Where the API answers the status of a delivery."""
    return f"/webhooks/{quote(webhook_id, safe='')}/status"
