"""The address guard: what may be dialled under which policy, and that no spelling of an address slips by."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from howk.domain.addresses import AddressPolicy, blocked_reason, literal_address

STRICT = AddressPolicy.of()
OPEN = AddressPolicy.of(allow_private=True, allow_loopback=True)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", "loopback address"),
        ("127.255.255.254", "loopback address"),
        ("::1", "loopback address"),
        ("10.1.2.3", "private network 10.0.0.0/8"),
        ("172.16.0.1", "private network 172.16.0.0/12"),
        ("172.31.255.255", "private network 172.16.0.0/12"),
        ("192.168.1.1", "private network 192.168.0.0/16"),
        ("100.64.0.1", "shared network (CGNAT) 100.64.0.0/10"),
        ("100.100.100.200", "cloud metadata address"),
        ("169.254.169.254", "cloud metadata address"),
        ("169.254.170.2", "link-local address (cloud metadata)"),
        ("0.0.0.0", "unspecified address"),
        ("0.1.2.3", "reserved network 0.0.0.0/8"),
        ("192.0.0.192", "reserved network 192.0.0.0/24"),
        ("192.0.2.1", "documentation network 192.0.2.0/24"),
        ("198.18.0.1", "benchmark network 198.18.0.0/15"),
        ("198.19.255.255", "benchmark network 198.18.0.0/15"),
        ("198.51.100.1", "documentation network 198.51.100.0/24"),
        ("203.0.113.1", "documentation network 203.0.113.0/24"),
        ("224.0.0.1", "multicast address"),
        ("240.0.0.1", "reserved network 240.0.0.0/4"),
        ("255.255.255.255", "broadcast address"),
        ("::", "unspecified address"),
        ("fd00:ec2::254", "cloud metadata address"),
        ("fd12:3456::1", "private network fc00::/7"),
        ("fec0::1", "private network (site-local) fec0::/10"),
        ("fe80::1", "link-local address"),
        ("fe80::1%eth0", "address with a zone"),
        ("2606:4700::1%eth0", "address with a zone"),
        ("ff02::1", "multicast address"),
        ("2001:db8::1", "documentation network 2001:db8::/32"),
        ("2001:2::1", "benchmark network 2001:2::/48"),
        ("64:ff9b:1::808:808", "local NAT64 network 64:ff9b:1::/48"),
        ("4000::1", "reserved address"),
        ("", "not an IP address"),
        ("example.com", "not an IP address"),
        ("127.1", "not an IP address"),
    ],
)
def test_an_address_inside_is_blocked_with_its_reason(address: str, reason: str) -> None:
    assert blocked_reason(address, STRICT) == reason


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2001:4860:4860::8888",
    ],
)
def test_a_public_address_may_be_dialled(address: str) -> None:
    assert blocked_reason(address, STRICT) == ""


def embeddings(inner: IPv4Address) -> list[str]:
    """Every IPv6 form that leads to an IPv4 address; the server of the Teredo ones is a public address."""
    value = int(inner)
    public = int(IPv4Address("8.8.8.8"))
    values = [
        value,
        0xFFFF << 32 | value,
        0xFFFF << 48 | value,
        0x64FF9B << 96 | value,
        0x2002 << 112 | value << 80 | 1,
        0x20010000 << 96 | public << 64 | value ^ 0xFFFFFFFF,
    ]
    return [str(IPv6Address(each)) for each in values if each > 1]


@given(st.ip_addresses(v=4))
def test_an_ipv6_form_of_an_ipv4_address_is_judged_as_that(inner: IPv4Address) -> None:
    for policy in (STRICT, OPEN):
        for outer in embeddings(inner):
            assert blocked_reason(outer, policy) == blocked_reason(str(inner), policy)


def test_the_server_of_a_teredo_address_is_judged_too() -> None:
    address = IPv6Address(0x20010000 << 96 | int(IPv4Address("10.0.0.1")) << 64 | 0x08080808 ^ 0xFFFFFFFF)
    assert blocked_reason(str(address), STRICT) == "private network 10.0.0.0/8"


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.1.1", "100.64.0.1", "fd12::1", "fec0::1"])
def test_a_private_network_opens_with_allow_private(address: str) -> None:
    assert blocked_reason(address, AddressPolicy.of(allow_private=True)) == ""
    assert blocked_reason(address, AddressPolicy.of(allow_loopback=True)) != ""


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_loopback_opens_with_allow_loopback_only(address: str) -> None:
    assert blocked_reason(address, AddressPolicy.of(allow_loopback=True)) == ""
    assert blocked_reason(address, AddressPolicy.of(allow_private=True)) != ""


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "fd00:ec2::254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "ff02::1",
        "4000::1",
        "fe80::1%lo",
    ],
)
def test_nothing_but_the_allowed_list_opens_metadata_multicast_and_reserved(address: str) -> None:
    assert blocked_reason(address, OPEN) != ""


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("127.0.0.1", "127.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.0/8"),
        ("fd00::1", "fd00::/8"),
        ("240.0.0.1", "0.0.0.0/0"),
    ],
)
def test_what_is_allowed_explicitly_may_be_dialled(address: str, allowed: str) -> None:
    assert blocked_reason(address, AddressPolicy.of([allowed])) == ""


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"])
def test_what_is_blocked_explicitly_is_blocked_though_it_is_allowed_too(address: str) -> None:
    policy = AddressPolicy.of(["0.0.0.0/0", "::/0"], ["8.8.8.0/24"])
    assert blocked_reason(address, policy) == "blocked network 8.8.8.0/24"


@pytest.mark.parametrize("bad", ["10.0.0.0/33", "10.0.0.1/8", "example.com", "", "fe80::/129"])
def test_a_network_that_is_none_is_refused_by_name(bad: str) -> None:
    for build in (lambda: AddressPolicy.of([bad]), lambda: AddressPolicy.of(["10.0.0.0/8"], ["::/0", bad])):
        with pytest.raises(ValueError, match="not a network") as refused:
            build()
        assert repr(bad) in str(refused.value)


@given(st.text())
def test_any_text_is_judged(text: str) -> None:
    assert isinstance(blocked_reason(text, STRICT), str)
    literal = literal_address(text)
    assert literal is None or literal_address(literal) == literal


@st.composite
def spellings(draw: st.DrawFn) -> tuple[IPv4Address, str]:
    """An IPv4 address and one of the ways a resolver would read it from."""
    address = draw(st.ip_addresses(v=4))
    assert isinstance(address, IPv4Address)
    leading = draw(st.integers(0, 3))
    octets = address.packed
    numbers = [*octets[:leading], int.from_bytes(octets[leading:], "big")]
    zeros = st.integers(0, 5).map(lambda count: "0" * count)
    forms = [
        lambda number: str(number),
        lambda number: f"0{draw(zeros)}{number:o}",
        lambda number: f"0x{draw(zeros)}{number:x}",
        lambda number: f"0X{draw(zeros)}{number:X}",
    ]
    parts = [draw(st.sampled_from(forms))(number) for number in numbers]
    return address, ".".join(parts) + draw(st.sampled_from(["", "."]))


@given(spellings())
def test_every_spelling_of_an_ipv4_address_is_that_address(case: tuple[IPv4Address, str]) -> None:
    address, spelling = case
    assert literal_address(spelling) == str(address)


@given(st.ip_addresses(v=6))
def test_every_spelling_of_an_ipv6_address_is_that_address(address: IPv6Address) -> None:
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    dotted = ":".join(address.exploded.split(":")[:6]) + f":{low}"
    for spelling in (address.compressed, address.exploded, address.exploded.upper(), dotted):
        assert literal_address(spelling) == literal_address(f"[{spelling}]") == str(address)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "example.com",
        "1.2.3.4.5",
        "256.1.1.1",
        "1.2.3.256",
        "1.2.65536",
        "4294967296",
        "08.1.1.1",
        "0x",
        "0xg.1",
        "1..2",
        "1.2.3.4..",
        "-1",
        "+1",
        "1_0.1",
        " 1.2.3.4",
        "\u0661.2.3.4",
        "[1.2.3.4]",
        "[::1",
        "1::2::3",
        "9" * 10_000,
    ],
)
def test_what_is_no_address_is_taken_for_a_name(name: str) -> None:
    assert literal_address(name) is None


def test_a_zone_is_kept_so_that_the_guard_refuses_it() -> None:
    assert literal_address("[fe80::1%eth0]") == "fe80::1%eth0"
