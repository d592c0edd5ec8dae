"""`howk version`: what runs here."""

import platform

import click

from howk._version import __version__
from howk.cli.options import json_option
from howk.cli.output import show


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Show the version of howk and what it runs on."""
    show(
        {
            "version": __version__,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
        as_json=as_json,
    )
