"""Command: what an owner asks of a delivery or an endpoint becomes a record on `results`, which settle decides like an
outcome. The answer says that the command is durable, not what has become of it.
"""

from typing import NamedTuple

from howk.domain.breaker import Circuit
from howk.domain.delivery import ENDED, Status
from howk.domain.endpoints import endpoint_id, parse_endpoint
from howk.domain.errors import FieldProblem, Rejected
from howk.domain.ids import RANDOM_BYTES, check_config_id, command_id
from howk.domain.records import NEWER, Result
from howk.domain.settlement import EndpointCommand
from howk.flow import journal
from howk.flow.journal import Journal
from howk.ports.clock import Clock, Random
from howk.ports.state import HotState


class Named(NamedTuple):
    """An endpoint of a config: its id, and its URL without userinfo and query, which are not part of what it is."""

    id: str
    url: str


class Command:
    """The room."""

    def __init__(self, log: Journal, state: HotState, clock: Clock, random: Random) -> None:
        self._journal = log
        self._state = state
        self._clock = clock
        self._random = random

    async def cancel(self, webhook_id: str) -> Status | None:
        """Ask for the end of a delivery: its status before, None where it is not known. One that has ended already is
        answered with and left alone."""
        status = (await self._state.status((webhook_id,)))[0]
        if status is None or status.state in ENDED:
            return status
        now = self._clock.now()
        result = Result(
            v=NEWER,
            id=webhook_id,
            scope=status.scope,
            outcome="cancel",
            at=now,
            command=command_id(now, self._random.bytes(RANDOM_BYTES)),
        )
        await self._journal.append([journal.outcome(result, status.ordering_key)])
        return status

    async def endpoint(self, scope: str, url: str, name: EndpointCommand) -> Named:
        """Enable, pause or release an endpoint of a config. Raises `Rejected` for what can't be one."""
        id_, public = named = _named(scope, url)
        now = self._clock.now()
        result = Result(
            v=NEWER,
            id=id_,
            scope=scope,
            outcome=name,
            at=now,
            endpoint=id_,
            command=command_id(now, self._random.bytes(RANDOM_BYTES)),
            url=public,
        )
        await self._journal.append([journal.outcome(result)])
        return named

    async def circuit(self, scope: str, url: str) -> tuple[Named, Circuit | None]:
        """An endpoint of a config and where it stands, None where nothing is known of it. Raises `Rejected`."""
        named = _named(scope, url)
        (row,) = (await self._state.standing((), (named.id,))).endpoints
        return named, row.circuit if row else None


def _named(scope: str, url: str) -> Named:
    check_config_id(scope)
    try:
        public = parse_endpoint(url).public
    except ValueError as error:
        raise Rejected("invalid_endpoint", str(error), [FieldProblem("endpoint", str(error))]) from error
    return Named(endpoint_id(scope, public), public)
