"""A disk that fills up while howk runs, shown by a limit on the size of its files: nothing acknowledged is lost, what
can't be written is refused, and it goes on by itself when there is room."""

import resource
from pathlib import Path

import pytest
from tests.e2e.harness import Howk, Receiver, Reply, connected, envelope, until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits of another process are Linux's own"),
]

_ROOM = 300_000
_LARGE = b'"%b"' % (b"x" * 20_000)


def _limit(howk: Howk, size: int) -> None:
    _, hard = resource.prlimit(howk.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(howk.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_a_full_disk_refuses_loses_nothing_and_is_over_by_itself(tmp_path: Path) -> None:
    settings = {"HOWK_DELIVERY_TIMEOUT": "10m"}
    async with Receiver(lambda _: Reply(0)) as receiver, Howk(tmp_path, settings) as howk:
        held = await howk.enqueue(receiver.url())
        await receiver.wait_for(lambda: receiver.in_flight == 1, "an attempt is under way")
        _limit(howk, (howk.data_dir / "log.db-wal").stat().st_size + _ROOM)
        accepted = [held]
        async with connected(howk.port) as connection:
            # The large ones are refused first, and then what is so small that not even an outcome has room.
            for payload in (_LARGE, b"1"):
                for _ in range(200):
                    answer = await connection.request(
                        "POST", "/webhooks/e2e/enqueue", envelope(receiver.url(), payload)
                    )
                    if answer.status != 202:
                        break
                    accepted.append(answer.json()["webhook_id"])
                assert answer.status == 503
                assert "disk" in answer.json()["detail"]

            async def is_ready() -> bool:
                return (await connection.request("GET", "/ready")).status == 200

            async def is_not_ready() -> bool:
                return not await is_ready()

            # Each question writes a little too, so the last of the room is soon gone.
            await until(is_not_ready, "readiness tells of the full disk")
            # Outcomes that can't be written wait in memory, and are not sent again for it.
            receiver.behave = lambda _: Reply()
            receiver.release()
            await howk.heard("stage_retry")
            _limit(howk, resource.RLIM_INFINITY)

            await until(is_ready, "there is room again")
            answer = await connection.request("POST", "/webhooks/e2e/enqueue", envelope(receiver.url(), _LARGE))
            assert answer.status == 202
            accepted.append(answer.json()["webhook_id"])
        await howk.reach(accepted, "delivered")
        assert await howk.stop() == 0
    assert receiver.repeated() == {}
    assert {start.id for start in receiver.starts} == set(accepted)


async def test_howk_stops_on_a_full_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    settings = {"HOWK_DELIVERY_DRAIN": "1s", "HOWK_DELIVERY_TIMEOUT": "10m"}
    async with Receiver(lambda _: Reply(0)) as receiver, Howk(tmp_path, settings) as howk:
        webhook_id = await howk.enqueue(receiver.url())
        await receiver.wait_for(lambda: receiver.in_flight == 1, "an attempt is under way")
        _limit(howk, 4_096)
        receiver.behave = lambda _: Reply()
        receiver.release()
        await howk.heard("stage_retry")
        assert await howk.stop() == 0
        await howk.start()
        await howk.reach([webhook_id], "delivered")
