"""Commands to deliveries and endpoints as a user gives them: what is asked of the API, what is printed, exit codes."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from tests.unit.test_cli import ACCEPTED, Server, howk, rows, send, server  # noqa: F401 - a fixture

CANCELLING = {"webhook_id": "wh_1", "status": "cancelling"}
URL = "https://example.com/in?a=1&b=ü"
SHOWN: dict[str, Any] = {"endpoint_id": "ep_1", "endpoint": "https://example.com/in", "breaker": "open", "paused": True}


def test_a_cancelled_delivery_is_shown_as_such(server: Server) -> None:  # noqa: F811
    server.answer(202, CANCELLING)
    done = howk("delivery", "cancel", "wh_1", "--url", server.url)
    assert (done.exit_code, rows(done.stdout)) == (0, CANCELLING)
    (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/webhooks/wh_1:cancel", b"")


def test_a_cancel_in_json_is_the_answer(server: Server) -> None:  # noqa: F811
    server.answer(202, CANCELLING)
    assert json.loads(howk("--json", "delivery", "cancel", "wh_1", "--url", server.url).stdout) == CANCELLING


@pytest.mark.parametrize(
    ("status", "detail", "said"),
    [
        (404, "no webhook has this id", "no delivery wh_1 is known"),
        (409, "the webhook has ended already: it is delivered", "ended already: it is delivered"),
        (503, "hot state is being rebuilt", "hot state is being rebuilt"),
    ],
)
def test_a_cancel_that_is_refused_is_a_failure_that_says_why(
    server: Server,  # noqa: F811
    status: int,
    detail: str,
    said: str,
) -> None:
    server.answer(status, {"detail": detail})
    done = howk("delivery", "cancel", "wh_1", "--url", server.url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr


@pytest.mark.parametrize("name", ["enable", "pause", "release"])
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_command_to_an_endpoint_is_asked_and_shown(server: Server, name: str, form: str) -> None:  # noqa: F811
    answered = {"endpoint_id": "ep_1", "endpoint": "https://example.com/in", "command": name}
    server.answer(202, answered)
    more = ("--json",) if form == "json" else ()
    done = howk("endpoint", name, "shop:eu", URL, "--url", server.url, "--api-key", "hk_1", *more)
    assert done.exit_code == 0
    assert (json.loads if more else rows)(done.stdout) == answered
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", f"/config/shop:eu/endpoints:{name}")
    assert json.loads(request.body) == {"endpoint": URL}
    assert request.headers["Authorization"] == "Bearer hk_1"


def test_an_endpoint_is_shown_as_it_stands(server: Server) -> None:  # noqa: F811
    server.answer(200, SHOWN)
    done = howk("endpoint", "show", "shop", URL, "--url", server.url)
    assert (done.exit_code, rows(done.stdout)["breaker"]) == (0, "open")
    assert json.loads(howk("endpoint", "show", "shop", URL, "--url", server.url, "--json").stdout) == SHOWN
    assert server.requests[0].path == (
        "/config/shop/endpoints?endpoint=https%3A%2F%2Fexample.com%2Fin%3Fa%3D1%26b%3D%C3%BC"
    )


@pytest.mark.parametrize("name", ["enable", "pause", "release", "show"])
def test_an_endpoint_that_is_refused_is_a_failure_that_names_the_field(server: Server, name: str) -> None:  # noqa: F811
    errors = [{"field": "endpoint", "message": "The URL has no host."}]
    server.answer(422, {"detail": "The URL has no host.", "errors": errors})
    done = howk("endpoint", name, "shop", "\udcff", "--url", server.url)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "endpoint: The URL has no host." in done.stderr


@pytest.mark.parametrize(
    "arguments", [("delivery", "cancel"), ("endpoint", "pause", "shop"), ("endpoint", "show"), ("endpoint", "stop")]
)
def test_what_is_missing_is_misuse(arguments: Sequence[str]) -> None:
    assert howk(*arguments).exit_code == 2


def test_an_order_and_a_time_are_sent_as_they_are_given(server: Server) -> None:  # noqa: F811
    server.answer(202, ACCEPTED)
    done = send(server, "{}", "--ordering-key", "cart 42", "--deliver-at", "2030-01-31T09:00:00Z")
    assert done.exit_code == 0
    asked = json.loads(server.requests[0].body)
    assert (asked["ordering_key"], asked["deliver_at"]) == ("cart 42", "2030-01-31T09:00:00Z")
