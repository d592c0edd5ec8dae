"""`howk run` and the single roles: a part of howk in a process of its own. With the embedded engine one process at a
time holds the data directory, so a role says what does not happen while it runs.
"""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from howk.cli.options import Misuse, json_option
from howk.cli.output import show
from howk.cli.starting import place_options, settings_from

if TYPE_CHECKING:
    from howk.runtime.roles import Role

_SERVING = ("api", "worker", "scheduler")
_PERCENT = 100

_host = click.option("--host", help="Address to listen on (api.host).")
_port = click.option("--port", help="Port to listen on, 0 for any free one (api.port).")
_metrics = click.option("--metrics-port", help="Port of health and metrics, 0 for any free one (metrics.port).")


@click.command()
@click.argument("roles", metavar="ROLE...", nargs=-1, required=True, type=click.Choice([*_SERVING, "reconciler"]))
@_host
@_port
@_metrics
@place_options
@json_option
def run(roles: Sequence["Role"], *, as_json: bool, **given: str | None) -> None:
    """Run some of the roles api, worker and scheduler in one process, or reconciler alone.

    All three are what `howk up` runs.
    """
    if "reconciler" in roles:
        if len(set(roles)) > 1:
            raise Misuse("every role makes hot state whole at its start: run reconciler alone, or leave it out")
        _rebuild(given, from_beginning=False, as_json=as_json)
    _serve(roles, given)


@click.command()
@_host
@_port
@place_options
def api(**given: str | None) -> None:
    """Take webhooks in, and send none."""
    _serve(("api",), given)


@click.command()
@_host
@_metrics
@place_options
def worker(**given: str | None) -> None:
    """Send what was taken in, and settle what comes of it."""
    _serve(("worker",), given)


@click.command()
@_host
@_metrics
@place_options
def scheduler(**given: str | None) -> None:
    """Put the retries that are due back into the queue."""
    _serve(("scheduler",), given)


@click.command()
@click.option("--from-beginning", is_flag=True, help="Forget hot state first, even where it can be trusted.")
@_host
@_metrics
@place_options
@json_option
def reconciler(*, from_beginning: bool, as_json: bool, **given: str | None) -> None:
    """Make hot state what the log says, and end.

    Every role does so at its start where it has to; this command does it without serving, or anew.
    """
    _rebuild(given, from_beginning=from_beginning, as_json=as_json)


def _serve(roles: Sequence["Role"], given: dict[str, str | None]) -> None:
    loaded = settings_from(_flags(given))
    from howk.runtime.service import run as run_service

    raise SystemExit(run_service(loaded, roles=frozenset(roles)))


def _rebuild(given: dict[str, str | None], *, from_beginning: bool, as_json: bool) -> None:
    loaded = settings_from(_flags(given))
    from howk.runtime.roles import Rebuilding
    from howk.runtime.service import run as run_service

    began = time.monotonic()
    found: dict[str, object] = {}
    with click.progressbar(length=_PERCENT, label="Rebuilding hot state", file=sys.stderr) as bar:

        def progress(ratio: float) -> None:
            bar.update(round(ratio * _PERCENT) - bar.pos)

        def whole(waiting: int, ended: int) -> None:
            found.update(waiting_for_a_retry=waiting, ended=ended)

        code = run_service(
            loaded, roles=frozenset(("reconciler",)), rebuilding=Rebuilding(from_beginning, progress, whole)
        )
    if found:
        show({"hot_state": "whole", **found, "seconds": round(time.monotonic() - began, 3)}, as_json=as_json)
    raise SystemExit(code)


def _flags(given: dict[str, str | None]) -> dict[str, str | None]:
    keys = {"host": "api.host", "port": "api.port", "metrics_port": "metrics.port", "log_format": "logging.format"}
    return {keys.get(name, name): value for name, value in given.items()}
