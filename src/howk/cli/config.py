"""`howk config`: write a configuration file to begin with, show the settings as howk takes them, and check them. Values
of secrets are never shown.
"""

import os
from pathlib import Path

import click
from msgspec import json

from howk.cli.client import Failure
from howk.cli.options import json_option
from howk.cli.output import plain, show, show_all
from howk.cli.starting import settings_from

_USUAL = "config.yaml"


@click.group()
def config() -> None:
    """Write, show and check the settings."""


@config.command()
@click.argument("path", metavar="[PATH]", default=_USUAL)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@json_option
def init(path: str, *, force: bool, as_json: bool) -> None:
    """Write a configuration file to PATH that shows every key with its default.

    Without PATH it is ./config.yaml, where howk finds it by itself.
    """
    from howk.runtime.settings_example import example_yaml

    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        # Secrets may be written into it.
        handle = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise Failure(f"{plain(path)} is there already: choose another path, or overwrite it with --force") from error
    except OSError as error:
        raise Failure(f"cannot write {plain(path)}: {error.strerror}; choose another path") from error
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(example_yaml())
    show({"written": str(Path(path).absolute()), "next": f"edit it, then howk config check {path}"}, as_json=as_json)


@config.command()
@click.option("--config", "path", metavar="PATH", help="Configuration file.")
@click.option("--changed", is_flag=True, help="Only what is not the default.")
@json_option
def view(*, path: str | None, changed: bool, as_json: bool) -> None:
    """Show every setting, its value, and where that came from."""
    loaded = settings_from({"config": path})
    from howk.runtime.loading import redacted

    rows = [row for row in redacted(loaded) if not changed or row.origin != "default"]
    records = [{"key": row.key, "value": row.value, "origin": row.origin} for row in rows]
    if as_json:
        click.echo(json.format(json.encode(records), indent=2))
    elif records:
        show_all(records)
    else:
        click.echo("everything is as it is by default", err=True)


@config.command()
@click.argument("path", metavar="[PATH]", required=False)
@json_option
def check(path: str | None, *, as_json: bool) -> None:
    """Say whether howk would start with these settings.

    PATH is a configuration file to check in place of the usual ones. The exit code is 2 when anything is wrong, and
    everything that is wrong is named.
    """
    problems, without_effect = _problems(path)
    if as_json:
        document = {"ok": not problems, "problems": problems, "without_effect": without_effect}
        click.echo(json.format(json.encode(document), indent=2))
    else:
        for problem in problems:
            where = f"{plain(problem['key'])} ({plain(problem['origin'])}) " if problem["key"] else ""
            click.echo(where + plain(problem["message"]))
        for key in without_effect:
            click.echo(f"{plain(key)} is set, but this version does not act on it yet")
        if not problems:
            click.echo("the settings are right")
    raise SystemExit(2 if problems else 0)


def _problems(path: str | None) -> tuple[list[dict[str, str]], list[str]]:
    """What stops the start, and which keys are set in vain."""
    from howk.runtime.loading import SettingsError, load_from_process
    from howk.runtime.probes import start_problems

    try:
        loaded = load_from_process({"config": path} if path else {})
    except SettingsError as error:
        return [{"key": each.key, "origin": each.origin, "message": each.message} for each in error.problems], []
    words = start_problems(loaded)
    return [{"key": "", "origin": "", "message": sentence} for sentence in words], loaded.inert
