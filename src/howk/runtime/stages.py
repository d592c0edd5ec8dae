"""The stages of one house: started in the order in which they rest on each other, and drained in reverse. Knows neither
the door nor signals, and no clock: what runs here runs alike in a service, in a test and in the simulation.
"""

import asyncio
from collections.abc import Callable

from howk.flow.stage import insist
from howk.ports.telemetry import Meter, Reporter
from howk.runtime.roles import Role
from howk.runtime.wiring import House


class Stages:
    """Every loop of a house whose engines are open. `recovered` says that hot state is whole and everything has
    begun."""

    def __init__(self, house: House, roles: frozenset[Role], meter: Meter, reporter: Reporter) -> None:
        self.recovered = False
        self._house = house
        self._roles = roles
        self._meter = meter
        self._reporter = reporter
        self._loops: list[asyncio.Task[None]] = []

    async def learn_configs(self) -> None:
        """Read what configs set: before the door is served and an attempt is made, which both act on it."""
        await insist(self._house.configs.catch_up, "control", self._meter, self._reporter)

    def start(
        self, group: asyncio.TaskGroup, *, from_beginning: bool = False, whole: Callable[[], None] = lambda: None
    ) -> None:
        """Begin what can begin now; the rest follows by itself. `whole` is called once everything has begun."""
        if "worker" in self._roles:
            self._loops.append(group.create_task(self._house.pace.run(), name="pace"))
        self._loops.append(group.create_task(self._house.control.run(), name="control"))
        self._loops.append(group.create_task(self._house.retention.run(), name="retention"))
        self._loops.append(group.create_task(self._open(group, from_beginning, whole), name="recover"))

    async def _open(self, group: asyncio.TaskGroup, from_beginning: bool, whole: Callable[[], None]) -> None:
        """Bring hot state up to date, then start what builds on it: settle, and after it the slow lane."""
        house = self._house
        begun = False

        def deliver() -> None:
            nonlocal begun
            if "worker" in self._roles and not begun:
                begun = True
                self._loops.append(group.create_task(house.deliver_stage.run(), name="deliver"))

        await insist(
            lambda: house.reconcile.recover(from_beginning=from_beginning, on_stops=deliver),
            "reconcile",
            self._meter,
            self._reporter,
        )
        await insist(house.recall.turn, "keys", self._meter, self._reporter)
        if "api" in self._roles:
            self._loops.append(group.create_task(house.keys.run(), name="keys"))
        if "worker" in self._roles:
            self._loops.append(group.create_task(house.settle_stage.run(), name="settle"))
            await house.settle_stage.caught_up()
            house.deliver.open_turns()
            house.deliver_stage.open_lanes()
        if "scheduler" in self._roles:
            # Without a settle that has caught up it may claim a retry that was made: the worker's gate, which opens
            # after its settle has caught up, finishes that one unsent.
            self._loops.append(group.create_task(house.schedule.run(), name="schedule"))
        self.recovered = True
        whole()

    @property
    def problem(self) -> str:
        """Why a part stands still, "" when none does."""
        house = self._house
        return house.deliver_stage.problem or house.settle_stage.problem or house.recall.problem

    def close(self) -> None:
        """Take nothing more into hand; what waits for its moment is given back."""
        house = self._house
        house.schedule.close()
        house.keys.close()
        house.control.close()
        house.retention.close()
        house.deliver_stage.close()
        house.deliver.stop()

    async def drained(self) -> None:
        """Returns when every attempt under way has its outcome, and all outcomes are settled."""
        house = self._house
        await house.deliver_stage.drained()
        if self.recovered and "worker" in self._roles:
            await house.settle_stage.caught_up()
            house.settle_stage.close()
            await house.settle_stage.drained()

    def cancel(self) -> None:
        """End every loop at once."""
        for loop in self._loops:
            loop.cancel()
