"""Which address the door may be opened on, and what an open door allows: decided from the settings before anything
starts, refused in words."""

import contextlib
import resource
import socket
from ipaddress import ip_address
from typing import NamedTuple

from howk.domain.addresses import AddressPolicy
from howk.domain.errors import Permanent
from howk.runtime.settings import Settings

_MOST_CONNECTIONS = 8_192
_FEWEST_CONNECTIONS = 64


class Trust(NamedTuple):
    """`keys` are hashes that open the door, none when it is open. In `trial` mode receivers on this machine are
    allowed."""

    keys: tuple[str, ...]
    loopback: bool
    trial: bool


def trust(settings: Settings) -> Trust:
    """Raises `Permanent` for a door that strangers could use."""
    api = settings.api
    loopback = is_loopback(api.host)
    keys = () if api.auth == "none" else api.keys
    if api.auth == "keys" and not keys:
        raise Permanent("api.auth is keys, but api.keys is empty: set HOWK_API_KEYS to the SHA-256 of a key")
    if not loopback and not keys:
        raise Permanent(
            f"api.host is {api.host}, which others can reach, and no key is needed to call it: set HOWK_API_KEYS to "
            "the SHA-256 of a key (printf %s YOUR_KEY | sha256sum), or keep the default 127.0.0.1"
        )
    delivery = settings.delivery
    # Behind a proxy a loopback address is the proxy's own machine.
    trial = loopback and not keys and delivery.allow_private_networks is None and not delivery.proxy
    return Trust(keys, loopback, trial)


def policy(settings: Settings, trust: Trust) -> AddressPolicy:
    """Which receivers may be dialled."""
    delivery = settings.delivery
    private = delivery.allow_private_networks is True
    return AddressPolicy(
        allow_private=private,
        allow_loopback=private or trust.trial,
        allowed=delivery.allowed_networks,
        blocked=delivery.blocked_networks,
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than localhost may be anything."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int, setting: str = "--port or HOWK_API_PORT") -> socket.socket:
    """A bound socket. Raises `Permanent` in words, which name the setting that chooses another port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family, socket.SOCK_STREAM)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        door.listen(2048)
        door.setblocking(False)
    except OSError as error:
        door.close()
        raise Permanent(
            f"can't listen on {host} port {port} ({error.strerror}): choose another with {setting}"
        ) from error
    return door


def url_of(door: socket.socket, *, tls: bool = False) -> str:
    """What a client writes to reach it."""
    host, port = door.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def room_for_connections() -> int:
    """How many connections the door keeps: at most half of the files this process may open, which it first raises as
    far as it is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return _MOST_CONNECTIONS
    return max(_FEWEST_CONNECTIONS, min(_MOST_CONNECTIONS, allowed // 2))
