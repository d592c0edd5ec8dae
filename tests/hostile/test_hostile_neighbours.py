"""A whole zoo of hostile receivers beside healthy ones: nobody waits for it."""

from pathlib import Path

from tests.hostile.behaviours import OK, says
from tests.hostile.corpus import CORPUS, Hostile
from tests.hostile.house import housed, url
from tests.hostile.scene import NAME, Scene

_HEALTHY = 10
_EACH = 10
_IN_TURN = 5


async def _zoo(scene: Scene) -> list[tuple[Hostile, str]]:
    """All of them at once, those of the same name under names of their own."""
    found: list[tuple[Hostile, str]] = []
    for number, hostile in enumerate(CORPUS):
        if hostile.calls > 1:
            continue
        own = hostile._replace(host=f"{number}.{NAME}") if hostile.host == NAME else hostile
        port = await scene.open(own.host, own.lookups, own.place)
        found.append((own, url(own, port)))
    return found


async def test_healthy_receivers_get_theirs_at_the_first_attempt_while_the_zoo_is_still_at_it(
    scene: Scene, tmp_path: Path
) -> None:
    zoo = await _zoo(scene)
    healthy = [await scene.serve(says(OK)) for _ in range(_HEALTHY)]
    # No deadline ends a receiver that hangs: whoever waited for one would wait for ever.
    async with housed(scene, tmp_path, delivery__timeout=600.0, delivery__connect_timeout=600.0) as corridor:
        hanging = [
            await corridor.send(where)
            for hostile, where in zoo
            for _ in range(_EACH)
            if hostile.until == "delivery.timeout"
        ]
        for hostile, where in zoo:
            await corridor.send(where, b'"' + b"x" * hostile.request + b'"')
        for _ in range(_IN_TURN):
            ids = [await corridor.send(f"http://127.0.0.1:{port}/") for port in healthy for _ in range(_EACH)]
            for id_ in ids:
                status = await corridor.ended(id_)
                assert (status.state, status.attempts, status.last_status_code) == ("delivered", 1, 200)
        still = [await corridor.status(id_) for id_ in hanging]
        assert {status.state for status in still if status} <= {"pending", "delivering", "deferred"}
        assert sum(status.state == "delivering" for status in still if status) >= len(hanging) // _EACH
