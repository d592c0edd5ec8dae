"""A whole house meets every hostile receiver: the status of the delivery says what came of it and why."""

from pathlib import Path

import pytest
from tests.adapters.outbound.support import PATIENCE, until
from tests.hostile.corpus import CORPUS, Hostile
from tests.hostile.house import housed, url
from tests.hostile.scene import Scene
from tests.hostile.test_hostile_sender import BOUNDS
from tests.support import Corridor

from howk.domain.delivery import Status

_STATES = {"delivered": "delivered", "retried": "failed", "dead": "dead"}
_LONGEST_WAIT = 24 * 3_600_000


async def _deliver(corridor: Corridor, url: str, size: int) -> Status:
    """The status of a delivery that was tried once."""
    webhook_id = await corridor.send(url, b'"' + b"x" * (size - 2) + b'"')
    return await corridor.until(webhook_id, lambda status: status.state in _STATES.values())


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
async def test_the_status_is_the_one_that_is_told(scene: Scene, tmp_path: Path, hostile: Hostile) -> None:
    port = await scene.open(hostile.host, hostile.lookups, hostile.place)
    bounds = {name: seconds if name == hostile.until else PATIENCE for name, seconds in BOUNDS.items()}
    async with housed(
        scene, tmp_path, **{name.replace(".", "__"): value for name, value in bounds.items()}
    ) as corridor:
        sender = corridor.engines.sender
        for _ in range(hostile.calls - 1):
            assert (await _deliver(corridor, url(hostile, port), 2)).state == "delivered"
            if hostile.waits:
                await until(lambda: not sender.connections().open)
        status = await _deliver(corridor, url(hostile, port), hostile.request)
        await until(lambda: hostile.kept is None or sender.connections().open == hostile.kept)
        assert sender.in_flight() == 0
    assert (scene.connections, scene.trapped) == (hostile.connections, 0)
    assert (status.state, status.attempts) == (_STATES[hostile.outcome], 1)
    assert (status.last_status_code, status.reason_type) == (hostile.status, hostile.reason)
    assert status.last_error.startswith(hostile.error) if hostile.error else not status.last_error
    due = status.next_retry_at - corridor.clock.now()
    assert 0 < due <= _LONGEST_WAIT if hostile.outcome == "retried" else not status.next_retry_at
    # Whatever a receiver does is no fault of howk's.
    assert {event for event, _ in corridor.notes.lines} <= {"key_generated"}
