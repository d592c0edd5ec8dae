"""What an operator may set of the outbound sender. Bounds are in bytes and connections, times in seconds."""

import ssl
from dataclasses import dataclass, field

from howk.domain.addresses import AddressPolicy
from howk.domain.forward_proxy import ForwardProxy


@dataclass(frozen=True, slots=True)
class SenderOptions:
    """`connect_timeout` spans resolving and connecting, over all addresses of a name and the proxy's tunnel included;
    TLS has its own."""

    policy: AddressPolicy = field(default_factory=AddressPolicy)
    tls: ssl.SSLContext | None = None
    """None: the system's authorities, names checked."""
    proxy: ForwardProxy | None = None
    """What every connection goes through, by CONNECT."""
    connect_timeout: float = 5.0
    tls_handshake_timeout: float = 5.0
    max_idle: int = 1000
    """Idle connections over all origins; above it the one idle for longest is closed."""
    max_per_origin: int = 100
    """Connections of one origin, dialling ones included; calls above it wait in order."""
    idle_timeout: float = 60.0
    capture: int = 16 * 1024
    """How much of an answer's body is kept."""
    drain_limit: int = 1024 * 1024
    """How much of an answer's body is read to keep its connection; above it the connection is closed."""
    max_header: int = 64 * 1024
    """Status line and headers of an answer, interim answers included."""
