"""A whole house meets every hostile receiver: the status of the delivery says what came of it and why, and nothing of
the meeting is left behind.
"""

from pathlib import Path

import pytest
from tests.adapters.outbound.support import PATIENCE, until
from tests.authority import Authority
from tests.hostile.behaviours import OK, says
from tests.hostile.corpus import CORPUS, GROUPS, Hostile
from tests.hostile.house import housed, url
from tests.hostile.scene import Names, Scene, set_up
from tests.hostile.test_hostile_sender import BOUNDS
from tests.support import Corridor

from howk.domain.delivery import Status

_STATES = {"delivered": "delivered", "retried": "failed", "dead": "dead"}
_LONGEST_WAIT = 24 * 3_600_000
_CASES = sorted({(group, each.until) for group, receivers in GROUPS.items() for each in receivers})


def _of(group: str, bound: str) -> list[Hostile]:
    return [each for each in GROUPS[group] if each.until == bound]


@pytest.mark.parametrize(("group", "bound"), _CASES, ids=str)
async def test_the_status_is_the_one_that_is_told(
    authority: Authority, names: Names, tmp_path: Path, group: str, bound: str
) -> None:
    # A deadline that the receivers can't let pass is short, and those they could are far.
    bounds = {name.replace(".", "__"): seconds if name == bound else PATIENCE for name, seconds in BOUNDS.items()}
    async with housed(authority, tmp_path, **bounds) as corridor:
        await _open_what_stays_open(authority, names, corridor)
        for hostile in _of(group, bound):
            async with set_up(authority, names) as scene:
                await _met(scene, corridor, hostile)
        # Whatever a receiver does is no fault of howk's.
        assert {event for event, _ in corridor.notes.lines} <= {"key_generated"}


def test_every_receiver_is_met() -> None:
    assert sum(len(_of(*case)) for case in _CASES) == len(CORPUS)


async def _open_what_stays_open(authority: Authority, names: Names, corridor: Corridor) -> None:
    async with set_up(authority, names, strict=False) as scene:
        assert (await _tried(corridor, f"http://127.0.0.1:{await scene.serve(says(OK))}/", 2)).state == "delivered"


async def _met(scene: Scene, corridor: Corridor, hostile: Hostile) -> None:
    port = await scene.open(hostile.host, hostile.lookups, hostile.place)
    sender = corridor.engines.sender
    for _ in range(hostile.calls - 1):
        assert (await _tried(corridor, url(hostile, port), 2)).state == "delivered"
        if hostile.waits:
            await until(lambda: not sender.connections().open)
    status = await _tried(corridor, url(hostile, port), hostile.request)
    assert (hostile.name, status.state, status.attempts) == (hostile.name, _STATES[hostile.outcome], 1)
    assert (hostile.name, status.last_status_code, status.reason_type) == (hostile.name, hostile.status, hostile.reason)
    assert (hostile.name, status.last_error[: len(hostile.error) or None]) == (hostile.name, hostile.error)
    await until(lambda: hostile.kept is None or sender.connections().open == hostile.kept)
    assert sender.in_flight() == 0
    assert (hostile.name, scene.connections, scene.trapped) == (hostile.name, hostile.connections, 0)
    due = status.next_retry_at - corridor.clock.now() if hostile.outcome == "retried" else 1
    assert 0 < due <= _LONGEST_WAIT


async def _tried(corridor: Corridor, url: str, size: int) -> Status:
    """The status of a delivery that was tried once."""
    webhook_id = await corridor.send(url, b'"' + b"x" * (size - 2) + b'"')
    return await corridor.until(webhook_id, lambda status: status.state in _STATES.values())
