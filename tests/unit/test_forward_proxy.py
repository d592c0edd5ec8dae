"""What is asked of a forward proxy and what its answer means, from plain bytes."""

from base64 import b64decode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from howk.domain.forward_proxy import (
    MAX_ANSWER,
    MAX_INTERIM,
    ConnectAnswer,
    ForwardProxy,
    connect_answer,
    connect_request,
    parse_proxy,
    refusal,
)
from howk.domain.outcome import judge_answer

OPEN = b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n"
SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "host", "port", "credentials"),
    [
        ("http://proxy", "proxy", 80, None),
        ("http://proxy/", "proxy", 80, None),
        ("HTTP://Proxy.Example:3128", "proxy.example", 3128, None),
        ("http://10.0.0.1:3128", "10.0.0.1", 3128, None),
        ("http://[fd00::1]:3128", "fd00::1", 3128, None),
        ("http://me:hunter2@proxy:3128", "proxy", 3128, b"me:hunter2"),
        ("http://me@proxy:3128", "proxy", 3128, b"me:"),
        ("http://:token@proxy:3128", "proxy", 3128, b":token"),
        ("http://me:a%40b%3Ac%2F%C3%A9@proxy", "proxy", 80, b"me:a@b:c/\xc3\xa9"),
        ("http://me:é@proxy", "proxy", 80, b"me:\xc3\xa9"),
        ("http://me:a:b@proxy", "proxy", 80, b"me:a:b"),
    ],
)
def test_a_url_gives_the_proxy_and_its_credentials(url: str, host: str, port: int, credentials: bytes | None) -> None:
    proxy = parse_proxy(url)
    assert (proxy.host, proxy.port) == (host, port)
    if credentials is None:
        assert proxy.authorization == b""
    else:
        assert proxy.authorization.startswith(b"Basic ")
        assert b64decode(proxy.authorization[6:]) == credentials


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://me:hunter2@proxy:3128", "over TLS is not supported"),
        ("socks5://me:hunter2@proxy:1080", "such as http://proxy:3128"),
        ("me:hunter2@proxy:3128", "such as http://proxy:3128"),
        ("hunter2", "such as http://proxy:3128"),
        ("http://", "such as http://proxy:3128"),
        ("http://me:hunter2@", "such as http://proxy:3128"),
        ("http://proxy:hunter2", "such as http://proxy:3128"),
        ("http://proxy:0", "such as http://proxy:3128"),
        ("http://proxy:65536", "such as http://proxy:3128"),
        ("http://me:hunter2@proxy/path", "without a path"),
        ("http://proxy/?hunter2", "without a path"),
        ("http://proxy#hunter2", "without a path"),
        ("http://me:hun@ter2@proxy", "%40"),
        ("http://me:hun/ter2@proxy", "%2F"),
        ("http://m%3Ae:hunter2@proxy", "colon"),
        ("http://me:hunter2%0D%0AX:@proxy", "control characters"),
        ("http://me:hunter2\r\n@proxy", "such as http://proxy:3128"),
        ("http://[fe80::1%25lo]:3128", "such as http://proxy:3128"),
        ("http://pro xy:3128", "such as http://proxy:3128"),
    ],
)
def test_what_is_no_proxy_is_refused_in_words_without_what_it_holds(url: str, words: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        parse_proxy(url)
    assert words in str(caught.value)
    assert "ter2" not in str(caught.value)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_text_in_the_place_of_credentials_breaks_out_of_the_header(user: str, password: str) -> None:
    try:
        proxy = parse_proxy(f"http://{user}:{password}@proxy:3128")
    except ValueError:
        return
    request = connect_request(proxy, "192.0.2.1", 443)
    assert request.count(b"\r\n") == request.count(b"\n") == request.count(b"\r") == (4 if proxy.authorization else 3)


def test_the_repr_of_a_proxy_has_no_credentials() -> None:
    proxy = parse_proxy("http://me:hunter2@proxy")
    assert "Basic" not in repr(proxy)
    assert proxy.authorization.decode()[6:] not in repr(proxy)


@pytest.mark.parametrize(
    ("address", "target"), [("192.0.2.1", b"192.0.2.1:8443"), ("2001:db8::1", b"[2001:db8::1]:8443")]
)
def test_the_proxy_is_asked_for_the_address_itself(address: str, target: bytes) -> None:
    plain = ForwardProxy("proxy", 3128)
    known = ForwardProxy("proxy", 3128, b"Basic bWU6")
    lines = b"CONNECT %b HTTP/1.1\r\nHost: %b\r\n" % (target, target)
    assert connect_request(plain, address, 8443) == lines + b"\r\n"
    assert connect_request(known, address, 8443) == lines + b"Proxy-Authorization: Basic bWU6\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (OPEN, 200),
        (b"HTTP/1.1 200\r\n\r\n", 200),
        (b"HTTP/1.1 200 \r\n\r\n", 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 200),
        (b"HTTP/1.1 200 OK\r\nX:\r\nY: \xe9\t\r\n\r\n", 200),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=a\r\n\r\n", 407),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OPEN, 200),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_INTERIM + OPEN, 200),
    ],
)
@pytest.mark.parametrize("surplus", [b"", b"\n", b"\r\n", b"\x16\x03\x01", OPEN, b"HTTP/1.1 500 No\r\n\r\n"])
def test_an_answer_is_known_once_it_is_whole_and_what_follows_is_not_its(
    data: bytes, status: int, surplus: bytes
) -> None:
    assert connect_answer(data + surplus) == ConnectAnswer(status, len(data))
    assert [connect_answer(data[:size]) for size in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"<html>",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x28",
        b"\r\n" + OPEN,
        b" " + OPEN,
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 600 OK\r\n\r\n",
        b"HTTP/1.1 -200 OK\r\n\r\n",
        b"HTTP/1.1 200OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 OK\n\n",
        b"HTTP/1.1 200 OK\r\nX: y\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n<html>",
        b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_INTERIM + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_ANSWER,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_ANSWER + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * MAX_ANSWER,
        (b"HTTP/1.1 100 Continue\r\nX: " + b"x" * (MAX_ANSWER // 4) + b"\r\n\r\n") * 4 + OPEN,
    ],
)
def test_what_is_no_answer_to_connect_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(is|has) "):
        connect_answer(data)


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda noise: OPEN[: len(noise)] + noise))
@example(OPEN)
def test_no_bytes_are_too_strange_and_no_part_of_an_answer_decides_otherwise(data: bytes) -> None:
    def meaning(part: bytes) -> ConnectAnswer | str | None:
        try:
            return connect_answer(part)
        except ValueError:
            return "refused"

    whole = meaning(data)
    assert whole is None or whole == "refused" or (isinstance(whole, ConnectAnswer) and whole.size <= len(data))
    decided = [meaning(data[:size]) for size in range(len(data) + 1)]
    first = next((each for each in decided if each is not None), None)
    assert first == whole


@given(st.integers(200, 599), st.booleans())
def test_only_a_2xx_opens_a_tunnel_and_every_refusal_is_tried_again(status: int, known: bool) -> None:
    proxy = ForwardProxy("proxy", 3128, b"Basic bWU6aHVudGVyMg==" if known else b"")
    words = refusal(status, proxy)
    assert bool(words) == (status >= 300)
    if words:
        assert f"HTTP {status}" in words
        assert "bWU6" not in words
        assert ("credentials" in words) == (status in (401, 407))
        assert judge_answer(0, "connect", words).outcome == "failed"
