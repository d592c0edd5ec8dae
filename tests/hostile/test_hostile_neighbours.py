"""A whole zoo of hostile receivers beside healthy ones: nobody waits for it."""

from pathlib import Path

from tests.adapters.outbound.support import until
from tests.hostile.behaviours import OK, says
from tests.hostile.corpus import CORPUS, Hostile
from tests.hostile.house import housed, url
from tests.hostile.scene import NAME, Scene
from tests.support import running

_HEALTHY = 10
_EACH = 10
_IN_TURN = 5
_HUNG = 300


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
    async with housed(scene.authority, tmp_path, delivery__timeout=600.0, delivery__connect_timeout=600.0) as corridor:
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


async def test_names_that_hang_hold_up_neither_addresses_nor_other_names(scene: Scene, tmp_path: Path) -> None:
    scene.names.known |= {f"{n}.evil.example": [None] for n in range(_HUNG)}
    scene.names.known |= {f"good{n}.example": [("127.0.0.1",)] for n in range(_HEALTHY)}
    port = await scene.serve(says(OK))
    async with running(tmp_path, delivery__connect_timeout=600.0, delivery__timeout=600.0) as corridor:
        hanging = [await corridor.send(f"http://{n}.evil.example/") for n in range(_HUNG)]
        await until(lambda: len(scene.names.asked) > 1)
        for host in ("127.0.0.1", *(f"good{n}.example" for n in range(_HEALTHY))):
            status = await corridor.ended(await corridor.send(f"http://{host}:{port}/"))
            assert (status.state, status.attempts) == ("delivered", 1)
        still = [await corridor.status(id_) for id_ in hanging]
        assert {status.state for status in still if status} == {"delivering"}
