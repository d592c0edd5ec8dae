"""URLs and headers of tenants: one reading for every spelling, and a sentence for what can't be used."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from howk.domain.endpoints import Endpoint, header_problem, parse_endpoint, public_form, rejoin


@pytest.mark.parametrize(
    ("url", "public", "target"),
    [
        ("http://example.com", "http://example.com/", b"/"),
        ("HTTP://EXAMPLE.com:80/", "http://example.com/", b"/"),
        ("https://example.com:443/a", "https://example.com/a", b"/a"),
        ("https://example.com:/a", "https://example.com/a", b"/a"),
        ("https://example.com:80/a", "https://example.com:80/a", b"/a"),
        ("http://example.com./a#part", "http://example.com/a", b"/a"),
        ("http://example.com?x=1#part?no", "http://example.com/", b"/?x=1"),
        ("http://example.com/a?", "http://example.com/a", b"/a"),
        ("http://example.com/a?b?c/d", "http://example.com/a", b"/a?b?c/d"),
        ("http://example.com/%2F%zz/../b", "http://example.com/%2F%zz/../b", b"/%2F%zz/../b"),
        ('http://h/a"<>\\^`{|}', "http://h/a%22%3C%3E%5C%5E%60%7B%7C%7D", b"/a%22%3C%3E%5C%5E%60%7B%7C%7D"),
        ("http://h/ä?ü=€", "http://h/%C3%A4", b"/%C3%A4?%C3%BC=%E2%82%AC"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/", b"/"),
        ("http://BÜCHER。example/", "http://xn--bcher-kva.example/", b"/"),
        ("http://my_service:8080/x", "http://my_service:8080/x", b"/x"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x", b"/x"),
        ("http://[2606:4700:0::0001]/x", "http://[2606:4700::1]/x", b"/x"),
        ("http://0x7f.1/x", "http://127.0.0.1/x", b"/x"),
        ("http://127.0.0.1./x", "http://127.0.0.1/x", b"/x"),
        ("http://①②⑦.0.0.1/x", "http://127.0.0.1/x", b"/x"),
    ],
)
def test_a_url_is_read_into_its_canonical_form(url: str, public: str, target: bytes) -> None:
    endpoint = parse_endpoint(url)
    assert (endpoint.public, endpoint.target) == (public, target)


def test_a_url_is_read_into_all_its_parts() -> None:
    assert parse_endpoint("https://user:p%40ss@[::1]:8443/a/b?c=d&e#f") == Endpoint(
        scheme="https",
        host="::1",
        port=8443,
        public="https://[::1]:8443/a/b",
        query="c=d&e",
        userinfo="user:p%40ss",
        target=b"/a/b?c=d&e",
    )


def test_the_repr_of_an_endpoint_shows_no_secret() -> None:
    assert repr(parse_endpoint("https://user:pass@h/a?token=1")) == "Endpoint('https://h/a')"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "http:// or https://"),
        ("example.com/a", "http:// or https://"),
        ("ftp://example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("http:/example.com", "http:// or https://"),
        ("http://", "no host"),
        ("http:///a", "no host"),
        ("http://user@/a", "no host"),
        ("http://:80/a", "no host"),
        ("http://a b/", "spaces or control"),
        ("http://a/\r\nX: y", "spaces or control"),
        ("http://a/\x00", "spaces or control"),
        ("http://a/\x7f", "spaces or control"),
        ("http://a/\u2028", "spaces or control"),
        ("http://a/\u00a0", "spaces or control"),
        ("http://a/\ud800", "spaces or control"),
        ("http://a:0/", "1 to 65535"),
        ("http://a:65536/", "1 to 65535"),
        ("http://a:-1/", "1 to 65535"),
        ("http://a:٣/", "1 to 65535"),
        ("http://a:8_0/", "1 to 65535"),
        ("http://::1/", "no host"),
        ("http://2606:4700::1/", "1 to 65535"),
        ("http://a@b@c/", "more than one @"),
        ("http://a\\@b/", "backslash"),
        ("http://[::1/", "not an IPv6 address"),
        ("http://[127.0.0.1]/", "not an IPv6 address"),
        ("http://[v1.a]/", "not an IPv6 address"),
        ("http://[fe80::1%eth0]/", "not an IPv6 address"),
        ("http://[fe80::1%25eth0]/", "not an IPv6 address"),
        ("http://[::1]x/", "other than a port"),
        ("http://a..b/", "not valid"),
        ("http://./", "not valid"),
        ("http://a%2eb/", "not valid"),
        ("http://℀.com/", "not valid"),
        (f"http://{'a' * 64}.com/", "1 to 63"),
        (f"http://{'.'.join(['a' * 60] * 5)}/", "at most 253"),
        (f"http://{'ü' * 300}/", "longer than 253"),
        (f"http://{'ü' * 63}/", "IDNA"),
        ("http://1.2.3.256/", "ends in a number"),
        ("http://1.2.3.4.5/", "ends in a number"),
        ("http://example.0x1f/", "ends in a number"),
        ("http://a/" + "b" * 8192, "longer than 8192"),
        ("http://a/" + "ä" * 2000, "percent-encoded"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_in_words(url: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^(The URL|The port|The host) .*\.$") as refused:
        parse_endpoint(url)
    assert says in str(refused.value)


AUTHORITY = st.text(alphabet="aB0.:@[]%-_x٣ü。①\\", max_size=20)
URLS = st.builds(
    lambda scheme, authority, rest: f"{scheme}://{authority}{rest}",
    st.sampled_from(["http", "https", "HTTP"]),
    AUTHORITY | st.sampled_from(["example.com", "u:p@example.com:81", "[::1]:8", "0x7f.1"]),
    st.just("") | st.text().map(lambda text: f"/{text}") | st.text().map(lambda text: f"?{text}"),
)


@given(URLS | st.text())
@example("http://xn--a/")
@example("http://xn--ls8h=/")
@example("http://\u00ad/")
@example("http://u@0.\u0661/?#")
def test_any_text_is_an_endpoint_that_round_trips_or_a_value_error(url: str) -> None:
    try:
        endpoint = parse_endpoint(url)
    except ValueError:
        return
    assert parse_endpoint(rejoin(endpoint.public, endpoint.userinfo, endpoint.query)) == endpoint
    assert endpoint.target.startswith(b"/")
    assert all(0x20 < byte < 0x7F for byte in endpoint.target)
    assert endpoint.host == endpoint.host.lower()
    assert endpoint.host.isascii()
    assert "?" not in endpoint.public
    assert "@" not in endpoint.public.partition("://")[2].partition("/")[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-Api-Key", "abc"), ("a", ""), ("x-tab", "a\tb"), ("X-Name", "Käthe"), ("x" * 256, "y" * 8192)],
)
def test_a_plain_header_may_be_given(name: str, value: str) -> None:
    assert header_problem(name, value) == ""


@pytest.mark.parametrize(
    "name",
    [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Upgrade",
        "Expect",
        "Proxy-Authorization",
        "proxy-anything",
        "Webhook-Id",
        "webhook-timestamp",
        "WEBHOOK-SIGNATURE",
        "X-Webhook-Id",
        "X-Webhook-Attempt",
        "X-Webhook-Timestamp",
        "X-Webhook-Signature",
        "X-HarborHook-Signature",
    ],
)
def test_a_header_the_sender_sets_is_refused(name: str) -> None:
    assert "set by the sender" in header_problem(name, "x")


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\n", "a\r\nb", "ä", "a\x00", "x" * 257, '"a"', "a/b"])
def test_a_name_that_is_no_token_is_refused(name: str) -> None:
    assert "header name" in header_problem(name, "x")


@pytest.mark.parametrize(
    "value", ["a\r\nb", "a\nb", "a\rb", "\x00", "\x1b", "\x7f", "\x85", "\ud800", "x" * 8193, "ä" * 4097]
)
def test_a_value_with_control_characters_or_over_the_limit_is_refused(value: str) -> None:
    assert "header value" in header_problem("x-a", value)


@given(st.text(), st.text())
def test_what_may_be_given_cannot_break_out_of_its_line(name: str, value: str) -> None:
    if not header_problem(name, value):
        line = f"{name}: {value}".encode()
        assert not any(byte < 0x20 and byte != 9 for byte in line)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h/a/@b", "http://h/a/@b"),
        ("http://me:pass@h:8/a?b=c#d", "http://h:8/a"),
        ("http://a@b:c@h/", "http://h/"),
        ("me:pass@h/x", "h/x"),
        ("me:pass@:///", ":///"),
        ("nowhere", "nowhere"),
    ],
)
def test_the_public_form_of_anything_has_neither_userinfo_nor_query(url: str, shown: str) -> None:
    assert public_form(url) == shown


@given(
    before=st.sampled_from(["http://", "https://", "", "://"]),
    host=st.text("abc.:[]1", max_size=9),
    path=st.text("/ab@%", max_size=9),
)
def test_nothing_between_the_scheme_and_the_at_or_after_the_question_mark_is_shown(
    before: str, host: str, path: str
) -> None:
    shown = public_form(f"{before}user:S3CR3T@{host}/{path}?S3CR3T#S3CR3T")
    assert "S3CR3T" not in shown
    assert shown == public_form(shown)
