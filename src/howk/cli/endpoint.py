"""`howk endpoint`: how an endpoint of a config stands, and what its owner asks of it."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from howk.cli.client import connect
from howk.cli.options import json_option, server_options
from howk.cli.output import show
from howk.domain.settlement import EndpointCommand


@click.group()
def endpoint() -> None:
    """Look at the endpoints of a config, pause them and let them go on.

    An endpoint is the config CONFIG and the receiver's URL; userinfo and query of the URL do not matter.
    """


@endpoint.command("show")
@click.argument("config_id", metavar="CONFIG")
@click.argument("receiver", metavar="URL")
@server_options
@json_option
def show_(config_id: str, receiver: str, *, url: str, api_key: str, as_json: bool) -> None:
    """Show how the endpoint stands: its breaker, and whether it is disabled or paused."""
    asked = f"{_path(config_id)}?endpoint={quote(receiver.encode('utf-8', 'surrogateescape'), safe='')}"
    show(connect(url, api_key).get(asked), as_json=as_json)


def _command(name: EndpointCommand, help_: str) -> click.Command:
    def ask(config_id: str, receiver: str, *, url: str, api_key: str, as_json: bool) -> None:
        body = json.dumps({"endpoint": receiver}).encode()
        show(connect(url, api_key).post(f"{_path(config_id)}:{name}", body), as_json=as_json)

    asked: Callable[..., Any] = server_options(json_option(ask))
    for metavar, argument in (("URL", "receiver"), ("CONFIG", "config_id")):
        asked = click.argument(argument, metavar=metavar)(asked)
    return endpoint.command(name, help=help_)(asked)


def _path(config_id: str) -> str:
    return f"/config/{quote(config_id, safe=':')}/endpoints"


enable = _command("enable", "Let the endpoint work again after a pause, or after a 410 has disabled it.")
pause = _command("pause", "Hold what is for the endpoint until it is enabled.")
release = _command("release", "Close the endpoint's breaker: what it holds goes out, slowly at first.")
