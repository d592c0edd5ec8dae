"""What an owner's commands are answered with, and how an endpoint is shown: why what is for it is held, or dead."""

from typing import Literal

from msgspec import Struct

from howk.domain.breaker import Circuit
from howk.domain.delivery import Status
from howk.domain.settlement import EndpointCommand
from howk.flow.command import Named
from howk.web.problems import Problem
from howk.web.times import rfc3339

ENDPOINT_VERBS: dict[str, EndpointCommand] = {
    "endpoints:enable": "enable",
    "endpoints:pause": "pause",
    "endpoints:release": "release",
}
_NEW = Circuit()


class Cancelling(Struct, frozen=True, forbid_unknown_fields=True):
    """The command is on disk: the webhook ends as cancelled, unless it is delivered before."""

    webhook_id: str
    status: Literal["cancelling"] = "cancelling"


class EndpointCommanded(Struct, frozen=True, forbid_unknown_fields=True):
    """The command is on disk and will be carried out."""

    endpoint_id: str
    endpoint: str
    command: EndpointCommand


class EndpointShown(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An endpoint as it stands. Times are RFC 3339."""

    endpoint_id: str
    endpoint: str
    breaker: Literal["closed", "open", "half_open"]
    disabled: bool
    disabled_reason: str | None
    paused: bool
    next_probe_at: str | None


def endpoint_shown(named: Named, circuit: Circuit | None) -> EndpointShown:
    """One of which nothing is known is well."""
    found = circuit or _NEW
    probing = found.state != "closed" and not found.paused and not found.disabled
    return EndpointShown(
        endpoint_id=named.id,
        endpoint=named.url,
        breaker=found.state,
        disabled=bool(found.disabled),
        disabled_reason=found.disabled or None,
        paused=found.paused,
        next_probe_at=rfc3339(found.probe_at) if probing else None,
    )


def already_ended(status: Status) -> Problem:
    """The refusal of a command that comes too late."""
    why = f" ({status.reason_type})" if status.reason_type else ""
    return Problem(409, "already_ended", f"the webhook has ended already: it is {status.state}{why}")
