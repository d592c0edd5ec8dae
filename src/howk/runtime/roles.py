"""Which part of howk a process runs, and what is then missing: the names of the roles and the words about them."""

from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

Role = Literal["api", "worker", "scheduler", "reconciler"]

EVERY: frozenset[Role] = frozenset(("api", "worker", "scheduler"))
"""What `howk up` runs. Hot state is made whole by whichever role starts, so reconciler is no part of it."""

_MISSING: dict[Role, str] = {
    "api": "no webhook is taken in",
    "worker": "nothing is sent and no outcome is settled",
    "scheduler": "no retry that falls due is made",
}


class Rebuilding(NamedTuple):
    """How the role reconciler goes about it: `progress` is told the share that is done, and `whole` at the end how many
    deliveries wait for a retry and how many statuses are kept of ended ones."""

    from_beginning: bool = False
    progress: Callable[[float], None] = lambda _: None
    whole: Callable[[int, int], None] = lambda _waiting, _ended: None


def named(roles: Collection[Role]) -> str:
    """The roles in one word or two."""
    if set(roles) >= EVERY:
        return "howk"
    return f"howk {' and '.join(sorted(roles))}"


def missing(roles: Collection[Role]) -> str:
    """What does not happen while only these roles run, "" when everything does."""
    lacking = [f"{role} ({what})" for role, what in _MISSING.items() if role not in roles]
    if not lacking:
        return ""
    return (
        f"not running: {', '.join(lacking)}. One process at a time holds the data directory: `howk up` runs "
        "everything, `howk run` several roles in one process"
    )
