"""Retain: drops from the log what is finished and old enough, a bounded part of each stream a turn, and says how full
the log is, which decides who is let in.

What may go stands below what every group of the stream has finished and, of `howk.results`, below hot state's
watermark; nothing goes while hot state is rebuilt from it. Knows neither what a record means nor requests.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from howk.domain.budget import FOR_FIRST_USE, FOR_PEOPLE, FOR_REBUILDS, Budget, Fullness, Level, budget, fullness
from howk.domain.records import DEADLETTER, PENDING, RESULTS, SLOW
from howk.flow.journal import Journal
from howk.ports.clock import Clock
from howk.ports.log import Place, Space
from howk.ports.state import HotState
from howk.ports.telemetry import LOG_BUDGET, LOG_USED, TRIMMED, Meter, Reporter

_AT_ONCE = 1
_AT_ONCE_PRESSED = 2
_MORE = 0.01
_GIVES_BACK = 0.25
_LOOK = 1.0
_LOOK_CLOSELY = 0.1
_CLOSELY_FROM = 0.5
_FILLS_FAST = 0.05
_AGES_EVERY = 5.0
_SILENT = 600.0
_FULL = (
    "the log is full of webhooks that have not ended, or its disk is: nothing was taken, send it again later. Whoever "
    "runs howk finds the figures in its log (door_closed) and what to do in docs/retention.md"
)


class Kept(NamedTuple):
    """A stream whose records go once they are `age` milliseconds old and every one of `groups` has finished them, or
    from `mark` of the log's budget on, however young."""

    stream: str
    age: int
    groups: Sequence[str] = ()
    mark: float = FOR_FIRST_USE


class RetainOptions(NamedTuple):
    """How long finished records are kept, in milliseconds. `most` says how many bytes the log may hold on a disk of so
    many; `deliver` and `settle` are the groups whose progress says what is finished."""

    pending: int
    results: int
    deadletter: int
    most: Callable[[int], int]
    deliver: str
    settle: str


class Retain:
    """The room; a ticker calls `turn`. `fullness` is what the last turn found."""

    def __init__(
        self, journal: Journal, state: HotState, clock: Clock, meter: Meter, reporter: Reporter, options: RetainOptions
    ) -> None:
        self.fullness = Fullness()
        self._log = journal.log
        self._state = state
        self._clock = clock
        self._meter = meter
        self._reporter = reporter
        self._most = options.most
        self._kept = (
            Kept(PENDING, options.pending, (options.deliver,)),
            Kept(SLOW, options.pending, (options.deliver,)),
            Kept(RESULTS, options.results, (options.settle,), FOR_REBUILDS),
            Kept(DEADLETTER, options.deadletter, (), FOR_PEOPLE),
        )
        self._ages_at = 0.0
        self._silent_until = 0.0

    async def turn(self) -> float:
        """Measure, and drop what may go; the seconds until it is worth while again."""
        before = self.fullness.fill
        space = await self._measure()
        fill = self.fullness.fill
        pause = _LOOK_CLOSELY if fill > _CLOSELY_FROM or fill - before > _FILLS_FAST else _LOOK
        due = self._clock.monotonic() >= self._ages_at or self.fullness.fill >= FOR_FIRST_USE
        if not due and not space.excess:
            return pause
        condition = await self._state.condition()
        if not condition.valid:
            return pause
        self._ages_at = self._clock.monotonic() + _AGES_EVERY
        more = False
        for kept in self._kept:
            more = await self._drop(kept, condition.watermark) or more
            if self.fullness.fill >= FOR_FIRST_USE:
                # What went may have been enough, so that what is worth more need not.
                await self._measure()
        if more:
            self._ages_at = 0.0
            return _MORE
        return min(_GIVES_BACK, pause) if space.excess else pause

    async def _measure(self) -> Space:
        space = await self._log.space()
        self._judge(budget(space.used, space.room, space.disk, self._most(space.disk)))
        return space

    async def _drop(self, kept: Kept, watermark: Mapping[int, int]) -> bool:
        """Drop a bounded part of a stream; whether there may be more."""
        ends = {place: (first, end) for place, (first, end) in (await self._log.bounds(kept.stream)).items()}
        for group in kept.groups:
            for place, progress in (await self._log.progress(kept.stream, group)).items():
                first, end = ends[place]
                ends[place] = first, min(end, progress.next)
        more = False
        for place, (first, end) in ends.items():
            before = min(end, watermark.get(place.partition, 0)) if kept.stream == RESULTS else end
            more = await self._drop_below(place, first, before, kept) or more
        return more

    async def _drop_below(self, place: Place, first: int, before: int, kept: Kept) -> bool:
        older_than = None if self.fullness.fill >= kept.mark else self._clock.now() - kept.age
        earliest, dropped, more = first, 0, True
        # Where room is needed no more is dropped than is.
        for _ in range(_AT_ONCE_PRESSED if older_than is None else _AT_ONCE):
            now_earliest = await self._log.trim(place.stream, place.partition, before, older_than)
            more = now_earliest > earliest
            if not more:
                break
            dropped += now_earliest - earliest
            earliest = now_earliest
        if dropped:
            self._meter.count(TRIMMED, dropped, place.stream)
        return more

    def _judge(self, found: Budget) -> None:
        before = self.fullness.level
        self.fullness = fullness(found, before, _FULL)
        level = self.fullness.level
        self._meter.gauge(LOG_USED, found.used)
        self._meter.gauge(LOG_BUDGET, max(0, found.most))
        if level != before:
            self._tell(before, level, found)

    def _tell(self, before: Level, level: Level, found: Budget) -> None:
        bound = "what is left on the disk" if found.by_disk else "retention.max_log_size"
        figures: dict[str, str | int] = {"used": found.used, "most": found.most, "bound_by": bound}
        if level == "closed":
            text = "the log is full of what has not ended: the door takes nothing more; see docs/retention.md"
            self._reporter.warn("door_closed", text, **figures)
            return
        if before == "closed":
            self._reporter.say("door_opened", "there is room in the log again: the door is open", **figures)
        if level == "crowded":
            text = "the log is nearly full: configs that send more than their share get 429; see docs/retention.md"
            self._reporter.warn("log_filling", text, **figures)
        elif level == "pressed" and before == "roomy" and self._clock.monotonic() >= self._silent_until:
            # A small log is pressed again and again.
            self._silent_until = self._clock.monotonic() + _SILENT
            text = "the log fills up: what is finished is dropped before its time (retention.*); see docs/retention.md"
            self._reporter.warn("history_shortened", text, **figures)
