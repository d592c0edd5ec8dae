"""The way to a connection: names, the address guard, TCP and TLS, and what each step says when it fails."""

import asyncio
import socket
from collections.abc import AsyncGenerator
from typing import cast

import pytest
from tests.adapters.outbound.support import OK, PATIENCE, Stage, request, resolving, secure, send, send_one, until
from tests.authority import Authority

from howk.adapters.outbound.resolve import SystemResolver
from howk.domain.addresses import AddressPolicy
from howk.ports.sender import Origin

STRICT = AddressPolicy.of()


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", "loopback address"),
        ("2130706433", "loopback address"),
        ("0x7f.1", "loopback address"),
        ("::1", "loopback address"),
        ("::ffff:127.0.0.1", "loopback address"),
        ("169.254.169.254", "cloud metadata address"),
        ("10.0.0.1", "private network 10.0.0.0/8"),
    ],
)
async def test_a_blocked_literal_is_not_dialled(stage: Stage, host: str, reason: str) -> None:
    server = await stage.answering(OK)
    answer = await send_one(stage.sender(policy=STRICT), server.call(origin=Origin("http", host, server.port)))
    assert (answer.status, answer.failure) == (0, "blocked_address")
    assert answer.error == f"not allowed to connect to: {reason}"
    assert server.connections == 0


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["10.0.0.1", "::1", "fe80::1%lo"], ["no address"]])
async def test_a_name_with_blocked_addresses_only_is_not_dialled(stage: Stage, addresses: list[str]) -> None:
    server = await stage.answering(OK)
    sender = stage.sender(resolving(*addresses), policy=STRICT)
    answer = await send_one(sender, server.call(origin=Origin("http", "inside.example", server.port)))
    assert (answer.status, answer.failure) == (0, "blocked_address")
    assert server.connections == 0


async def test_the_blocked_addresses_of_a_name_are_passed_over(stage: Stage) -> None:
    blocked = await stage.answering(OK)
    allowed = await stage.answering(OK, host="127.0.0.2", port=blocked.port)
    sender = stage.sender(resolving("127.0.0.1", "10.0.0.1", "127.0.0.2"), policy=AddressPolicy.of(["127.0.0.2"]))
    answer = await send_one(sender, blocked.call(origin=Origin("http", "mixed.example", blocked.port)))
    assert answer.status == 200
    assert (blocked.connections, allowed.connections) == (0, 1)


async def test_a_name_is_judged_again_at_each_new_connection(stage: Stage) -> None:
    server = await stage.answering(OK, close=True)
    found = iter([["127.0.0.1"], ["169.254.169.254"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(found)

    sender = stage.sender(rebinding)
    call = server.call(origin=Origin("http", "rebind.example", server.port))
    assert (await send_one(sender, call)).status == 200
    await until(lambda: not sender.open_connections)
    assert (await send_one(sender, call)).failure == "blocked_address"


async def test_the_name_is_kept_for_host(stage: Stage) -> None:
    server = await stage.answering(OK)
    origin = Origin("http", "hooks.example", server.port)
    answer = await send_one(stage.sender(resolving("127.0.0.1")), server.call(origin=origin))
    assert b"\r\nHost: hooks.example:%d\r\n" % server.port in server.requests[0]
    assert answer.timings.dns > 0


async def test_a_name_that_does_not_resolve_is_a_dns_failure(stage: Stage) -> None:
    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    server = await stage.answering(OK)
    answer = await send_one(stage.sender(unknown), server.call(origin=Origin("http", "no.example", 80)))
    assert (answer.status, answer.failure) == (0, "dns")
    assert answer.error == "the name could not be resolved: name or service not known"


async def test_a_name_without_addresses_is_a_dns_failure(stage: Stage) -> None:
    server = await stage.answering(OK)
    answer = await send_one(stage.sender(resolving()), server.call(origin=Origin("http", "no.example", 80)))
    assert answer.failure == "dns"


@pytest.mark.parametrize(("timeout", "failure"), [(PATIENCE, "dns"), (0.1, "timeout")])
async def test_a_name_that_never_resolves_is_given_up(stage: Stage, timeout: float, failure: str) -> None:
    async def never(host: str, port: int) -> list[str]:
        await asyncio.sleep(PATIENCE)
        return []

    server = await stage.answering(OK)
    sender = stage.sender(never, connect_timeout=0.2)
    answer = await send_one(sender, server.call(origin=Origin("http", "slow.example", 80), timeout=timeout))
    assert answer.failure == failure


async def test_a_resolver_that_breaks_is_reported_and_answered(stage: Stage) -> None:
    async def broken(host: str, port: int) -> list[str]:
        raise LookupError("a bug")

    server = await stage.answering(OK)
    sender = stage.sender(broken)
    answer = await send_one(sender, server.call(origin=Origin("http", "a.example", 80)))
    assert answer.failure == "connect"
    assert [str(context["exception"]) for context in stage.reported] == ["a bug"]
    stage.reported.clear()


async def test_a_refused_connection_is_a_connect_failure(stage: Stage) -> None:
    server = await stage.answering(OK)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        origin = Origin("http", "127.0.0.1", taken.getsockname()[1])
        answer = await send_one(stage.sender(), server.call(origin=origin))
    assert (answer.status, answer.failure, answer.error) == (0, "connect", "connection refused")


async def test_the_next_address_is_tried_when_one_refuses(stage: Stage) -> None:
    server = await stage.answering(OK)
    sender = stage.sender(resolving("::1", "127.0.0.9", "127.0.0.1"))
    answer = await send_one(sender, server.call(origin=Origin("http", "many.example", server.port)))
    assert answer.status == 200
    assert sender.dials == 1


@pytest.fixture
async def full() -> AsyncGenerator[int]:
    """The port of a socket that accepts nothing any more: its queue is full."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        yield port
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(("timeout", "failure"), [(PATIENCE, "connect_timeout"), (0.1, "timeout")])
async def test_a_connection_that_is_never_taken_is_given_up(
    stage: Stage, full: int, timeout: float, failure: str
) -> None:
    server = await stage.answering(OK)
    sender = stage.sender(connect_timeout=0.3)
    call = server.call(origin=Origin("http", "127.0.0.1", full), timeout=timeout)
    answer = await send_one(sender, call)
    assert (answer.status, answer.failure) == (0, failure)
    assert answer.timings.total > min(timeout, 0.3) * 0.9


async def test_an_address_that_hangs_leaves_time_for_the_next(stage: Stage, full: int) -> None:
    server = await stage.answering(OK, host="127.0.0.2", port=full)
    sender = stage.sender(resolving("127.0.0.1", "127.0.0.2"), connect_timeout=1.0)
    answer = await send_one(sender, server.call(origin=Origin("http", "half.example", full)))
    assert answer.status == 200


async def test_a_receiver_that_speaks_first_is_a_protocol_failure(stage: Stage) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()

    server = await stage.server(greet)
    assert (await send_one(stage.sender(), server.call())).failure == "protocol"


async def test_the_system_resolver_knows_localhost(stage: Stage) -> None:
    server = await stage.answering(OK)
    answer = await send_one(stage.sender(), server.call(origin=Origin("http", "localhost", server.port)))
    assert answer.status == 200


async def test_the_system_resolver_looks_a_name_up_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        looked_up.append(host)
        if host == "unknown.example":
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(2, 1, 6, "", ("192.0.2.1", 0)), (2, 1, 6, "", ("192.0.2.1", 0)), (2, 1, 6, "", ("192.0.2.2", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    resolver = SystemResolver()
    found = await asyncio.gather(*(resolver("known.example", 80) for _ in range(10)))
    assert found == [["192.0.2.1", "192.0.2.2"]] * 10
    assert await resolver("known.example", 443) == ["192.0.2.1", "192.0.2.2"]
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver("unknown.example", 80)
    assert looked_up == ["known.example", "unknown.example", "unknown.example"]
    resolver.close()


async def test_tls_to_the_name_over_a_vetted_address_works_and_is_kept(stage: Stage, authority: Authority) -> None:
    asked: list[str | None] = []
    tls = authority.server("hooks.example")
    tls.sni_callback = lambda _, name, __: asked.append(name)
    server = await stage.answering(OK, tls=tls)
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client())
    answers = [await send_one(sender, server.call(b"x" * 300_000, origin=secure(server))) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ok")] * 3
    assert server.connections == 1
    assert asked == ["hooks.example"]
    assert answers[0].timings.tls > 0
    assert answers[1].timings.tls == 0


async def test_tls_to_an_address_works(stage: Stage, authority: Authority) -> None:
    server = await stage.answering(OK, tls=authority.server("127.0.0.1"))
    sender = stage.sender(tls=authority.client())
    assert (await send_one(sender, server.call(origin=secure(server, "127.0.0.1")))).status == 200


async def test_a_body_to_the_end_of_the_stream_works_over_tls(stage: Stage, authority: Authority) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nto the end"
    server = await stage.answering(answer, close=True, tls=authority.server("hooks.example"))
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client())
    got = await send_one(sender, server.call(origin=secure(server)))
    assert (got.status, got.body, got.truncated) == (200, b"to the end", False)


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("other.example", "Hostname mismatch, certificate is not valid for 'other.example'."),
        ("127.0.0.1", "IP address mismatch, certificate is not valid for '127.0.0.1'."),
    ],
)
async def test_a_certificate_for_another_name_is_a_tls_failure(
    stage: Stage, authority: Authority, host: str, error: str
) -> None:
    server = await stage.answering(OK, tls=authority.server("hooks.example"))
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client())
    answer = await send_one(sender, server.call(origin=secure(server, host)))
    assert (answer.status, answer.failure) == (0, "tls")
    assert answer.error == f"the certificate is not valid: {error}"
    assert server.requests == []


async def test_a_certificate_of_an_unknown_authority_is_a_tls_failure(stage: Stage, authority: Authority) -> None:
    server = await stage.answering(OK, tls=authority.server("hooks.example"))
    sender = stage.sender(resolving("127.0.0.1"))
    answer = await send_one(sender, server.call(origin=secure(server)))
    assert (answer.status, answer.failure) == (0, "tls")
    assert answer.error.startswith("the certificate is not valid: ")


async def test_a_receiver_that_speaks_plain_http_is_a_tls_failure(stage: Stage) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    server = await stage.server(plain)
    answer = await send_one(stage.sender(), server.call(origin=secure(server, "127.0.0.1")))
    assert (answer.status, answer.failure) == (0, "tls")


async def test_a_receiver_that_hangs_up_in_the_handshake_is_a_tls_failure(stage: Stage) -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    server = await stage.server(slam)
    answer = await send_one(stage.sender(), server.call(origin=secure(server, "127.0.0.1")))
    assert (answer.status, answer.failure) == (0, "tls")


@pytest.mark.parametrize(("timeout", "failure"), [(PATIENCE, "tls"), (0.1, "timeout")])
async def test_a_handshake_that_hangs_is_given_up(stage: Stage, timeout: float, failure: str) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.sleep(PATIENCE)

    server = await stage.server(hang)
    sender = stage.sender(tls_handshake_timeout=0.3)
    answer = await send_one(sender, server.call(origin=secure(server, "127.0.0.1"), timeout=timeout))
    assert (answer.status, answer.failure) == (0, failure)
    assert answer.error == "the TLS handshake took too long"


async def test_close_waits_for_no_farewell_of_a_receiver_that_hangs(stage: Stage, authority: Authority) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(OK)
        cast(asyncio.Transport, writer.transport).pause_reading()
        try:
            await asyncio.sleep(PATIENCE)
        finally:
            writer.transport.abort()

    server = await stage.server(deaf, tls=authority.server("hooks.example"))
    sender = stage.sender(resolving("127.0.0.1"), tls=authority.client())
    await send_one(sender, server.call(origin=secure(server)))
    await sender.close()
    assert sender.open_connections == 0


async def test_no_error_tells_a_secret_of_the_url(stage: Stage) -> None:
    server = await stage.silent()
    sender = stage.sender(resolving("10.0.0.1"))
    head = b"Authorization: Basic c2VjcmV0\r\n"
    answers = await send(
        sender,
        [
            server.call(target=b"/?token=secret", head=head, timeout=0.1),
            server.call(target=b"/?token=secret", head=head, origin=Origin("http", "a.example", 80)),
            server.call(target=b"/?token=secret ", head=head),
        ],
    )
    for answer in answers:
        assert answer.failure
        assert "secret" not in answer.error
        assert "c2VjcmV0" not in answer.error
