"""What commands print: tables for people, one JSON document for programs. Values may come from receivers, so
nothing in them reaches a terminal as a control sequence or as markup.
"""

import sys
from collections.abc import Mapping, Sequence

import click
from msgspec import json
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 100_000


def plain(value: object) -> str:
    """Text that a terminal shows and never obeys; `-` for nothing."""
    if value is None or value == "":
        return "-"
    text = value if isinstance(value, str) else json.encode(value).decode()
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def show(record: Mapping[str, object], *, as_json: bool) -> None:
    """One thing and its fields, in their order."""
    if as_json:
        click.echo(json.format(json.encode(record), indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(Text(name), Text(plain(value)))
    _print(table)


def show_all(records: Sequence[Mapping[str, object]]) -> None:
    """Several things of one shape, for people: a line for each under the names of the fields."""
    if not records:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in records[0]:
        table.add_column(Text(name), overflow="fold")
    for record in records:
        table.add_row(*(Text(plain(value)) for value in record.values()))
    _print(table)


def _print(table: Table) -> None:
    # Not on a terminal there is no width to keep to, and a line is easier to search when it is whole.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE)
    console.print(table)
