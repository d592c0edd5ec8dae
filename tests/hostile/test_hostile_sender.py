"""The outbound sender meets every hostile receiver: outcome, reason, time, bytes, and nothing left behind."""

import pytest
from tests.adapters.outbound.support import LOOPBACK, PATIENCE, send_one, until
from tests.hostile.corpus import CORPUS, Hostile
from tests.hostile.scene import Scene

from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.resolve import SystemResolver
from howk.adapters.outbound.sender import OutboundSender
from howk.domain.outcome import judge_answer
from howk.ports.sender import Answer, Call, Origin

BOUNDS = {"delivery.timeout": 0.4, "delivery.connect_timeout": 0.25, "delivery.tls_handshake_timeout": 0.25}
# How late a loop that has other work may be.
_LATE = 10.0


def options(scene: Scene, hostile: Hostile) -> SenderOptions:
    """Deadlines that the receiver can't let pass are short, and those it could are far."""
    bounds = {name: seconds if name == hostile.until else PATIENCE for name, seconds in BOUNDS.items()}
    return SenderOptions(
        policy=LOOPBACK,
        tls=scene.authority.client(),
        connect_timeout=bounds["delivery.connect_timeout"],
        tls_handshake_timeout=bounds["delivery.tls_handshake_timeout"],
    )


def call_to(hostile: Hostile, port: int) -> Call:
    timeout = BOUNDS["delivery.timeout"] if hostile.until == "delivery.timeout" else PATIENCE
    return Call(Origin(hostile.scheme, hostile.host, port), b"/hook", b"", b"x" * hostile.request, timeout)


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: hostile.name)
async def test_the_outcome_is_the_one_that_is_told(scene: Scene, hostile: Hostile) -> None:
    port = await scene.open(hostile.host, hostile.lookups, hostile.place)
    sender = OutboundSender(chosen := options(scene, hostile), SystemResolver(fresh_for=0.0))
    try:
        for _ in range(hostile.calls - 1):
            first = await send_one(sender, call_to(hostile, port))
            assert (first.status, first.failure, first.body) == (200, "", b"ok")
            if hostile.waits:
                await until(lambda: not sender.open_connections)
        answer = await send_one(sender, call_to(hostile, port))
        _check(hostile, answer, chosen)
        await until(lambda: sender.open_connections == sender.idle_connections and _is_kept(hostile, sender))
        assert (sender.in_flight(), sender.origins) == (0, sender.idle_connections)
        assert (scene.connections, scene.trapped) == (hostile.connections, 0)
    finally:
        await sender.close()


def _is_kept(hostile: Hostile, sender: OutboundSender) -> bool:
    return hostile.kept is None or sender.open_connections == hostile.kept


def _check(hostile: Hostile, answer: Answer, chosen: SenderOptions) -> None:
    outcome, reason, error = judge_answer(answer.status, answer.failure, answer.error)
    told = {"delivered": "delivered", "retried": "failed", "dead": "rejected"}[hostile.outcome]
    assert (answer.status, outcome, reason) == (hostile.status, told, hostile.reason)
    assert error[: len(hostile.error) or None] == hostile.error
    assert answer.truncated == hostile.cut
    assert len(answer.body) <= chosen.capture
    # One read of a socket beyond the bound.
    assert answer.size <= chosen.drain_limit + chosen.max_header + (256 << 10)
    assert sum(len(name) + len(value) for name, value in answer.headers) <= chosen.max_header
    bound = BOUNDS.get(hostile.until, 0.0)
    assert answer.timings.total < bound + _LATE
    if bound and hostile.outcome != "delivered":
        assert answer.timings.total > bound * 0.9
