"""How each engine is asked whether it is well: engines come in, questions for the door's health page go out."""

from collections.abc import Callable

from howk.domain.budget import Fullness
from howk.ports.log import Log
from howk.ports.state import HotState
from howk.runtime.wiring import Engines
from howk.web.health import Dependency

_NOBODY = "wh_00000000000000000000000000"


def dependencies(engines: Engines, fullness: Callable[[], Fullness] = Fullness) -> tuple[Dependency, ...]:
    """The log (its writer and its reader), whether there is room in it, and hot state."""
    return (
        Dependency("log", lambda: _log(engines.log)),
        Dependency("log_room", lambda: _room(fullness())),
        Dependency("hot_state", lambda: _hot_state(engines.state)),
    )


async def _log(log: Log) -> str:
    await log.check()
    return ""


async def _room(fullness: Fullness) -> str:
    return fullness.closed


async def _hot_state(state: HotState) -> str:
    await state.status((_NOBODY,))
    condition = await state.condition()
    return "" if condition.valid else condition.reason
