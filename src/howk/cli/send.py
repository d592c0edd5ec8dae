"""`howk send`: one webhook to one receiver. A JSON payload is checked and then passed on byte for byte, spliced
into the request as it was written; any other content goes as base64.
"""

import json
import sys
import time
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import click

from howk.cli.client import Client, Failure, connect
from howk.cli.delivery import status_path
from howk.cli.options import Misuse, json_option, server_options
from howk.cli.output import plain, show
from howk.domain.delivery import ENDED
from howk.domain.records import JSON_TYPE
from howk.domain.signing import PROFILES

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0


@click.command()
@click.argument("endpoint", metavar="URL")
@click.argument("payload", metavar="JSON", required=False)
@click.option("--config-id", default="default", show_default=True, help="Config the webhook belongs to.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Header for the receiver.")
@click.option("--secret", "secrets", multiple=True, help="Secret that signs the webhook; may be repeated.")
@click.option("--signing-profile", type=click.Choice(PROFILES), help="Which signature headers are sent.")
@click.option("--ed25519-key", default="", metavar="WHSK", help="Private key that signs the webhook as v1a.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="Attempts in all, the first included.")
@click.option("--ordering-key", metavar="KEY", help="Goes after those with this key to the same URL.")
@click.option("--deliver-at", metavar="TIME", help="When the first attempt is made, such as 2030-01-31T09:00:00Z.")
@click.option("--file", "path", metavar="PATH", help="Read the payload from a file, or - for standard input.")
@click.option("--content-type", default=JSON_TYPE, show_default=True, help="Content type of the payload.")
@click.option("--wait", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait until the webhook ended.")
@server_options
@json_option
def send(
    endpoint: str,
    payload: str | None,
    *,
    config_id: str,
    headers: Sequence[str],
    secrets: Sequence[str],
    signing_profile: str | None,
    ed25519_key: str,
    max_attempts: int | None,
    ordering_key: str | None,
    deliver_at: str | None,
    path: str | None,
    content_type: str,
    wait: float | None,
    url: str,
    api_key: str,
    as_json: bool,
) -> None:
    """Send the payload JSON to the receiver at URL.

    With --wait the exit code is 0 once the webhook is delivered, and 1 when it is dead, cancelled or not yet
    there.
    """
    fields: dict[str, object] = {"endpoint": endpoint}
    if headers:
        fields["headers"] = _headers(headers)
    fields |= _signing(secrets, signing_profile, ed25519_key)
    asked = {"max_attempts": max_attempts, "ordering_key": ordering_key, "deliver_at": deliver_at}
    fields |= {name: value for name, value in asked.items() if value is not None}
    body = _envelope(fields, _content(payload, path), content_type)
    client = connect(url, api_key)
    accepted = client.post(f"/webhooks/{quote(config_id, safe=':')}/enqueue", body)
    if wait is None:
        show(accepted, as_json=as_json)
        return
    webhook_id = str(accepted.get("webhook_id", ""))
    status = _ended(client, webhook_id, wait)
    show(status or accepted, as_json=as_json)
    state = plain((status or accepted).get("state", "pending"))
    if state not in ENDED:
        raise Failure(f"{plain(webhook_id)} is still {state} after {wait:g} s; howk goes on with it")
    if state != "delivered":
        raise SystemExit(1)


def _signing(secrets: Sequence[str], profile: str | None, ed25519_key: str) -> dict[str, object]:
    given = [secret for secret in secrets if secret]
    if profile is None and not ed25519_key and len(given) < 2:
        return {"signing_secret": given[0]} if given else {}
    asked = {"profile": profile, "secrets": given, "ed25519_key": ed25519_key}
    return {"signing": {name: value for name, value in asked.items() if value}}


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon or not name.strip():
            raise Misuse(f"--header must be like 'X-Name: value', not {plain(each)}")
        if name.strip().lower() in map(str.lower, headers):
            raise Misuse(f"--header {plain(name.strip())} is given twice")
        headers[name.strip()] = value.strip()
    return headers


def _content(payload: str | None, path: str | None) -> bytes:
    if (payload is None) == (path is None):
        raise Misuse("give the payload either as JSON after the URL or with --file")
    try:
        if payload is not None:
            return payload.encode("utf-8", "surrogateescape")
        return sys.stdin.buffer.read() if path == "-" else Path(str(path)).read_bytes()
    except OSError as error:
        raise Misuse(f"--file: cannot read {plain(path)}: {error.strerror}") from error


def _envelope(fields: dict[str, object], content: bytes, content_type: str) -> bytes:
    if content_type.strip().lower() != JSON_TYPE:
        return json.dumps(
            fields | {"payload_base64": b64encode(content).decode(), "content_type": content_type}
        ).encode()
    _check_json(content)
    return json.dumps(fields).encode()[:-1] + b', "payload": ' + content + b"}"


def _check_json(content: bytes) -> None:
    try:
        json.loads(content.decode("utf-8"), parse_int=str, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Misuse(f"the payload is not JSON at {where}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise Misuse(f"the payload is not UTF-8 at byte {error.start}; JSON must be") from error
    except RecursionError as error:
        raise Misuse("the payload is nested too deep") from error
    except ValueError as error:
        raise Misuse(f"the payload is not JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _ended(client: Client, webhook_id: str, seconds: float) -> dict[str, object] | None:
    """The status once it is an end, or the last one seen in time; a status may come a moment after the id."""
    deadline = time.monotonic() + seconds
    pause = _FIRST_PAUSE
    while True:
        status = None
        try:
            status = client.get(status_path(webhook_id))
        except Failure as error:
            if error.status != 404:
                raise
        left = deadline - time.monotonic()
        if left <= 0 or (status is not None and status.get("state") in ENDED):
            return status
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)
