"""`howk delivery`: what became of a delivery."""

from urllib.parse import quote

import click

from howk.cli.client import Failure, connect
from howk.cli.options import json_option, server_options
from howk.cli.output import plain, show


@click.group()
def delivery() -> None:
    """Look at deliveries."""


@delivery.command()
@click.argument("webhook_id", metavar="ID")
@server_options
@json_option
def status(webhook_id: str, *, url: str, api_key: str, as_json: bool) -> None:
    """Show where the delivery ID stands."""
    try:
        found = connect(url, api_key).get(status_path(webhook_id))
    except Failure as error:
        if error.status != 404:
            raise
        raise Failure(
            f"no delivery {plain(webhook_id)} is known: its id may be mistyped, or it ended longer ago "
            "than statuses are kept (ttl.status_ttl)",
            404,
        ) from error
    show(found, as_json=as_json)


def status_path(webhook_id: str) -> str:
    """Where the API answers the status of a delivery."""
    return f"/webhooks/{quote(webhook_id, safe='')}/status"
