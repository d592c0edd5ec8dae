"""Which network addresses may be dialled. An IP literal and a policy come in, a reason to refuse comes out
("" for none). Names are not known here: whoever resolves one asks for every address it got.

Ranges: the IANA special-purpose address registries (RFC 6890) and the metadata services of the large clouds.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
_Opened = Literal["never", "loopback", "private"]


class AddressPolicy(NamedTuple):
    """What a deployment allows. `blocked` wins over `allowed`, and `allowed` over everything that follows.

    `allow_private` opens private, shared (CGNAT) and site-local networks, never link-local or metadata ones.
    """

    allow_private: bool = False
    allow_loopback: bool = False
    allowed: tuple[Network, ...] = ()
    blocked: tuple[Network, ...] = ()

    @classmethod
    def of(
        cls,
        allowed: Sequence[str] = (),
        blocked: Sequence[str] = (),
        *,
        allow_private: bool = False,
        allow_loopback: bool = False,
    ) -> "AddressPolicy":
        """From networks as an operator writes them ("10.0.0.0/8", "fd00::/8", "192.0.2.7")."""
        return cls(allow_private, allow_loopback, _networks(allowed), _networks(blocked))


def _networks(texts: Sequence[str]) -> tuple[Network, ...]:
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ip_network(text.strip()))
        except ValueError as error:
            raise ValueError(f"not a network: {text!r} (write it like 10.0.0.0/8 or fd00::/8)") from error
    return tuple(networks)


class _Range(NamedTuple):
    network: Network
    reason: str
    opened: _Opened


def _range(network: str, name: str, opened: _Opened = "never") -> _Range:
    return _Range(ip_network(network), f"{name} {network}", opened)


def _metadata(address: str) -> _Range:
    return _Range(ip_network(address), "cloud metadata address", "never")


# The first that matches decides.
_RANGES4 = (
    _metadata("169.254.169.254"),
    _metadata("100.100.100.200"),
    _Range(ip_network("127.0.0.0/8"), "loopback address", "loopback"),
    _range("10.0.0.0/8", "private network", "private"),
    _range("172.16.0.0/12", "private network", "private"),
    _range("192.168.0.0/16", "private network", "private"),
    _range("100.64.0.0/10", "shared network (CGNAT)", "private"),
    _Range(ip_network("169.254.0.0/16"), "link-local address (cloud metadata)", "never"),
    _Range(ip_network("0.0.0.0/32"), "unspecified address", "never"),
    _range("0.0.0.0/8", "reserved network"),
    _range("192.0.0.0/24", "reserved network"),
    _range("192.0.2.0/24", "documentation network"),
    _range("192.88.99.0/24", "reserved network"),
    _range("198.18.0.0/15", "benchmark network"),
    _range("198.51.100.0/24", "documentation network"),
    _range("203.0.113.0/24", "documentation network"),
    _Range(ip_network("224.0.0.0/4"), "multicast address", "never"),
    _Range(ip_network("255.255.255.255"), "broadcast address", "never"),
    _range("240.0.0.0/4", "reserved network"),
)
_RANGES6 = (
    _metadata("fd00:ec2::254"),
    _metadata("fd20:ce::254"),
    _Range(ip_network("::1"), "loopback address", "loopback"),
    _Range(ip_network("::"), "unspecified address", "never"),
    _range("fc00::/7", "private network", "private"),
    _range("fec0::/10", "private network (site-local)", "private"),
    _Range(ip_network("fe80::/10"), "link-local address", "never"),
    _Range(ip_network("ff00::/8"), "multicast address", "never"),
    # How the IPv4 address is laid out in it is a local choice, so it can't be judged.
    _range("64:ff9b:1::/48", "local NAT64 network"),
    _range("100::/64", "reserved network"),
    _range("2001:2::/48", "benchmark network"),
    _range("2001:db8::/32", "documentation network"),
    _range("2001::/23", "reserved network"),
    _range("3fff::/20", "documentation network"),
)
_GLOBAL6 = IPv6Network("2000::/3")
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")
# IPv4-compatible, -mapped, -translated and NAT64: the last 32 bits are the IPv4 address.
_WRAPPED = (
    IPv6Network("::/96"),
    IPv6Network("::ffff:0:0/96"),
    IPv6Network("::ffff:0:0:0/96"),
    IPv6Network("64:ff9b::/96"),
)


def blocked_reason(address: str, policy: AddressPolicy) -> str:
    """Why the IP literal `address` may not be dialled, in a few words; "" when it may.

    Takes some ten microseconds: a caller that asks often keeps the answer.
    """
    if "%" in address:
        return "address with a zone"
    try:
        parsed = ip_address(address)
    except ValueError:
        return "not an IP address"
    return _judged(parsed, policy)


def _judged(address: Address, policy: AddressPolicy) -> str:
    inner = _embedded(address)
    for candidate in (address, *inner):
        for network in policy.blocked:
            if candidate in network:
                return f"blocked network {network}"
    if any(address in network for network in policy.allowed):
        return ""
    if inner:
        return next(filter(None, (_judged(candidate, policy) for candidate in inner)), "")
    for network, reason, opened in _RANGES4 if address.version == 4 else _RANGES6:
        if address in network:
            if (opened == "loopback" and policy.allow_loopback) or (opened == "private" and policy.allow_private):
                return ""
            return reason
    return "reserved address" if address.version == 6 and address not in _GLOBAL6 else ""


def _embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that packets to an IPv6 address may end up at."""
    if isinstance(address, IPv4Address):
        return ()
    value = int(address)
    if value > 1 and any(address in network for network in _WRAPPED):
        return (IPv4Address(value & 0xFFFFFFFF),)
    if address in _SIX_TO_FOUR:
        return (IPv4Address(value >> 80 & 0xFFFFFFFF),)
    if address in _TEREDO:
        # Server, then the client with every bit flipped (RFC 4380, section 4).
        return (IPv4Address(value >> 64 & 0xFFFFFFFF), IPv4Address(~value & 0xFFFFFFFF))
    return ()


_NUMBER = re.compile(r"0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)")
_LONGEST_LITERAL = 255


def literal_address(host: str) -> str | None:
    """The address that `host` spells, as canonical text; None for a name.

    Knows what inet_aton(3) takes: one to four parts, decimal, octal (0177) or hexadecimal (0x7f), the last
    one filling what is left; one dot at the end is passed over. IPv6 may have brackets, and keeps its zone.
    """
    if len(host) > _LONGEST_LITERAL or not host.isascii():
        return None
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed or ":" in host:
        try:
            return str(IPv6Address(host[1:-1] if bracketed else host))
        except ValueError:
            return None
    return _ipv4_literal(host.removesuffix("."))


def _ipv4_literal(text: str) -> str | None:
    parts: list[int] = []
    for part in text.split("."):
        number = _NUMBER.fullmatch(part)
        if number is None or len(parts) == 4:
            return None
        hexadecimal, octal, decimal = number.groups()
        parts.append(int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal))
    *leading, last = parts
    if any(part > 0xFF for part in leading) or last >> 8 * (4 - len(leading)):
        return None
    value = last
    for position, part in enumerate(leading):
        value |= part << 8 * (3 - position)
    return str(IPv4Address(value))
