"""What the commands that run a part of howk share: flags become settings, or a refusal that lists all that is wrong."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from howk.cli.options import Misuse

if TYPE_CHECKING:
    from howk.runtime.loading import Loaded

F = TypeVar("F", bound=Callable[..., Any])


def place_options(command: F) -> F:
    """Where everything is kept and how it is said: `data_dir`, `config`, `log_format`."""
    data = click.option("--data-dir", help="Directory that keeps everything (data_dir).")
    config = click.option("--config", metavar="PATH", help="Configuration file.")
    form = click.option("--log-format", metavar="auto|human|json", help="Form of the log's lines (logging.format).")
    return data(config(form(command)))


def settings_from(given: Mapping[str, str | None]) -> "Loaded":
    """The settings with these flags, by key; None is a flag that was not given. Raises `Misuse`."""
    # Loaded here, so that the list of commands does not load the server.
    from howk.runtime.loading import SettingsError, load_from_process

    try:
        return load_from_process({name: value for name, value in given.items() if value is not None})
    except SettingsError as error:
        raise Misuse(f"{error}\n`howk config check` tells when all is right.") from error
