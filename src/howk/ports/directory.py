"""What a room may know of the control plane: asked on the loop, answered from memory, never a round trip."""

from typing import NamedTuple, Protocol


class Limits(NamedTuple):
    """What a scope sets for each of its endpoints; 0 leaves it to the deployment.

    `per_second` and `burst` are requests, `max_in_flight` calls at once, `timeout` seconds of one attempt. With
    `skip_after` a delivery with an ordering key lets the next one go after so many failed attempts; 0 never does.
    """

    per_second: float = 0.0
    burst: float = 0.0
    max_in_flight: int = 0
    timeout: float = 0.0
    skip_after: int = 0


NO_LIMITS = Limits()


class Directory(Protocol):
    """See the module."""

    def limits(self, scope: str) -> Limits:
        """What the scope sets, `NO_LIMITS` when it sets nothing."""
        ...
