"""Reading a receiver's URL and its headers: text from a tenant comes in, the parts a request is made of come
out, or a sentence that says what is wrong. Nothing here resolves a name or judges an address.

Grammar: RFC 3986, with the host as resolvers and IDNA (RFC 3490) read it; header fields: RFC 9110, section 5.
"""

import re
from base64 import b32encode
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from howk.domain.addresses import literal_address

MAX_URL = 8192
MAX_HEADER_NAME = 256
MAX_HEADER_VALUE = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}

ENDPOINT_IDS = "ep_"
"""What the id of every endpoint begins with."""

_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\s\ud800-\udfff]")
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
_MAY_HIDE = re.compile(r"[@?#]")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_NOT_IN_TARGET = re.compile(r"[^!$%&'()*+,\-./0-9:;=?@A-Z_a-z~]")
_NOT_IN_USERINFO = re.compile(r"[^!$%&'()*+,\-.0-9:;=A-Z_a-z~]")


class Endpoint(NamedTuple):
    """A URL in parts. `host` has no brackets; its repr leaves out what may be secret."""

    scheme: str
    host: str
    port: int
    public: str
    """The URL without userinfo, query and fragment."""
    query: str
    userinfo: str
    target: bytes
    """Path and query as they stand on the request line."""

    def __repr__(self) -> str:
        return f"Endpoint({self.public!r})"


@lru_cache(maxsize=4096)
def parse_endpoint(url: str) -> Endpoint:
    """Raises ValueError, with a sentence for the tenant, for anything that is not a usable http or https URL.

    Equal endpoints come out of every spelling: host in lower case and IDNA form, addresses canonical, the
    default port left out, what a URL can't hold percent-encoded as UTF-8, fragment and final dot dropped.
    """
    if len(url) > MAX_URL:
        raise ValueError(f"The URL is longer than {MAX_URL} characters.")
    if _UNSAFE.search(url):
        raise ValueError("The URL contains spaces or control characters; percent-encode them.")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in _DEFAULT_PORTS:
        raise ValueError("The URL has to begin with http:// or https://.")
    rest = rest.partition("#")[0]
    start = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    path, _, query = rest[start:].partition("?")
    userinfo, _, host_and_port = rest[:start].rpartition("@")
    if "\\" in rest[:start]:
        raise ValueError("The URL has a backslash before its path, where it has no clear meaning.")
    if "@" in userinfo:
        raise ValueError("The URL has more than one @ before its host; write %40 for those in the password.")
    host, port = _host_and_port(host_and_port, _DEFAULT_PORTS[scheme])
    path = _NOT_IN_TARGET.sub(_escaped, path) or "/"
    query = _NOT_IN_TARGET.sub(_escaped, query)
    userinfo = _NOT_IN_USERINFO.sub(_escaped, userinfo)
    authority = f"[{host}]" if ":" in host else host
    if port != _DEFAULT_PORTS[scheme]:
        authority += f":{port}"
    public = f"{scheme}://{authority}{path}"
    if len(rejoin(public, userinfo, query)) > MAX_URL:
        raise ValueError(f"The URL is longer than {MAX_URL} characters once it is percent-encoded.")
    target = f"{path}?{query}" if query else path
    return Endpoint(scheme, host, port, public, query, userinfo, target.encode("ascii"))


def rejoin(public: str, userinfo: str, query: str) -> str:
    """The whole URL again: `parse_endpoint` of it gives the endpoint that the parts came from."""
    if userinfo:
        scheme, _, rest = public.partition("://")
        public = f"{scheme}://{userinfo}@{rest}"
    return f"{public}?{query}" if query else public


def public_form(url: str) -> str:
    """Any text that stands for a URL, without what could be a userinfo, query or fragment in it."""
    if not _MAY_HIDE.search(url):
        return url
    url = url.partition("#")[0].partition("?")[0]
    scheme, separator, rest = url.partition("://")
    if not separator or "@" in scheme:
        return url.rpartition("@")[2]
    authority, slash, path = rest.partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"


@lru_cache(maxsize=16_384)
def endpoint_id(scope: str, public: str) -> str:
    """The id of a direct delivery's endpoint, `ep_` and 26 characters: one for a scope and a URL without userinfo and
    query, so that tenants share no endpoint, and what is kept of one needs no URL as its key."""
    digest = sha256(f"{scope}\n{public}".encode()).digest()
    return ENDPOINT_IDS + b32encode(digest).decode()[:26]


def _escaped(match: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in match.group().encode()])


def _host_and_port(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, after = text.partition("]")
        host += bracket
        colon, port = after[:1], after[1:]
        if colon not in ("", ":"):
            raise ValueError("The URL has something other than a port after its IPv6 address.")
    else:
        host, _, port = text.partition(":")
    if not host:
        raise ValueError("The URL has no host.")
    return _host(host), _port(port, default_port)


def _port(text: str, default: int) -> int:
    if not text:
        return default
    port = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= port <= 65535:
        raise ValueError("The port of the URL has to be a number from 1 to 65535.")
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        literal = None if "%" in text else literal_address(text)
        if literal is None:
            raise ValueError("The host of the URL is not an IPv6 address; a zone (%eth0) can't be used.")
        return literal
    host = _ascii_host(text).removesuffix(".").lower()
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(
            "The host of the URL is not valid: labels of 1 to 63 letters, digits, - or _, at most 253 in all."
        )
    literal = literal_address(host)
    if literal is None and _NUMERIC_LABEL.fullmatch(labels[-1]):
        raise ValueError("The host of the URL ends in a number but is not an IPv4 address.")
    return literal or host


def _ascii_host(text: str) -> str:
    if text.isascii():
        return text
    # Before the codec, whose work grows with the square of the length.
    if len(text) > 253:
        raise ValueError("The host of the URL is longer than 253 characters.")
    try:
        return text.encode("idna").decode("ascii")
    except UnicodeError as error:
        raise ValueError("The host of the URL is not a valid international name (IDNA).") from error


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")
RESERVED = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
        "x-webhook-id",
        "x-webhook-attempt",
        "x-webhook-timestamp",
        "x-webhook-event",
        "x-webhook-signature",
        "x-harborhook-signature",
        "x-harborhook-timestamp",
    }
)
"""Header names (lower case) that a tenant can't set: they frame the request or are howk's own word."""
_RESERVED_PREFIXES = ("proxy-", "x-harborhook-")


def header_problem(name: str, value: str) -> str:
    """Why a tenant's own header can't be sent, as a sentence; "" when it can."""
    if not _TOKEN.fullmatch(name):
        return "A header name has to be made of letters, digits and !#$%&'*+-.^_`|~ only."
    if len(name) > MAX_HEADER_NAME:
        return f"A header name may have at most {MAX_HEADER_NAME} characters."
    lower = name.lower()
    if lower in RESERVED or lower.startswith(_RESERVED_PREFIXES):
        return f"The header {lower} is set by the sender and can't be given."
    if _NOT_IN_VALUE.search(value):
        return "A header value may not contain line breaks or other control characters."
    if len(value.encode()) > MAX_HEADER_VALUE:
        return f"A header value may have at most {MAX_HEADER_VALUE} bytes."
    return ""
