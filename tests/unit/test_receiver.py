"""The shipped receiver: what it answers, checks, remembers and withholds."""

import asyncio
import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from tests.heads import attempt

from howk.domain.ed25519 import public_text
from howk.domain.signing import signed_head
from howk.testing.receiver import Received, Receiver

SECRET = "whsec_" + base64.b64encode(b"the key of the receiver").decode()
NOW = 1_700_000_000
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def exchange(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with DIRECT.open(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def ask(
    url: str, body: bytes | None = b"{}", headers: Mapping[str, str] | None = None, method: str = "POST"
) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)
    return await asyncio.to_thread(exchange, request)


def signed(body: bytes, *, keys: tuple[bytes, ...] = (b"the key of the receiver",)) -> dict[str, str]:
    lines = signed_head(
        webhook_id="wh_1",
        attempt=1,
        timestamp=NOW,
        body=body,
        keys=keys,
        user_agent="howk/1",
        content_type="application/json",
        headers={},
    )
    pairs = [line.partition(": ") for line in lines.decode().splitlines()]
    return {name: value for name, _, value in pairs}


async def test_any_path_is_taken_and_answered_200() -> None:
    async with Receiver() as receiver:
        assert [(await ask(receiver.url + path))[0] for path in ("/", "/a/b?c=d")] == [200, 200]


async def test_what_came_is_captured_as_it_came() -> None:
    async with Receiver(now=lambda: NOW + 0.5) as receiver:
        headers = {"X-B": "1", "X-A": "2", "webhook-id": "wh_1", "X-Webhook-Attempt": "4"}
        await ask(receiver.url + "/hook/%C3%BC?q=1&q=2", b"\x00\xff bytes", headers)
        [received] = receiver.captured
    assert received.id == "wh_1"
    assert received.attempt == 4
    assert received.at == NOW * 1000 + 500
    assert received.target == "/hook/%C3%BC?q=1&q=2"
    assert received.body == b"\x00\xff bytes"
    assert received.status == 200
    assert received.verdict == "unchecked"
    assert received.header("X-A") == "2"
    names = [name for name, _ in received.headers]
    assert names.index(b"x-b") < names.index(b"x-a")


@pytest.mark.parametrize("status", [201, 204, 302, 404, 410, 429, 503])
async def test_a_fixed_status_is_answered_with_its_headers(status: int) -> None:
    async with Receiver(status=status, answer_headers={"Retry-After": "7"}) as receiver:
        assert (await ask(receiver.url))[0] == status


async def test_the_first_attempts_of_each_webhook_fail() -> None:
    async with Receiver(fail_first_n=2) as receiver:
        first = [(await ask(receiver.url, headers={"webhook-id": "wh_1"}))[0] for _ in range(4)]
        second = [(await ask(receiver.url, headers={"X-Webhook-ID": "wh_2"}))[0] for _ in range(3)]
    assert first == [500, 500, 200, 200]
    assert second == [500, 500, 200]


async def test_a_good_signature_is_accepted_and_noted() -> None:
    async with Receiver(secrets=["another", SECRET], now=lambda: NOW) as receiver:
        assert (await ask(receiver.url, b"{}", signed(b"{}")))[0] == 200
        assert receiver.captured[0].verdict == "good"


@pytest.mark.parametrize("name", ["webhook-signature", "X-Webhook-Signature"])
async def test_one_bad_signature_of_the_two_is_answered_401_and_says_so(name: str) -> None:
    async with Receiver(secrets=[SECRET], now=lambda: NOW) as receiver:
        headers = signed(b"{}") | {name: signed(b"{ }")[name]}
        status, answer = await ask(receiver.url, b"{}", headers)
        assert (status, json.loads(answer)["detail"]) == (
            401,
            "bad signature: no signature is that of this secret over these bytes",
        )
        assert receiver.captured[0].status == 401


async def test_one_scheme_alone_is_enough() -> None:
    async with Receiver(secrets=[SECRET], now=lambda: NOW) as receiver:
        headers = signed(b"{}")
        del headers["X-Webhook-Signature"]
        assert (await ask(receiver.url, b"{}", headers))[0] == 200


async def test_an_unsigned_request_is_refused_where_a_secret_is_set() -> None:
    async with Receiver(secrets=[SECRET]) as receiver:
        status, answer = await ask(receiver.url)
        assert (status, json.loads(answer)["detail"]) == (401, "bad signature: there is none")


@pytest.mark.parametrize("secret", ["whsec_?", "whpk_?", "whsk_AAAA"])
def test_a_broken_secret_is_refused_at_once(secret: str) -> None:
    with pytest.raises(ValueError, match=r"base64|whpk_"):
        Receiver(secrets=[secret])


PRIVATE = "whsk_" + base64.b64encode(bytes(range(32))).decode()
PUBLIC = public_text(PRIVATE)
OTHER = public_text("whsk_" + base64.b64encode(bytes(32)).decode())


@pytest.mark.parametrize(
    ("secrets", "attempt_of", "status"),
    [
        ([PUBLIC], {"secrets": (SECRET,), "ed25519_key": PRIVATE}, 200),
        ([OTHER, PUBLIC], {"profile": "standard", "ed25519_key": PRIVATE}, 200),
        ([PUBLIC, SECRET], {"secrets": (SECRET,), "ed25519_key": PRIVATE}, 200),
        ([SECRET], {"secrets": (SECRET,), "ed25519_key": PRIVATE}, 200),
        ([OTHER], {"secrets": (SECRET,), "ed25519_key": PRIVATE}, 401),
        ([PUBLIC], {"secrets": (SECRET,)}, 401),
        ([PUBLIC], {"profile": "howk", "secrets": (SECRET,)}, 401),
        ([PUBLIC, "another"], {"secrets": (SECRET,), "ed25519_key": PRIVATE}, 401),
        ([SECRET], {"profile": "howk", "secrets": ("another", SECRET)}, 200),
        ([SECRET], {"profile": "harborhook", "secrets": (SECRET,)}, 200),
        (["another"], {"profile": "harborhook", "secrets": (SECRET,)}, 401),
    ],
)
async def test_each_kind_of_secret_checks_the_signatures_it_can(
    secrets: list[str], attempt_of: dict[str, Any], status: int
) -> None:
    async with Receiver(secrets=secrets, now=lambda: NOW) as receiver:
        headers = attempt(b"{}", timestamp=NOW, **attempt_of)
        assert (await ask(receiver.url, b"{}", headers))[0] == status
        assert (await ask(receiver.url, b"{ }", headers))[0] == 401


async def test_counts_are_answered_to_a_get() -> None:
    async with Receiver(fail_first_n=1) as receiver:
        for _ in range(3):
            await ask(receiver.url, headers={"webhook-id": "wh_1"})
        status, answer = await ask(receiver.url, None, method="GET")
    assert status == 200
    assert json.loads(answer) == {"received": 3, "webhooks": 1, "answered": {"200": 2, "500": 1}}


async def test_another_method_is_not_allowed() -> None:
    async with Receiver() as receiver:
        assert (await ask(receiver.url, method="DELETE"))[0] == 405


async def test_only_the_last_requests_are_kept_and_all_are_counted() -> None:
    async with Receiver(keep=2) as receiver:
        for number in range(3):
            await ask(receiver.url, b"%d" % number)
        assert [received.body for received in await receiver.wait_for(3)] == [b"1", b"2"]


async def test_waiting_ends_when_the_predicate_holds() -> None:
    async with Receiver() as receiver:
        async with asyncio.TaskGroup() as group:
            found = group.create_task(
                receiver.wait_for(lambda seen: any(each.body == b"2" for each in seen), timeout=5)
            )
            await ask(receiver.url, b"1")
            await ask(receiver.url, b"2")
        assert [received.body for received in found.result()] == [b"1", b"2"]


async def test_waiting_in_vain_says_what_came() -> None:
    async with Receiver(status=503) as receiver:
        await ask(receiver.url)
        with pytest.raises(TimeoutError, match=r"2 webhooks did not come in 0.01 s; 1 came \(503: 1\)"):
            await receiver.wait_for(2, timeout=0.01)


async def test_a_hanging_receiver_answers_nothing_until_it_is_closed() -> None:
    async with Receiver(hang=True) as receiver:
        reader, writer = await asyncio.open_connection(receiver.host, receiver.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        [received] = await receiver.wait_for(1)
        assert received.status == 0
        async with asyncio.timeout(5):
            await receiver.close()
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


async def test_a_delay_is_cut_short_when_the_client_goes() -> None:
    async with asyncio.timeout(5), Receiver(delay_ms=3_600_000) as receiver:
        _, writer = await asyncio.open_connection(receiver.host, receiver.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
        await receiver.wait_for(1)
        writer.close()


async def test_a_delayed_answer_comes() -> None:
    async with Receiver(delay_ms=1) as receiver:
        assert (await ask(receiver.url))[0] == 200


async def test_it_comes_back_on_its_own_port_and_may_have_changed_its_mind() -> None:
    receiver = Receiver()
    async with receiver:
        url = receiver.url
        assert (await ask(url))[0] == 200
    receiver.status = 503
    async with receiver:
        assert receiver.url == url
        assert (await ask(url))[0] == 503


async def test_an_address_that_is_taken_is_an_os_error() -> None:
    async with Receiver() as receiver:
        with pytest.raises(OSError, match="in use"):
            await Receiver(port=receiver.port).start()


async def test_each_request_is_handed_to_the_callback() -> None:
    handed: list[Received] = []
    async with Receiver(on_received=handed.append) as receiver:
        await ask(receiver.url)
        assert handed == list(receiver.captured)


async def test_an_ipv6_address_is_bracketed_in_the_url() -> None:
    assert Receiver(host="::1", port=1).url == "http://[::1]:1"
