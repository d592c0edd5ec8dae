"""The sender through a forward proxy that others wrote."""

import socket
from pathlib import Path

import pytest
from tests.adapters.outbound.support import OK, Stage, resolving, secure, send, send_one
from tests.authority import Authority
from tests.tinyproxy import tinyproxy

from howk.domain.forward_proxy import parse_proxy
from howk.ports.sender import Origin


async def test_both_schemes_go_through_and_keep_their_tunnels(
    stage: Stage, authority: Authority, tmp_path: Path
) -> None:
    plain, sealed = await stage.answering(OK), await stage.answering(OK, tls=authority.server("hooks.example"))
    body = bytes(range(256)) * 1000
    with tinyproxy(tmp_path) as proxy:
        sender = stage.sender(resolving("127.0.0.1"), tls=authority.client(), proxy=parse_proxy(proxy.url))
        calls = [
            plain.call(body, origin=Origin("http", "hooks.example", plain.port)),
            sealed.call(body, origin=secure(sealed)),
        ]
        for _ in range(3):
            answers = await send(sender, calls)
            assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 2
        assert sorted(proxy.asked()) == sorted([f"127.0.0.1:{plain.port}", f"127.0.0.1:{sealed.port}"])
        await sender.close()
    assert plain.connections == sealed.connections == 1
    assert [raw.endswith(b"\r\n\r\n" + body) for raw in plain.requests + sealed.requests] == [True] * 6
    assert not any(b"via" in raw.lower().partition(b"\r\n\r\n")[0] for raw in plain.requests)


@pytest.mark.parametrize(
    ("credentials", "status", "error"),
    [
        ("me:hunter%32@", 200, ""),
        ("me:wrong@", 0, "the proxy refused with HTTP 401: the credentials of delivery.proxy are wrong"),
        ("", 0, "the proxy refused with HTTP 407: delivery.proxy needs credentials"),
    ],
)
async def test_it_lets_in_who_has_the_password(
    stage: Stage, tmp_path: Path, credentials: str, status: int, error: str
) -> None:
    server = await stage.answering(OK)
    with tinyproxy(tmp_path, "BasicAuth me hunter2") as proxy:
        sender = stage.sender(proxy=parse_proxy(f"http://{credentials}127.0.0.1:{proxy.port}"))
        answer = await send_one(sender, server.call())
        await sender.close()
    assert (answer.status, answer.failure) == (status, "connect" if error else "")
    assert answer.error == error


async def test_a_rule_of_the_proxy_is_a_failure_to_connect(stage: Stage, tmp_path: Path) -> None:
    server = await stage.answering(OK)
    with tinyproxy(tmp_path, "ConnectPort 443") as proxy:
        answer = await send_one(stage.sender(proxy=parse_proxy(proxy.url)), server.call())
    assert (answer.status, answer.failure) == (0, "connect")
    assert answer.error == "the proxy refused to connect to the receiver, with HTTP 403"
    assert server.connections == 0


async def test_a_receiver_that_it_does_not_reach_is_a_failure_to_connect(stage: Stage, tmp_path: Path) -> None:
    server = await stage.answering(OK)
    with tinyproxy(tmp_path) as proxy, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        origin = Origin("http", "127.0.0.1", taken.getsockname()[1])
        answer = await send_one(stage.sender(proxy=parse_proxy(proxy.url)), server.call(origin=origin))
    assert (answer.status, answer.failure) == (0, "connect")
    assert answer.error.startswith("the proxy refused to connect to the receiver, with HTTP 50")


async def test_the_next_address_is_asked_for_when_it_does_not_reach_one(stage: Stage, tmp_path: Path) -> None:
    server = await stage.answering(OK)
    with tinyproxy(tmp_path) as proxy:
        sender = stage.sender(resolving("::1", "127.0.0.1"), proxy=parse_proxy(proxy.url))
        answer = await send_one(sender, server.call(origin=Origin("http", "two.example", server.port)))
        assert proxy.asked() == [f"[::1]:{server.port}", f"127.0.0.1:{server.port}"]
        await sender.close()
    assert answer.status == 200


async def test_a_proxy_that_is_gone_between_two_calls_is_a_failure_to_connect(stage: Stage, tmp_path: Path) -> None:
    server = await stage.answering(OK)
    with tinyproxy(tmp_path) as proxy:
        sender = stage.sender(proxy=parse_proxy(proxy.url))
        assert (await send_one(sender, server.call())).status == 200
    answer = await send_one(sender, server.call())
    assert (answer.status, answer.failure) == (0, "connect")
    assert answer.error == "the proxy can't be reached: connection refused"
