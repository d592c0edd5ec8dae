"""`howk`, the command line: the list of its commands and the way in. Each command is a module that is loaded
only when it is called, so that the light ones start at once. Exit codes: 0, 1 for a failure, 2 for misuse.
"""

from collections.abc import Sequence
from importlib import import_module

import click

from howk._version import __version__

_COMMANDS = {
    "up": "howk.cli.up:up",
    "run": "howk.cli.roles:run",
    "api": "howk.cli.roles:api",
    "worker": "howk.cli.roles:worker",
    "scheduler": "howk.cli.roles:scheduler",
    "reconciler": "howk.cli.roles:reconciler",
    "ping": "howk.cli.diagnose:ping",
    "health": "howk.cli.diagnose:health",
    "doctor": "howk.cli.diagnose:doctor",
    "send": "howk.cli.send:send",
    "config": "howk.cli.config:config",
    "delivery": "howk.cli.delivery:delivery",
    "endpoint": "howk.cli.endpoint:endpoint",
    "receiver": "howk.cli.receiver:receiver",
    "bench": "howk.cli.bench:bench",
    "completion": "howk.cli.completion:completion",
    "version": "howk.cli.version:version",
}


class _Lazy(click.Group):
    """A group that knows the names of its commands and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, name = _COMMANDS.get(cmd_name, "").partition(":")
        return getattr(import_module(module), name) if module else None


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="howk", message="%(prog)s %(version)s")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; every command also takes it itself.")
@click.pass_context
def cli(context: click.Context, *, as_json: bool) -> None:
    """Deliver webhooks: at least once, and signed."""
    context.obj = as_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    cli.main(args=None if arguments is None else list(arguments), prog_name="howk")
