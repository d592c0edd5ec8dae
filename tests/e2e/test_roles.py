"""Single roles as processes of their own, one after the other on one data directory: each does its part and no more."""

import json
import sys
from pathlib import Path

import pytest
from tests.e2e.harness import Howk, Receiver, Reply, connected, until

pytestmark = pytest.mark.e2e

SETTINGS = {"HOWK_RETRY_BASE_DELAY": "100ms", "HOWK_RETRY_JITTER": "0", "HOWK_DELIVERY_DRAIN": "2s"}


class Part(Howk):
    """Some roles on the data directory that tests share."""

    def __init__(self, home: Path, *roles: str, **settings: str) -> None:
        super().__init__(home, SETTINGS | settings)
        self.roles = roles

    def command(self, *arguments: str) -> list[str]:
        ports = ("--port", "0", "--metrics-port", "0") if self.roles[0] == "run" else _port_of(self.roles[0])
        where = (*ports, "--data-dir", str(self.data_dir), "--log-format", "json")
        return [sys.executable, "-m", "howk", *self.roles, *where, *arguments]


def _port_of(role: str) -> tuple[str, str]:
    return ("--port" if role in ("api", "up") else "--metrics-port", "0")


async def test_a_worker_alone_drains_what_an_api_alone_accepted(tmp_path: Path) -> None:
    async with Receiver() as receiver:
        async with Part(tmp_path, "api") as api:
            ids = [await api.enqueue(receiver.url("/hook")) for _ in range(20)]
            assert "worker (nothing is sent" in api.said("partly_running")[0]["message"]
            assert (await api.status(ids[0]))["state"] == "pending"
            assert await api.stop() == 0
        assert receiver.starts == []
        async with Part(tmp_path, "worker") as worker:
            await receiver.wait_for(lambda: receiver.delivered == set(ids), "every webhook arrives")
            async with connected(worker.port) as connection:
                assert (await connection.request("GET", "/health")).status == 200
                assert b"howk_attempts_total" in (await connection.request("GET", "/metrics")).body
                refused = await connection.request("POST", "/webhooks/e2e/enqueue", b"{}")
            assert refused.status == 404
            assert "the role api takes webhooks" in refused.json()["detail"]
            assert await worker.stop() == 0
        async with Part(tmp_path, "api") as api:
            statuses = await api.statuses(ids)
            assert {status["state"] for status in statuses.values()} == {"delivered"}
    assert receiver.repeated() == {}


async def test_a_retry_is_made_once_scheduler_and_worker_have_each_had_their_turn(tmp_path: Path) -> None:
    async with Receiver(lambda start: Reply(500 if start.attempt == 1 else 200)) as receiver:
        async with Part(tmp_path, "run", "api", "worker") as both:
            id_ = await both.enqueue(receiver.url("/hook"))
            await both.reach([id_], "failed")
            assert await both.stop() == 0
        async with Part(tmp_path, "scheduler") as scheduler:

            async def put_back() -> bool:
                async with connected(scheduler.port) as connection:
                    metrics = (await connection.request("GET", "/metrics")).body
                return b"howk_log_append_seconds_count 1.0" in metrics

            await until(put_back, "the retry is in the log")
            assert len(receiver.starts) == 1
            assert await scheduler.stop() == 0
        async with Part(tmp_path, "worker") as worker:
            await receiver.wait_for(lambda: id_ in receiver.delivered, "the retry arrives")
            assert await worker.stop() == 0
    assert [start.attempt for start in receiver.starts] == [1, 2]


async def test_a_second_role_on_the_directory_is_refused_with_the_first_ones_process(tmp_path: Path) -> None:
    async with Part(tmp_path, "api") as first:
        for role in ("up", "api", "worker", "scheduler", "reconciler"):
            second = Part(tmp_path, role)
            await second.launch()
            assert await second.ended() == 1, role
            said = "".join(line["message"] for line in second.lines)
            assert f"in use by another howk (process {first.pid})" in said
        assert await first.stop() == 0


async def test_the_reconciler_rebuilds_hot_state_that_was_deleted_and_ends(tmp_path: Path) -> None:
    def behave(start: object) -> Reply:
        return Reply(500 if getattr(start, "target", "") == "/fails" else 200)

    # No retry comes after its status was asked for.
    patient = {"HOWK_RETRY_BASE_DELAY": "1h"}
    async with Receiver(behave) as receiver, Part(tmp_path, "run", "api", "worker", **patient) as both:
        good = [await both.enqueue(receiver.url("/hook")) for _ in range(5)]
        failing = await both.enqueue(receiver.url("/fails"))
        await both.reach(good, "delivered")
        await both.reach([failing], "failed")
        before = await both.statuses([*good, failing])
        assert await both.stop() == 0
    for name in ("hot.db", "hot.db-wal", "hot.db-shm"):
        (tmp_path / "data" / name).unlink(missing_ok=True)

    for arguments in (["--json"], ["--json", "--from-beginning"]):
        reconciler = Part(tmp_path, "reconciler")
        await reconciler.launch(*arguments)
        assert await reconciler.ended() == 0
        document = json.loads("\n".join(reconciler.printed))
        assert (document["hot_state"], document["waiting_for_a_retry"], document["ended"]) == ("whole", 1, 5)
        assert len(reconciler.said("rebuild_finished")) == 1

    async with Part(tmp_path, "api") as api:
        assert api.said("rebuild_started") == []
        assert await api.statuses([*good, failing]) == before
