"""The corpus: each hostile receiver by name, what it does in words, and what has to come of a delivery to it.

`docs/hostile-receivers.md` is written from this table (`python -m tests.hostile.page`), so that what users read is
what the tests hold.
"""

import gzip
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Literal, NamedTuple

from tests.authority import Authority
from tests.hostile.behaviours import (
    FORGED,
    GARBAGE,
    OK,
    TLS_1_0,
    TLS_ALERT_VERSION,
    always_leaves_the_second,
    answer,
    at_once,
    chunked,
    deaf,
    drips,
    drips_handshake,
    floods,
    keeps_then,
    midway,
    pushes,
    says,
    sealed,
    sends,
    silent,
)
from tests.hostile.scene import NAME, Behaviour, Link, Lookup, Scene, Sealed

Outcome = Literal["delivered", "retried", "dead"]
Bound = Literal["at once", "delivery.timeout", "delivery.connect_timeout", "delivery.tls_handshake_timeout"]
Place = Callable[[Scene], Awaitable[int]]
Tls = Callable[[Authority], ssl.SSLContext]

LARGE = 500_000
_MEGABYTE = 1_000_000
_EARLY_413 = answer("Content-Length: 0", status="413 Too Large")
_BROKEN_OFF = "reset: the connection was closed within the headers of the answer"
_NO_ANSWER = "reset: the connection was closed without an answer"
_NOT_HTTP = "protocol: the answer is not HTTP/1.1: "
_TOO_LARGE = "protocol: the headers of the answer are larger than 65536 bytes"
_NOT_IN_TIME = "timeout: no answer within "
_NOT_VALID = "tls: the certificate is not valid: "


class Hostile(NamedTuple):
    """One receiver. `error` is what `last_error` begins with; `until` is what bounds the time; `calls` are made one
    after the other: all but the last are delivered, and the last comes out as told."""

    name: str
    does: str
    place: Place
    outcome: Outcome
    status: int = 0
    error: str = ""
    reason: str = ""
    until: Bound = "at once"
    kept: bool | None = False
    """Whether the connection may serve another call; None where that depends on how much the system buffers."""
    cut: bool = False
    """Whether less of the answer's body is kept than was sent or announced."""
    calls: int = 1
    waits: bool = False
    """Whether the next call is made when the connection is known to be gone."""
    connections: int = 1
    request: int = 2
    """Bytes of the payload."""
    scheme: str = "http"
    host: str = "127.0.0.1"
    lookups: tuple[Lookup, ...] = (("127.0.0.1",),)


def on(behave: Behaviour, tls: Tls | None = None) -> Place:
    """A receiver on a port of its own."""

    async def place(scene: Scene) -> int:
        return await scene.serve(behave, tls=tls(scene.authority) if tls else None)

    return place


async def _nobody(scene: Scene) -> int:
    return scene.vacant()


async def _full(scene: Scene) -> int:
    return scene.full()


async def _trapped(scene: Scene) -> int:
    return await scene.trap()


async def _first_hang(scene: Scene) -> int:
    port = await scene.serve(says(OK), host="127.0.0.4")
    for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        scene.full(host, port)
    return port


async def _ninth(scene: Scene) -> int:
    return await scene.trap("127.0.0.9")


def _redirects(status: str, where: str) -> Place:
    """To a place where no connection may come."""

    async def place(scene: Scene) -> int:
        trap = await scene.trap()
        location = where.format(trap=trap)
        return await scene.serve(says(answer(f"Location: {location}|Content-Length: 0", status=status)))

    return place


_CONNECTING = (
    Hostile(
        "refuses", "refuses the connection", _nobody, "retried", error="connect: connection refused", connections=0
    ),
    Hostile(
        "never takes the connection",
        "neither takes nor refuses the connection",
        _full,
        "retried",
        error="connect_timeout: connecting took too long",
        until="delivery.connect_timeout",
        connections=0,
    ),
    Hostile(
        "resets at once",
        "resets the connection when it has taken it",
        on(at_once(then="reset")),
        "retried",
        error="reset: ",
    ),
    Hostile(
        "closes at once",
        "closes the connection when it has taken it",
        on(at_once(then="close")),
        "retried",
        error="reset: ",
    ),
    Hostile(
        "speaks first",
        "speaks first, in another protocol",
        on(at_once(b"220 mail.example ESMTP\r\n", then="stay")),
        "retried",
        error="protocol: ",
    ),
    Hostile(
        "reads nothing",
        "takes the connection and reads nothing",
        on(deaf()),
        "retried",
        error=_NOT_IN_TIME,
        until="delivery.timeout",
        request=LARGE,
    ),
)

_BREAKING_OFF = (
    Hostile(
        "resets in the request",
        "resets in the midst of the request",
        on(midway(then="reset")),
        "retried",
        error=_NO_ANSWER,
        request=LARGE,
    ),
    Hostile(
        "resets before the answer",
        "resets when it has the request",
        on(says(then="reset")),
        "retried",
        error=_NO_ANSWER,
    ),
    Hostile(
        "closes before the answer",
        "closes when it has the request",
        on(says(then="close")),
        "retried",
        error=_NO_ANSWER,
    ),
    Hostile(
        "resets in the status line",
        "resets in the status line",
        on(says(b"HTTP/1.1 2", then="reset")),
        "retried",
        error=_BROKEN_OFF,
    ),
    Hostile(
        "resets in the headers",
        "resets in the headers",
        on(says(b"HTTP/1.1 200 OK\r\nContent-Le", then="reset")),
        "retried",
        error=_BROKEN_OFF,
    ),
    Hostile(
        "closes in the headers",
        "closes in the headers",
        on(says(b"HTTP/1.1 200 OK\r\nContent-Le", then="close")),
        "retried",
        error=_BROKEN_OFF,
    ),
    Hostile(
        "resets in the body",
        "resets in the body of a 200",
        on(says(answer("Content-Length: 9", b"part"), then="reset")),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "resets in the body of a 500",
        "resets in the body of a 500",
        on(says(answer("Content-Length: 9", b"part", "500 No"), then="reset")),
        "retried",
        500,
        error="HTTP 500",
        cut=True,
    ),
    Hostile(
        "resets in a chunk",
        "resets in a chunk of a 200",
        on(says(chunked(b"9\r\npart"), then="reset")),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "closes before the last chunk",
        "closes before the last chunk of a 200",
        on(says(chunked(b"4\r\npart\r\n"), then="close")),
        "delivered",
        200,
        cut=True,
    ),
    Hostile("resets after the answer", "resets after a whole 200", on(says(OK, then="reset")), "delivered", 200),
    Hostile("closes after the answer", "closes after a whole 200", on(says(OK, then="close")), "delivered", 200),
    Hostile(
        "half-closes at once",
        "closes its side at once and reads on",
        on(at_once(then="half-close")),
        "retried",
        error="reset: ",
    ),
    Hostile(
        "half-closes before the answer",
        "closes its side when it has the request, and reads on",
        on(says(then="half-close")),
        "retried",
        error=_NO_ANSWER,
    ),
    Hostile(
        "half-closes in the headers",
        "closes its side in the headers, and reads on",
        on(says(b"HTTP/1.1 200 OK\r\n", then="half-close")),
        "retried",
        error=_BROKEN_OFF,
    ),
    Hostile(
        "half-closes after the answer",
        "closes its side after a whole 200, and reads on",
        on(says(OK, then="half-close")),
        "delivered",
        200,
    ),
    Hostile(
        "half-closes to end the body",
        "ends a 200 without a length by closing its side",
        on(says(answer("X: y", b"to the end"), then="half-close")),
        "delivered",
        200,
    ),
)

_OUT_OF_TURN = (
    Hostile(
        "refuses early and stays",
        "answers 413 before the request is read, and reads no more",
        on(midway(_EARLY_413, then="stay")),
        "dead",
        413,
        error="HTTP 413",
        reason="payload_too_large",
        kept=None,
        request=LARGE,
    ),
    Hostile(
        "refuses early and closes",
        "answers 413 before the request is read, and closes",
        on(midway(_EARLY_413, then="close")),
        "dead",
        413,
        error="HTTP 413",
        reason="payload_too_large",
        request=LARGE,
    ),
    Hostile(
        "accepts early",
        "answers 200 before the request is read, and reads no more",
        on(midway(OK, then="stay")),
        "delivered",
        200,
        kept=None,
        request=LARGE,
    ),
    Hostile(
        "sixteen interim answers",
        "sends 16 interim answers before a 200",
        on(says(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 16 + OK)),
        "delivered",
        200,
        kept=True,
    ),
    Hostile(
        "a flood of interim answers",
        "sends interim answers without end",
        on(floods(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10)),
        "retried",
        error="protocol: more than 16 interim answers",
    ),
    Hostile(
        "interim answers with large headers",
        "sends interim answers with headers without end",
        on(floods(b"", b"HTTP/1.1 103 Early Hints\r\nX: " + b"x" * 10_000 + b"\r\n\r\n")),
        "retried",
        error=_TOO_LARGE,
    ),
    Hostile(
        "nothing but an interim answer",
        "sends an interim answer and then nothing",
        on(says(b"HTTP/1.1 100 Continue\r\n\r\n")),
        "retried",
        error=_NOT_IN_TIME,
        until="delivery.timeout",
    ),
    Hostile(
        "switches protocols",
        "switches protocols (101)",
        on(says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")),
        "retried",
        error="protocol: an answer with status 101 is not one to a webhook",
    ),
)


def _broken(name: str, does: str, raw: bytes, error: str = _NOT_HTTP) -> Hostile:
    return Hostile(name, does, on(says(raw)), "retried", error=error)


_NO_ANSWERS = (
    _broken("two lengths", "says two lengths", answer("Content-Length: 2|Content-Length: 3", b"ok!")),
    _broken("a list of lengths", "says a list of lengths", answer("Content-Length: 2, 2", b"ok")),
    _broken(
        "a length and chunks",
        "says a length, and chunks",
        answer("Content-Length: 2|Transfer-Encoding: chunked", b"ok"),
    ),
    _broken(
        "chunks and a length",
        "says chunks, and a length",
        answer("Transfer-Encoding: chunked|Content-Length: 2", b"ok"),
    ),
    _broken("a negative length", "says a negative length", answer("Content-Length: -2", b"ok")),
    _broken("a signed length", "says a length with a sign", answer("Content-Length: +2", b"ok")),
    _broken("a length with a letter", "says a length that is no number", answer("Content-Length: 0x2", b"ok")),
    _broken(
        "a length beyond all",
        "says a length of more than 64 bits",
        answer("Content-Length: 99999999999999999999", b"ok"),
    ),
    _broken("an empty length", "says an empty length", answer("Content-Length:", b"ok")),
    _broken("a header with a space", "has a space in the name of a header", answer("X y: 1", b"")),
    _broken(
        "a space before the colon", "has a space before the colon of a header", answer("Content-Length : 2", b"ok")
    ),
    _broken("a header with a NUL", "has a NUL in a header", answer("X: a\0b|Content-Length: 2", b"ok")),
    _broken("a bare line feed", "ends its lines with a line feed only", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    _broken(
        "a bare carriage return", "has a bare carriage return in a header", answer("X: a\rContent-Length: 2", b"ok")
    ),
    _broken("a line without a colon", "has a line of headers without a colon", answer("what is this", b"")),
    _broken(
        "the status 000",
        "answers with the status 000",
        answer("Content-Length: 0", status="000 Zero"),
        "protocol: an answer with status 0 is",
    ),
    _broken(
        "a status of two digits", "answers with a status of two digits", answer("Content-Length: 0", status="20 OK")
    ),
    _broken("a status of words", "answers with a status in words", answer("Content-Length: 0", status="OK")),
    _broken("HTTP/0.9", "answers in HTTP/0.9", b"<html>ok</html>"),
    _broken("HTTP/2", "answers in HTTP/2", b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)),
    _broken("SSH", "answers in SSH", b"SSH-2.0-OpenSSH_9.6\r\n"),
    _broken("noise", "answers in noise", GARBAGE),
    _broken("TLS on a plain port", "answers in TLS to plain HTTP", b"\x15\x03\x01\x00\x02\x02\x28"),
)


def _badly_framed(name: str, does: str, raw: bytes, *, cut: bool = True) -> Hostile:
    """What is wrong comes after a whole head."""
    return Hostile(name, f"{does} of a 200", on(says(chunked(raw))), "delivered", 200, cut=cut)


_FRAMING = (
    _badly_framed("a chunk without a size", "has no size in a chunk", b"zz\r\nok\r\n0\r\n\r\n"),
    _badly_framed("a chunk of a negative size", "has a negative size in a chunk", b"-2\r\nok\r\n0\r\n\r\n"),
    _badly_framed("a chunk beyond all", "has a size of more than 64 bits in a chunk", b"f" * 17 + b"\r\nok"),
    _badly_framed(
        "a chunk longer than its size", "sends more than the size says in a chunk", b"2\r\nokay\r\n0\r\n\r\n"
    ),
    _badly_framed("a chunk without its end", "leaves out the end of a chunk", b"2\r\nok0\r\n\r\n"),
    _badly_framed("noise for chunks", "sends noise for the chunks", GARBAGE),
    Hostile(
        "garbage for the chunks of a 503",
        "sends garbage for the chunks of a 503",
        on(says(chunked(b"zz\r\n", "503 Busy"))),
        "retried",
        503,
        error="HTTP 503",
        cut=True,
    ),
    Hostile(
        "a length that is too long",
        "says more than it sends, and closes, in a 200",
        on(says(answer("Content-Length: 9223372036854775807", b"part"), then="close")),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "a length that is too short",
        "sends more than it said in a 200",
        on(says(OK + b"surplus")),
        "delivered",
        200,
    ),
    Hostile(
        "a body where there is none",
        "sends a body with a 204",
        on(says(answer("Content-Length: 2", b"ok", "204 No Content"))),
        "delivered",
        204,
    ),
    Hostile(
        "chunk extensions without end",
        "sends a chunk extension without end in a 200",
        on(floods(chunked(b"2;"), b"e" * 20_000)),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "trailers without end",
        "sends trailers without end after a 200",
        on(floods(chunked(b"2\r\nok\r\n0\r\n"), b"T: " + b"t" * 1_000 + b"\r\n")),
        "delivered",
        200,
        cut=True,
    ),
)


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(100 * _MEGABYTE), 9, mtime=0)


def _bombs(status: str) -> Place:
    async def place(scene: Scene) -> int:
        head = f"Content-Encoding: gzip|Content-Length: {len(_bomb())}"
        return await scene.serve(says(answer(head, _bomb(), status)))

    return place


_SIZES = (
    Hostile(
        "100 MB",
        "answers 200 with 100 MB",
        on(sends(answer(f"Content-Length: {100 * _MEGABYTE}"), b"x" * 100_000, 1_000)),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "100 MB with a 500",
        "answers 500 with 100 MB",
        on(sends(answer(f"Content-Length: {100 * _MEGABYTE}", status="500 No"), b"x" * 100_000, 1_000)),
        "retried",
        500,
        error="HTTP 500",
        cut=True,
    ),
    Hostile(
        "100 MB in chunks",
        "answers 200 with 100 MB in chunks",
        on(sends(chunked(b""), b"186a0\r\n" + b"x" * 100_000 + b"\r\n", 1_000)),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "chunks of a byte",
        "answers 200 with chunks of a byte without end",
        on(floods(chunked(b""), b"1\r\nx\r\n" * 2_000)),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "a body without end",
        "answers 200 with a body without end",
        on(floods(answer("X: y"), b"x" * 20_000)),
        "delivered",
        200,
        cut=True,
    ),
    Hostile(
        "a gzip bomb",
        "answers 200 with a gzip bomb of 100 MB",
        _bombs("200 OK"),
        "delivered",
        200,
        kept=True,
        cut=True,
    ),
    Hostile(
        "a gzip bomb with a 500",
        "answers 500 with a gzip bomb of 100 MB",
        _bombs("500 No"),
        "retried",
        500,
        error="HTTP 500",
        kept=True,
        cut=True,
    ),
    _broken("a header of 1 MB", "has a header of 1 MB", answer("X: " + "x" * _MEGABYTE), _TOO_LARGE),
    _broken("headers of 1 MB", "has 1 MB of headers", answer("X: y|" * (_MEGABYTE // 6)), _TOO_LARGE),
    _broken(
        "a reason of 1 MB", "has a reason phrase of 1 MB", answer("X: y", status="200 " + "O" * _MEGABYTE), _TOO_LARGE
    ),
    Hostile(
        "headers without end",
        "sends headers without end",
        on(floods(b"HTTP/1.1 200 OK\r\n", b"X-Filler: " + b"x" * 1_000 + b"\r\n")),
        "retried",
        error=_TOO_LARGE,
    ),
    Hostile(
        "a header without end",
        "sends a header without end",
        on(floods(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 1_000)),
        "retried",
        error=_TOO_LARGE,
    ),
    Hostile(
        "a status line without end",
        "sends a status line without end",
        on(floods(b"HTTP/1.1 200 ", b"O" * 1_000)),
        "retried",
        error=_TOO_LARGE,
    ),
    Hostile(
        "empty lines without end",
        "sends empty lines without end",
        on(floods(b"\r\n", b"\r\n" * 500)),
        "retried",
        error=_TOO_LARGE,
    ),
)


def _slow(name: str, does: str, behave: Behaviour) -> Hostile:
    return Hostile(name, does, on(behave), "retried", error=_NOT_IN_TIME, until="delivery.timeout")


def _slow_200(name: str, does: str, behave: Behaviour) -> Hostile:
    return Hostile(name, does, on(behave), "delivered", 200, until="delivery.timeout", cut=True)


_SLOW = (
    _slow("silent", "never answers", silent()),
    _slow(
        "a byte at a time in the status line", "sends the status line a byte at a time", drips(b"HTTP/1.1 200 ", b"O")
    ),
    _slow("a byte at a time in the headers", "sends headers a byte at a time", drips(b"HTTP/1.1 200 OK\r\nX: ", b"x")),
    _slow("an empty line at a time", "sends an empty line at a time", drips(b"\r\n", b"\r\n")),
    _slow_200(
        "a byte at a time in the body",
        "sends the body of a 200 a byte at a time",
        drips(answer("Content-Length: 1000"), b"x"),
    ),
    _slow_200("a chunk at a time", "sends the body of a 200 a chunk at a time", drips(chunked(b""), b"1\r\nx\r\n")),
    _slow_200("a body that stops", "stops in the body of a 200, and stays", says(answer("Content-Length: 9", b"part"))),
)

_KEPT = (
    Hostile(
        "closes the kept connection",
        "closes a kept connection without notice",
        on(says(OK, then="close")),
        "delivered",
        200,
        calls=2,
        waits=True,
        connections=2,
    ),
    Hostile(
        "closes on the next request",
        "closes a kept connection when the next request has come",
        on(keeps_then("close")),
        "delivered",
        200,
        calls=2,
        connections=2,
        kept=True,
    ),
    Hostile(
        "resets on the next request",
        "resets a kept connection when the next request has come",
        on(keeps_then("reset")),
        "delivered",
        200,
        calls=2,
        connections=2,
        kept=True,
    ),
    Hostile(
        "closes the replacement too",
        "closes a kept connection on the next request, and its replacement too",
        on(always_leaves_the_second()),
        "retried",
        error=_NO_ANSWER,
        calls=2,
        connections=2,
    ),
    Hostile(
        "pushes a forged answer",
        "pushes a forged answer on a kept connection",
        on(pushes(FORGED)),
        "delivered",
        200,
        calls=2,
        waits=True,
        connections=2,
        kept=True,
    ),
    Hostile(
        "pushes a part of an answer",
        "pushes a part of an answer on a kept connection",
        on(pushes(b"HTTP/1.1 2")),
        "delivered",
        200,
        calls=2,
        waits=True,
        connections=2,
        kept=True,
    ),
)


def _expired(authority: Authority) -> ssl.SSLContext:
    return authority.server(NAME, expired=True)


def _self_signed(authority: Authority) -> ssl.SSLContext:
    return authority.server(NAME, self_signed=True)


def _other_name(authority: Authority) -> ssl.SSLContext:
    return authority.server("other.example")


async def _wants_certificate(link: Link) -> None:
    context = link.authority.server(NAME)
    context.verify_mode = ssl.CERT_REQUIRED
    inside = Sealed(link, context)
    try:
        await inside.handshake()
    except ssl.SSLError:
        await inside.flush()
    await link.stay()


def _tls(name: str, does: str, place: Place, outcome: Outcome = "retried", **values: object) -> Hostile:
    return Hostile(name, does, place, outcome, scheme="https", host=NAME, **values)  # type: ignore[arg-type]


def _in_handshake(name: str, does: str, *pieces: bytes, then: Literal["stay", "close", "reset"] = "stay") -> Hostile:
    async def behave(link: Link) -> None:
        await link.some()
        await link.send(*pieces)
        if then == "stay":
            await link.stay()
        elif then == "reset":
            link.reset()

    return _tls(name, does, on(behave), error="tls: ")


async def _noise_before_answer(link: Link, inside: Sealed) -> None:
    await inside.request()
    await link.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await link.stay()


async def _noise_in_body(link: Link, inside: Sealed) -> None:
    await inside.request()
    await inside.send(answer("Content-Length: 9", b"part"))
    await link.send(b"\x17\x03\x03\x00\x20" + b"x" * 32)
    await link.stay()


async def _no_farewell(link: Link, inside: Sealed) -> None:
    await inside.request()
    await inside.send(answer("Content-Length: 9", b"part"))


_TLS = (
    _tls(
        "a certificate of another name",
        "has a certificate of another name",
        on(says(OK), _other_name),
        error=_NOT_VALID,
        connections=0,
    ),
    _tls(
        "an expired certificate", "has an expired certificate", on(says(OK), _expired), error=_NOT_VALID, connections=0
    ),
    _tls(
        "a self-signed certificate",
        "has a self-signed certificate",
        on(says(OK), _self_signed),
        error=_NOT_VALID,
        connections=0,
    ),
    _tls(
        "wants a certificate",
        "wants a certificate of the sender",
        on(_wants_certificate),
        error="tls: ",
    ),
    _in_handshake(
        "plain HTTP", "answers the handshake in plain HTTP", b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    ),
    _in_handshake("noise for a handshake", "answers the handshake with noise", GARBAGE),
    _in_handshake("an old version refused", "speaks no version of TLS from 1.2 on, and says so", TLS_ALERT_VERSION),
    _in_handshake("an old version chosen", "chooses TLS 1.0", TLS_1_0),
    _in_handshake("resets in the handshake", "resets in the handshake", then="reset"),
    _in_handshake("closes in the handshake", "closes in the handshake", then="close"),
    _tls(
        "a handshake that stalls",
        "stalls in the handshake",
        on(silent()),
        error="tls: the TLS handshake took too long",
        until="delivery.tls_handshake_timeout",
    ),
    _tls(
        "a handshake a byte at a time",
        "sends the handshake a byte at a time",
        on(drips_handshake()),
        error="tls: the TLS handshake took too long",
        until="delivery.tls_handshake_timeout",
    ),
    _tls(
        "noise before the answer",
        "sends what is no TLS in place of the answer",
        on(sealed(_noise_before_answer)),
        error="tls: ",
    ),
    _tls(
        "noise in the sealed body",
        "sends what is no TLS in the body of a 200",
        on(sealed(_noise_in_body)),
        "delivered",
        status=200,
        cut=True,
    ),
    _tls(
        "ends TLS without a farewell",
        "ends TLS without a farewell in the body of a 200",
        on(sealed(_no_farewell)),
        "delivered",
        status=200,
        cut=True,
    ),
)


def _redirect(name: str, status: str, where: str) -> Hostile:
    code = status.partition(" ")[0]
    does = f"redirects {name} ({code})"
    values = {"status": int(code), "error": f"HTTP {code}", "reason": "unrecoverable"}
    return Hostile(does, does, _redirects(status, where), "dead", kept=True, **values)  # type: ignore[arg-type]


_REDIRECTS = (
    _redirect("to a metadata address", "302 Found", "http://169.254.169.254/latest/meta-data/"),
    _redirect("to a private address", "307 Temporary Redirect", "http://10.0.0.1/"),
    _redirect("to this machine", "308 Permanent Redirect", "http://127.0.0.1:{trap}/"),
    _redirect("to a file", "301 Moved Permanently", "file:///etc/passwd"),
)


def _named(name: str, does: str, place: Place, outcome: Outcome, *lookups: Lookup, **values: object) -> Hostile:
    return Hostile(name, does, place, outcome, host=NAME, lookups=lookups, **values)  # type: ignore[arg-type]


_DNS = (
    _named(
        "a name nobody knows",
        "has a name that does not exist",
        _trapped,
        "retried",
        socket.EAI_NONAME,
        error="dns: the name could not be resolved: name or service not known",
        connections=0,
    ),
    _named(
        "a name server that fails",
        "has a name server that fails",
        _trapped,
        "retried",
        socket.EAI_AGAIN,
        error="dns: the name could not be resolved: temporary failure in name resolution",
        connections=0,
    ),
    _named(
        "a name server that hangs",
        "has a name server that never answers",
        _trapped,
        "retried",
        None,
        error="dns: the name was not resolved in time",
        until="delivery.connect_timeout",
        connections=0,
    ),
    _named(
        "a name without addresses",
        "has a name without addresses",
        _trapped,
        "retried",
        (),
        error="dns: the name has no address",
        connections=0,
    ),
    _named(
        "a name inside",
        "has a name with private addresses only",
        _trapped,
        "dead",
        ("10.0.0.1", "169.254.169.254", "fd00::1"),
        error="blocked_address: not allowed to connect to: private network 10.0.0.0/8",
        reason="blocked_address",
        connections=0,
    ),
    _named(
        "a name half inside",
        "has a name with private and public addresses: the private ones are passed over",
        on(says(OK)),
        "delivered",
        ("10.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "127.0.0.1"),
        status=200,
        kept=True,
    ),
    _named(
        "a name that moves inside",
        "has a name that moves to a private address between two connections",
        on(says(OK, then="close")),
        "dead",
        ("127.0.0.1",),
        ("169.254.169.254",),
        error="blocked_address: not allowed to connect to: cloud metadata address",
        reason="blocked_address",
        calls=2,
        waits=True,
    ),
    _named(
        "a name that moves inside after its check",
        "has a name that moves to a private address between check and connection: it is looked up once for both",
        on(says(OK)),
        "delivered",
        ("127.0.0.1",),
        ("169.254.169.254",),
        status=200,
        kept=True,
    ),
    _named(
        "addresses that hang",
        "has many addresses, of which the first hang: each gets its share of the time",
        _first_hang,
        "delivered",
        ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"),
        status=200,
        until="delivery.connect_timeout",
        kept=True,
    ),
    _named(
        "addresses that refuse",
        "has many addresses, of which the first refuse",
        on(says(OK)),
        "delivered",
        tuple(f"127.0.0.{n}" for n in range(8, 0, -1)),
        status=200,
        kept=True,
    ),
    _named(
        "a thousand addresses",
        "has a thousand addresses, of which the first eight refuse: no more are tried",
        _ninth,
        "retried",
        tuple(f"127.0.{n // 250}.{n % 250 + 1}" for n in range(1_000)),
        error="connect: connection refused",
        connections=0,
    ),
)

GROUPS: dict[str, tuple[Hostile, ...]] = {
    "Connecting": _CONNECTING,
    "Breaking off": _BREAKING_OFF,
    "Out of turn": _OUT_OF_TURN,
    "What is no answer": _NO_ANSWERS,
    "Framing of the body": _FRAMING,
    "Sizes": _SIZES,
    "Slowness": _SLOW,
    "Kept connections": _KEPT,
    "TLS": _TLS,
    "Redirects": _REDIRECTS,
    "Names": _DNS,
}
CORPUS: tuple[Hostile, ...] = tuple(each for group in GROUPS.values() for each in group)
