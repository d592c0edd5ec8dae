"""The reference of all commands, as Markdown made from the click tree; a test holds the file in docs to it. Run as a
module, it writes the text to standard output."""

import sys
from collections.abc import Iterator
from inspect import cleandoc

import click

from howk.cli.main import cli

_AS_IT_IS = "\b\n"
_PREAMBLE = """
# Commands

Every command takes `--help`, and `--json` where it has something to print: there or before its name. Exit codes: 0,
1 for a failure, 2 for misuse; what is wrong goes to standard error, with what to do.

This page is made by `python -m howk.cli.reference`.
"""


def reference() -> str:
    """The whole page, ending in a newline."""
    root = click.Context(cli, info_name="howk")
    return "\n\n".join([_PREAMBLE.strip(), *_pages(cli, root)]) + "\n"


def _pages(command: click.Command, context: click.Context) -> Iterator[str]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                below = click.Context(found, info_name=name, parent=context)
                yield f"{'#' * (_depth(below) + 1)} `{below.command_path}`"
                yield from _page(found, below)
                yield from _pages(found, below)


def _depth(context: click.Context) -> int:
    return 0 if context.parent is None else _depth(context.parent) + 1


def _page(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(part for part in command.collect_usage_pieces(context) if part != "[OPTIONS]")
    if not isinstance(command, click.Group):
        yield f"```\n{f'{context.command_path} {usage}'.strip()}\n```"
    for paragraph in cleandoc(command.help or "").split("\n\n"):
        # What stands behind \b is set as it is.
        yield f"```\n{paragraph.removeprefix(_AS_IT_IS)}\n```" if paragraph.startswith(_AS_IT_IS) else paragraph
    rows = [_row(option) for option in command.params if isinstance(option, click.Option) and option.name != "help"]
    if rows:
        yield "\n".join(["| Option | Default | |", "|---|---|---|", *rows])


def _row(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}"
    names = ", ".join(option.opts)
    default = "" if option.is_flag or not option.show_default else f"`{option.default}`"
    variable = f" (`{option.envvar}`)" if option.show_envvar and option.envvar else ""
    cells = [f"`{names}{value}`", default, f"{option.help or ''}{variable}"]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "|".join(map(str, option.type.choices))
    return option.type.name.upper().replace(" RANGE", "")


if __name__ == "__main__":
    sys.stdout.write(reference())
