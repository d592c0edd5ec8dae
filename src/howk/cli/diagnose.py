"""`howk ping`, `howk health` and `howk doctor`: does howk answer, is it ready, and what is wrong with this machine."""

import time

import click
from msgspec import json

from howk.cli.client import Client, Failure, connect
from howk.cli.options import json_option, server_options
from howk.cli.output import plain, show, show_all


@click.command()
@server_options
@json_option
def ping(*, url: str, api_key: str, as_json: bool) -> None:
    """Say whether the API answers, and how fast."""
    client = connect(url, api_key)
    began = time.perf_counter()
    answer = client.get("/health")
    took = time.perf_counter() - began
    show(
        {"url": client.url, "version": answer.get("version"), "latency_ms": round(took * 1000, 2)},
        as_json=as_json,
    )


@click.command()
@server_options
@json_option
def health(*, url: str, api_key: str, as_json: bool) -> None:
    """Say whether howk lives, is ready, and reaches what it depends on.

    The exit code is 1 when it is not ready.
    """
    client = connect(url, api_key)
    answers = [_asked(client, check, path) for check, path in (("alive", "/health"), ("ready", "/ready"))]
    dependencies = _asked(client, "dependencies", "/health/dependencies")
    if dependencies["status"] != 404:
        answers.append(dependencies)
    rows = [{name: value for name, value in answer.items() if name != "status"} for answer in answers]
    ready = all(row["ok"] for row in rows)
    if as_json:
        click.echo(json.format(json.encode({"url": client.url, "ready": ready, "checks": rows}), indent=2))
    else:
        show_all(rows)
    raise SystemExit(0 if ready else 1)


def _asked(client: Client, check: str, path: str) -> dict[str, object]:
    """What a route says: `status` is 200 or why not, 0 is told as a failure of the command."""
    began = time.perf_counter()
    try:
        answer, status = client.get(path), 200
    except Failure as error:
        if not error.status:
            raise
        answer, status = {"detail": error.message.partition("\n")[0]}, error.status
    took = round((time.perf_counter() - began) * 1000, 2)
    said = answer.get("detail") or {name: value for name, value in answer.items() if name != "status"} or "yes"
    return {"check": check, "ok": status == 200, "latency_ms": took, "detail": said, "status": status}


@click.command()
@click.option("--data-dir", help="Directory that keeps everything (data_dir).")
@click.option("--config", metavar="PATH", help="Configuration file.")
@click.option(
    "--resolve",
    "name",
    default="example.com",
    show_default=True,
    help="Host name to resolve, and to ask the forward proxy for.",
)
@json_option
def doctor(*, data_dir: str | None, config: str | None, name: str, as_json: bool) -> None:
    """Say what is wrong with this machine or its settings, and what to do.

    It changes nothing, and may be called while howk runs. The exit code is 1 when a check fails.
    """
    from howk.runtime.probes import checkup

    given = {"data_dir": data_dir, "config": config}
    checks = list(checkup({key: value for key, value in given.items() if value is not None}, name))
    failed = any(check.level == "fail" for check in checks)
    if as_json:
        document = {"ok": not failed, "checks": [check._asdict() for check in checks]}
        click.echo(json.format(json.encode(document), indent=2))
        raise SystemExit(1 if failed else 0)
    show_all([{"check": each.name, "result": each.level, "found": each.found} for each in checks])
    for each in checks:
        if each.advice:
            click.echo(f"{each.level}: {plain(each.name)}: {plain(each.advice)}")
    raise SystemExit(1 if failed else 0)
