"""A running house whose sender believes the authority of the tests and looks each name up
anew; all else is as wired."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.authority import Authority
from tests.hostile.corpus import Hostile
from tests.support import NOW, TRIAL, Corridor, Notes, serving, settings

from howk.adapters.outbound.resolve import SystemResolver
from howk.adapters.outbound.sender import OutboundSender
from howk.runtime.observability import Metrics
from howk.runtime.wiring import SystemRandom, Tools, engines, sender_options, wire
from howk.testing.clock import ManualClock


@contextlib.asynccontextmanager
async def housed(authority: Authority, folder: Path, **values: Any) -> AsyncGenerator[Corridor]:
    """Every stage running, as `tests.support.running`."""
    clock, metrics, notes = ManualClock(NOW), Metrics(), Notes()
    tools = Tools(clock, SystemRandom(), metrics, notes)
    tree = settings(folder, **values)
    async with engines(tree, TRIAL, tools) as found:
        options = replace(sender_options(tree, TRIAL), tls=authority.client())
        sender = OutboundSender(options, SystemResolver(fresh_for=0.0))
        try:
            house = wire(tree, TRIAL, found._replace(sender=sender), tools)
            async with serving(house):
                yield Corridor(house, clock, metrics, notes)
        finally:
            await sender.close()


def url(hostile: Hostile, port: int) -> str:
    return f"{hostile.scheme}://{hostile.host}:{port}/hook"
