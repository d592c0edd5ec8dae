"""Options that several commands share, so that they have one name and one help text everywhere."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


class Misuse(click.ClickException):
    """What was asked can't be done as it was asked: exit code 2, with a sentence that says what would do."""

    exit_code = 2


def json_option(command: F) -> F:
    """`--json`, here or before the command's name, as `as_json`."""
    return click.option("--json", "as_json", is_flag=True, callback=_or_global, help="Print JSON, for programs.")(
        command
    )


def _or_global(context: click.Context, _: click.Parameter, value: bool) -> bool:
    return value or context.find_root().obj is True


def server_options(command: F) -> F:
    """`--url` and `--api-key`, for `howk.cli.client.connect`."""
    key = click.option(
        "--api-key", default="", metavar="KEY", help="API key; @FILE reads it from a file, out of sight of ps."
    )
    url = click.option("--url", default="", help="Where howk answers. [default: the api settings]")
    return url(key(command))
