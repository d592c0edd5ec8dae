"""The way through a forward proxy: what it is asked, what goes through its tunnels, and every way it may refuse."""

import asyncio
import socket
from base64 import b64encode

import pytest
from tests.adapters.outbound.proxying import OPENED, Proxy, behaving, forwarding, saying
from tests.adapters.outbound.support import (
    OK,
    PATIENCE,
    Answers,
    Stage,
    request,
    resolving,
    secure,
    send,
    send_one,
    until,
)
from tests.authority import Authority

from howk.domain.addresses import AddressPolicy
from howk.domain.forward_proxy import MAX_ANSWER, ForwardProxy
from howk.domain.outcome import judge_answer
from howk.ports.sender import Answer, Origin

SECRET = b64encode(b"me:hunter2")
BASIC = b"Basic " + SECRET


def judged(answer: Answer) -> str:
    return judge_answer(answer.status, answer.failure, answer.error).outcome


async def test_a_call_goes_through_a_tunnel_byte_for_byte(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    call = server.call(bytes(range(256)) * 2000, origin=Origin("http", "hooks.example", server.port), head=b"X: y\r\n")
    plain = stage.sender(resolving("127.0.0.1"))
    through = stage.sender(resolving("127.0.0.1"), proxy=proxy.at())
    answers = [await send_one(sender, call) for sender in (plain, through)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 2
    assert server.requests[0] == server.requests[1] == bytes(proxy.carried)
    assert b"\r\nHost: hooks.example:%d\r\n" % server.port in server.requests[1]


async def test_the_proxy_is_asked_for_the_vetted_address_and_told_nothing_else(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(resolving("127.0.0.1"), proxy=proxy.at())
    await send_one(sender, server.call(origin=Origin("http", "hooks.example", server.port)))
    target = b"127.0.0.1:%d" % server.port
    assert proxy.asked == [b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, target)]


async def test_tls_runs_inside_the_tunnel_with_the_name_of_the_receiver(stage: Stage, authority: Authority) -> None:
    asked: list[str | None] = []
    tls = authority.server("hooks.example")
    tls.sni_callback = lambda _, name, __: asked.append(name)
    server, proxy = await stage.answering(OK, tls=tls), await forwarding(stage)
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client(), proxy=proxy.at())
    body = b"nobody else reads this" * 20_000
    answers = [await send_one(sender, server.call(body, origin=secure(server))) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 3
    assert [raw.endswith(body) for raw in server.requests] == [True] * 3
    assert asked == ["hooks.example"]
    assert proxy.targets == [f"127.0.0.1:{server.port}"]
    assert b"nobody else" not in proxy.carried
    assert proxy.carried.startswith(b"\x16\x03")
    assert answers[0].timings.tls > 0


async def test_a_certificate_for_another_name_is_refused_through_a_tunnel_too(
    stage: Stage, authority: Authority
) -> None:
    server, proxy = await stage.answering(OK, tls=authority.server("hooks.example")), await forwarding(stage)
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client(), proxy=proxy.at())
    answer = await send_one(sender, server.call(origin=secure(server, "other.example")))
    assert (answer.status, answer.failure) == (0, "tls")
    assert "not valid for 'other.example'" in answer.error
    assert server.requests == []


async def test_the_proxy_gets_its_credentials_and_the_receiver_does_not(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    await send_one(stage.sender(proxy=proxy.at(authorization=BASIC)), server.call())
    assert b"\r\nProxy-Authorization: %b\r\n\r\n" % BASIC in proxy.asked[0]
    assert b"roxy-" not in server.requests[0]
    assert SECRET not in server.requests[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "::ffff:127.0.0.1", "169.254.169.254", "inside.example"])
async def test_a_blocked_address_is_not_asked_of_the_proxy(stage: Stage, host: str) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(resolving("10.0.0.1", "::1"), policy=AddressPolicy.of(), proxy=proxy.at())
    answer = await send_one(sender, server.call(origin=Origin("http", host, server.port)))
    assert (answer.status, answer.failure) == (0, "blocked_address")
    assert proxy.server.connections == 0


async def test_the_proxy_itself_is_not_judged_and_only_allowed_addresses_are_asked_of_it(stage: Stage) -> None:
    blocked = await stage.answering(OK)
    allowed = await stage.answering(OK, host="127.0.0.2", port=blocked.port)
    proxy = await forwarding(stage)
    policy = AddressPolicy.of(["127.0.0.2"])
    sender = stage.sender(resolving("127.0.0.1", "10.0.0.1", "127.0.0.2"), policy=policy, proxy=proxy.at())
    answer = await send_one(sender, blocked.call(origin=Origin("http", "mixed.example", blocked.port)))
    assert answer.status == 200
    assert proxy.targets == [f"127.0.0.2:{blocked.port}"]
    assert (blocked.connections, allowed.connections) == (0, 1)


async def test_a_name_is_judged_again_at_each_new_tunnel(stage: Stage) -> None:
    server, proxy = await stage.answering(OK, close=True), await forwarding(stage)
    found = iter([["127.0.0.1"], ["169.254.169.254"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(found)

    sender = stage.sender(rebinding, proxy=proxy.at())
    call = server.call(origin=Origin("http", "rebind.example", server.port))
    assert (await send_one(sender, call)).status == 200
    await until(lambda: not sender.open_connections)
    assert (await send_one(sender, call)).failure == "blocked_address"
    assert len(proxy.asked) == 1


async def test_a_name_that_only_the_proxy_could_resolve_is_a_dns_failure(stage: Stage) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    server, proxy = await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(unknown, proxy=proxy.at())
    answer = await send_one(sender, server.call(origin=Origin("http", "inside.example", 80)))
    assert (answer.status, answer.failure) == (0, "dns")
    assert proxy.server.connections == 0


async def test_the_name_of_the_proxy_is_resolved_and_its_addresses_tried_in_turn(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)

    async def resolve(host: str, port: int) -> list[str]:
        return {"proxy.example": ["127.0.0.9", "127.0.0.1"], "hooks.example": ["127.0.0.1"]}[host]

    sender = stage.sender(resolve, proxy=proxy.at("proxy.example"))
    answer = await send_one(sender, server.call(origin=Origin("http", "hooks.example", server.port)))
    assert answer.status == 200


async def test_calls_in_turn_use_one_tunnel_and_the_first_pays_for_it(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage, delay=0.1)
    sender = stage.sender(resolving("127.0.0.1"), proxy=proxy.at())
    call = server.call(origin=Origin("http", "hooks.example", server.port))
    answers = [await send_one(sender, call) for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3
    assert (proxy.server.connections, server.connections, sender.dials, sender.reuses) == (1, 1, 1, 2)
    first, *later = [answer.timings for answer in answers]
    assert first.dns < first.connect
    # The loop's timers count whole milliseconds, and may end one early.
    assert 0.095 <= first.connect <= first.total
    assert first.tls == 0
    assert [(timings.dns, timings.connect) for timings in later] == [(0, 0)] * 2


async def test_each_origin_has_tunnels_of_its_own(stage: Stage) -> None:
    one, other, proxy = await stage.answering(OK), await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(proxy=proxy.at())
    for _ in range(2):
        answers = await send(sender, [one.call(b"one"), other.call(b"other")])
        assert [answer.status for answer in answers] == [200] * 2
    assert sorted(proxy.targets) == sorted([f"127.0.0.1:{one.port}", f"127.0.0.1:{other.port}"])
    assert all(raw.endswith(b"one") for raw in one.requests)


async def test_a_stale_tunnel_is_replaced_once(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(proxy=proxy.at())
    assert (await send_one(sender, server.call(b"first"))).status == 200

    answers = Answers()
    proxy.tunnels[0].transport.abort()
    # It is sent before the sender has seen the end of the tunnel.
    sender.send([server.call(b"second")], answers)
    (answer,) = await answers.all(1)
    assert answer.status == 200
    assert (len(proxy.asked), sender.dials, sender.stale_retries) == (2, 2, 1)
    assert server.requests[-1].endswith(b"second")


async def test_a_replacement_that_the_proxy_refuses_is_a_failure(stage: Stage) -> None:
    server = await stage.answering(OK)
    proxy = await forwarding(stage, lambda count, _: OPENED if count == 1 else b"HTTP/1.1 503 Busy\r\n\r\n")
    sender = stage.sender(proxy=proxy.at())
    await send_one(sender, server.call())
    proxy.tunnels[0].transport.abort()
    answer = await send_one(sender, server.call())
    assert (answer.status, answer.failure) == (0, "connect")
    assert (len(proxy.asked), sender.stale_retries) == (2, 1)


async def test_an_idle_tunnel_that_the_proxy_closes_is_dropped(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(proxy=proxy.at())
    await send_one(sender, server.call())
    proxy.tunnels[0].close()
    await until(lambda: not sender.open_connections)
    assert (await send_one(sender, server.call())).status == 200
    assert sender.stale_retries == 0


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (b"301 Moved", "the proxy refused to connect to the receiver, with HTTP 301"),
        (b"400 Bad", "the proxy refused to connect to the receiver, with HTTP 400"),
        (b"401 Who", "the proxy refused with HTTP 401: delivery.proxy needs credentials"),
        (b"403 Filtered", "the proxy refused to connect to the receiver, with HTTP 403"),
        (b"407 Who", "the proxy refused with HTTP 407: delivery.proxy needs credentials"),
        (b"410 Gone", "the proxy refused to connect to the receiver, with HTTP 410"),
        (b"429 Slow", "the proxy refused to connect to the receiver, with HTTP 429"),
        (b"502 Bad", "the proxy refused to connect to the receiver, with HTTP 502"),
    ],
)
async def test_a_refusal_of_the_proxy_is_no_answer_of_the_receiver(stage: Stage, status: bytes, words: str) -> None:
    server = await stage.answering(OK)
    answer = b"HTTP/1.1 " + status + b"\r\nRetry-After: 9\r\nContent-Length: 19\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    sender = stage.sender(proxy=(await saying(stage, answer)).at())
    got = await send_one(sender, server.call())
    assert (got.status, got.failure, got.error) == (0, "connect", words)
    assert (got.headers, got.body) == ((), b"")
    assert judged(got) == "failed"
    assert server.connections == 0


@pytest.mark.parametrize("status", [401, 407])
async def test_wrong_credentials_are_named_and_ask_for_no_further_address(stage: Stage, status: int) -> None:
    server, proxy = await stage.answering(OK), await saying(stage, b"HTTP/1.1 %d No\r\n\r\n" % status)
    sender = stage.sender(resolving("127.0.0.1", "127.0.0.2"), proxy=proxy.at(authorization=BASIC))
    answer = await send_one(sender, server.call(origin=Origin("http", "two.example", server.port)))
    assert (answer.status, answer.failure) == (0, "connect")
    assert answer.error == f"the proxy refused with HTTP {status}: the credentials of delivery.proxy are wrong"
    assert len(proxy.asked) == 1


async def test_the_next_address_is_asked_for_when_the_proxy_does_not_reach_one(stage: Stage) -> None:
    server = await stage.answering(OK)
    proxy = await forwarding(stage, lambda count, _: OPENED if count > 1 else b"HTTP/1.1 502 No route\r\n\r\n")
    sender = stage.sender(resolving("127.0.0.9", "127.0.0.1"), proxy=proxy.at())
    answer = await send_one(sender, server.call(origin=Origin("http", "two.example", server.port)))
    assert answer.status == 200
    assert proxy.targets == [f"127.0.0.9:{server.port}", f"127.0.0.1:{server.port}"]
    assert sender.dials == 1


async def test_an_address_on_which_the_proxy_hangs_leaves_time_for_the_next(stage: Stage) -> None:
    server = await stage.answering(OK)

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"127.0.0.9" in head:
            await reader.read()
        writer.write(OPENED + OK)

    proxy = await behaving(stage, behave)
    sender = stage.sender(resolving("127.0.0.9", "127.0.0.1"), proxy=proxy.at(), connect_timeout=1.0)
    answer = await send_one(sender, server.call(origin=Origin("http", "two.example", server.port)))
    assert answer.failure == "protocol"
    assert proxy.server.connections == 2


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n",),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nLink: </a>\r\n\r\n", OPENED),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OPENED,),
        tuple(OPENED[position : position + 1] for position in range(len(OPENED))),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * (MAX_ANSWER - 100) + b"\r\n\r\n",),
    ],
    ids=["1.0", "framing", "interim", "interim at once", "a byte at a time", "large"],
)
async def test_a_tunnel_is_open_after_the_head_of_a_2xx_and_nothing_else(
    stage: Stage, pieces: tuple[bytes, ...]
) -> None:
    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        while await request(reader):
            writer.write(OK)

    proxy = await behaving(stage, behave)
    server = await stage.answering(OK)
    sender = stage.sender(proxy=proxy.at())
    for _ in range(2):
        answer = await send_one(sender, server.call())
        assert (answer.status, answer.body) == (200, b"ok")
    assert proxy.server.connections == 1


async def test_what_follows_the_head_is_the_receivers_and_is_judged_as_that(stage: Stage) -> None:
    proxy = await saying(stage, OPENED + b"220 mail.example ESMTP\r\n")
    server = await stage.answering(OK)
    answer = await send_one(stage.sender(proxy=proxy.at()), server.call())
    assert (answer.status, answer.failure) == (0, "protocol")
    assert answer.error == "the receiver sent what nobody asked for"


async def test_what_follows_the_head_is_the_first_of_the_handshake(stage: Stage, authority: Authority) -> None:
    alert = b"\x15\x03\x03\x00\x02\x02\x28"
    proxy = await saying(stage, OPENED + alert)
    server = await stage.answering(OK)
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client(), proxy=proxy.at())
    answer = await send_one(sender, server.call(origin=secure(server)))
    assert (answer.status, answer.failure) == (0, "tls")
    assert "alert" in answer.error


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "the proxy's answer is not HTTP/1.1"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "the proxy's answer is not HTTP/1.1"),
        (b"<html>" + b"x" * 100_000, "the proxy's answer is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\n\n", "the proxy's answer is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX y\r\n\r\n", "the proxy's answer is not one to CONNECT"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "the proxy's answer is not one to CONNECT"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, "the proxy's answer is more than 16 interim ones"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "the proxy's answer has a head of more than 16384 bytes"),
    ],
)
async def test_what_is_no_answer_to_connect_is_a_failure_to_connect(stage: Stage, raw: bytes, words: str) -> None:
    server = await stage.answering(OK)
    sender = stage.sender(proxy=(await saying(stage, raw)).at())
    answer = await send_one(sender, server.call())
    assert (answer.status, answer.failure, answer.error) == (0, "connect", words)
    assert judged(answer) == "failed"


@pytest.mark.parametrize("piece", [b"X: y\r\n" * 100, b"x" * 1000, b"\r\n\r\nHTTP/1.1 100 C\r\nX: " + b"x" * 1000])
async def test_a_head_without_end_is_refused_at_its_bound(stage: Stage, piece: bytes) -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 100 Continue\r\nX: ")
        while True:
            writer.write(piece)
            await writer.drain()

    server, proxy = await stage.answering(OK), await behaving(stage, flood)
    answer = await send_one(stage.sender(proxy=proxy.at()), server.call())
    assert (answer.status, answer.failure) == (0, "connect")
    assert answer.error.startswith("the proxy's answer ")


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nX: ",), (b"HTTP/1.1 100 Continue\r\n\r\n",)])
async def test_a_proxy_that_hangs_up_is_a_failure_to_connect(stage: Stage, pieces: tuple[bytes, ...]) -> None:
    server, proxy = await stage.answering(OK), await saying(stage, *pieces, stays=False)
    answer = await send_one(stage.sender(proxy=proxy.at()), server.call())
    assert (answer.status, answer.failure, answer.error) == (0, "connect", "the proxy broke off the connection")


async def test_a_proxy_that_resets_is_a_failure_to_connect(stage: Stage) -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.transport.abort()

    server, proxy = await stage.answering(OK), await behaving(stage, slam)
    answer = await send_one(stage.sender(proxy=proxy.at()), server.call())
    assert (answer.status, answer.failure, answer.error) == (0, "connect", "the proxy broke off the connection")


async def test_a_tunnel_that_ends_at_once_is_a_reset(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await saying(stage, OPENED, stays=False)
    answer = await send_one(stage.sender(proxy=proxy.at()), server.call())
    assert (answer.status, answer.failure) == (0, "reset")


@pytest.mark.parametrize(("timeout", "failure"), [(PATIENCE, "connect_timeout"), (0.1, "timeout")])
@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nX: ",), (b"HTTP/1.1 100 Continue\r\n\r\n",)])
async def test_a_proxy_that_never_answers_is_given_up(
    stage: Stage, pieces: tuple[bytes, ...], timeout: float, failure: str
) -> None:
    server, proxy = await stage.answering(OK), await saying(stage, *pieces)
    sender = stage.sender(proxy=proxy.at(), connect_timeout=0.3)
    answer = await send_one(sender, server.call(timeout=timeout))
    assert (answer.status, answer.failure, answer.error) == (0, failure, "the proxy did not answer in time")
    assert min(timeout, 0.3) * 0.9 < answer.timings.total < 5


async def test_a_proxy_that_answers_a_byte_at_a_time_is_bound_by_the_timeout(stage: Stage) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for position in range(10_000):
            writer.write((b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000)[position : position + 1])
            await asyncio.sleep(0.01)

    server, proxy = await stage.answering(OK), await behaving(stage, drip)
    answer = await send_one(stage.sender(proxy=proxy.at(), connect_timeout=0.3), server.call())
    assert (answer.status, answer.failure) == (0, "connect_timeout")


async def test_a_proxy_that_is_not_there_is_a_failure_to_connect(stage: Stage) -> None:
    server = await stage.answering(OK)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxy = ForwardProxy("127.0.0.1", taken.getsockname()[1], BASIC)
        answer = await send_one(stage.sender(proxy=proxy), server.call())
    assert (answer.status, answer.failure) == (0, "connect")
    assert answer.error == "the proxy can't be reached: connection refused"
    assert judged(answer) == "failed"


async def test_a_proxy_whose_name_is_unknown_is_a_failure_to_connect(stage: Stage) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    server = await stage.answering(OK)
    answer = await send_one(stage.sender(resolve, proxy=ForwardProxy("proxy.example", 3128)), server.call())
    assert (answer.failure, answer.error) == ("connect", "the name of the proxy could not be resolved")


@pytest.mark.parametrize(("timeout", "failure"), [(PATIENCE, "connect_timeout"), (0.1, "timeout")])
async def test_a_proxy_whose_name_never_resolves_is_given_up(stage: Stage, timeout: float, failure: str) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(PATIENCE)
        return []

    server = await stage.answering(OK)
    sender = stage.sender(never, proxy=ForwardProxy("proxy.example", 3128), connect_timeout=0.3)
    answer = await send_one(sender, server.call(timeout=timeout))
    assert (answer.failure, answer.error) == (failure, "the name of the proxy was not resolved in time")


async def test_no_failure_tells_the_credentials_or_the_place_of_the_proxy(stage: Stage) -> None:
    server = await stage.answering(OK)
    errors: list[str] = []
    for raw in (b"HTTP/1.1 407 No\r\n\r\n", b"HTTP/1.1 403 No " + SECRET + b"\r\n\r\n", b"HTTP/1.1 " + SECRET, b""):
        proxy = await saying(stage, raw, stays=False)
        sender = stage.sender(resolving("127.0.0.1"), proxy=proxy.at("proxy.example", BASIC), connect_timeout=0.3)
        errors.append((await send_one(sender, server.call())).error)
    everything = f"{errors}{proxy.at(authorization=BASIC)}"
    assert all(errors)
    assert SECRET.decode() not in everything
    assert "proxy.example" not in everything


@pytest.mark.parametrize("turns", range(16))
@pytest.mark.parametrize("end", ["abort", "close"])
async def test_an_end_at_any_moment_answers_each_call_once_and_leaves_nothing(
    stage: Stage, turns: int, end: str
) -> None:
    server, proxy = await stage.answering(OK), await forwarding(stage)
    sender = stage.sender(resolving("127.0.0.1"), proxy=proxy.at("proxy.example"), max_per_origin=3)
    answers = Answers()
    sender.send([server.call() for _ in range(6)], answers)
    for _ in range(turns):
        await asyncio.sleep(0)
    if end == "abort":
        sender.abort()
    else:
        await sender.close()
    came = await answers.all(6)
    assert {answer.failure for answer in came} <= {"", "cancelled"}


async def test_calls_that_wait_for_the_proxy_are_cancelled_at_once(stage: Stage) -> None:
    server, proxy = await stage.answering(OK), await saying(stage, b"HTTP/1.1 100 Continue\r\n\r\n")
    sender = stage.sender(proxy=proxy.at())
    answers = Answers()
    sender.send([server.call() for _ in range(3)], answers)
    await until(lambda: len(proxy.asked) == 3)
    await sender.close()
    assert [answer.failure for answer in await answers.all(3)] == ["cancelled"] * 3


async def test_a_thousand_calls_through_a_proxy_that_fails_often_are_each_answered_once(stage: Stage) -> None:
    closing, server = await stage.answering(OK, close=True), await stage.answering(OK)

    def judge(count: int, _: bytes) -> bytes:
        return b"HTTP/1.1 503 Busy\r\n\r\n" if count % 5 == 0 else OPENED

    proxy: Proxy = await forwarding(stage, judge)
    sender = stage.sender(proxy=proxy.at(), max_per_origin=8)
    calls = [(closing if number % 3 == 0 else server).call(b"%d" % number) for number in range(1000)]
    answers = await send(sender, calls)
    assert {(answer.status, answer.failure) for answer in answers} <= {(200, ""), (0, "connect"), (0, "reset")}
    assert sum(answer.status == 200 for answer in answers) > 700
