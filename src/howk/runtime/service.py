"""One process from start to stop: opens the house, starts its stages in order, drains them in reverse.

Signals are handled here and nowhere else. The first SIGTERM or SIGINT closes the door and drains; the second aborts.
Whatever ends unexpectedly takes the process down, loudly.
"""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvloop

from howk.domain.errors import HowkError, Transient
from howk.ports.telemetry import REBUILD, Metric
from howk.runtime.clock import SystemClock
from howk.runtime.dependencies import dependencies
from howk.runtime.door import Trust, listen, room_for_connections, trust, url_of
from howk.runtime.lines import Lines
from howk.runtime.loading import Loaded
from howk.runtime.observability import Metrics
from howk.runtime.readings import Readings
from howk.runtime.roles import EVERY, Rebuilding, Role, missing, named
from howk.runtime.settings import Settings
from howk.runtime.stages import Stages
from howk.runtime.tls import Certificate, open_certificate
from howk.runtime.wiring import House, SystemRandom, Tools, engines, wire
from howk.web.app import App, Limits
from howk.web.connection import Bounds
from howk.web.guard import Guard
from howk.web.refusals import Refusals
from howk.web.server import Server

# Writer threads wait for the interpreter lock beside a busy loop: they get it within half a millisecond.
_SWITCH_INTERVAL = 0.0005
_REQUESTS_END_WITHIN = 5
_GC_THRESHOLDS = (50_000, 20, 50)
_KEEP_ALIVE = 75
_FLUSH_WITHIN = 5.0
_OUT_OF_MEMORY = (
    "howk: out of memory, so it stops here; nothing that was acknowledged is lost. Give it more, or lower "
    "api.max_batch_size and delivery.max_in_flight, and start it again"
)


def run(
    loaded: Loaded,
    announce: Callable[[str], None] = lambda _: None,
    roles: frozenset[Role] = EVERY,
    rebuilding: Rebuilding | None = None,
) -> int:
    """Serve until a signal; the exit code. `announce` gets the door's URL once it is open. The role reconciler, which
    runs alone, ends by itself once hot state is whole."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    logging = loaded.settings.logging
    lines = Lines(form=logging.format, least=logging.level)
    service = _Service(loaded, lines, announce, roles, rebuilding or Rebuilding())
    code = 1
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(service.run())
    except* HowkError as group:
        for error in _leaves(group):
            print(f"howk: {error}", file=sys.stderr)  # noqa: T201 - why the start was refused or the run ended
    except* MemoryError:
        print(_OUT_OF_MEMORY, file=sys.stderr)  # noqa: T201
    finally:
        lines.close()
    return code


def _unforeseen(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What nobody waits for failed. Without memory it may have been half done: the log is what has to be gone on from,
    and a killed process is what it is made for."""
    if isinstance(context.get("exception"), MemoryError):
        os.write(2, f"{_OUT_OF_MEMORY}\n".encode())
        os._exit(1)
    loop.default_exception_handler(context)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in cast(BaseExceptionGroup[BaseException], error).exceptions:
            yield from _leaves(inner)
    else:
        yield error


class _Watched(Metrics):
    """Metrics whose rebuild is watched."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        super().__init__()
        self._progress = progress

    def gauge(self, metric: Metric, value: float, label: str = "") -> None:
        """See the port."""
        super().gauge(metric, value, label)
        if metric is REBUILD:
            self._progress(value)


class _Service:
    """Start, serve, stop."""

    def __init__(
        self,
        loaded: Loaded,
        reporter: Lines,
        announce: Callable[[str], None],
        roles: frozenset[Role],
        rebuilding: Rebuilding,
    ) -> None:
        self._settings: Settings = loaded.settings
        self._inert = loaded.inert
        self._reporter = reporter
        self._announce = announce
        self._roles = roles
        self._rebuilding = rebuilding
        self._metrics = _Watched(rebuilding.progress) if "reconciler" in roles else Metrics()
        self._certificate: Certificate | None = None
        self._stop = asyncio.Event()
        self._abort = asyncio.Event()

    async def run(self) -> int:
        trusted = trust(self._settings)
        self._certificate = open_certificate(self._settings.api.tls)
        clock = SystemClock()
        tools = Tools(clock, SystemRandom(), self._metrics, self._reporter, clock.wall)
        asyncio.get_running_loop().set_exception_handler(_unforeseen)
        with contextlib.closing(self._listen()) as door:
            async with engines(self._settings, trusted, tools) as opened:
                self._listen_for_signals()
                return await self._serve(wire(self._settings, trusted, opened, tools), trusted, door)

    def _listen(self) -> socket.socket:
        if "api" in self._roles:
            return listen(self._settings.api.host, self._settings.api.port)
        return listen(self._settings.api.host, self._settings.metrics.port, "HOWK_METRICS_PORT")

    def _settle_memory(self) -> None:
        """What is alive now lives as long as the process: the collector need not look at it again, and what comes and
        goes with each request is freed without it."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    async def _serve(self, house: House, trusted: Trust, door: socket.socket) -> int:
        stages = Stages(house, self._roles, self._metrics, self._reporter)
        if not await self._knows_configs(stages):
            return 0
        server = self._server(house, stages, trusted)
        url = url_of(door, tls=self._certificate is not None)
        self._say_start(url, trusted)
        self._settle_memory()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[door]))
            whole = asyncio.Event()
            stages.start(group, from_beginning=self._rebuilding.from_beginning, whole=whole.set)
            telling = [group.create_task(self._reconciled(house, whole))] if "reconciler" in self._roles else []
            self._announce(url)
            await self._stop.wait()
            code = await self._drain(house, stages, server, serving)
            for loop in (serving, *telling):
                loop.cancel()
            stages.cancel()
        self._reporter.say("stopped", "howk has stopped")
        return code

    async def _knows_configs(self, stages: Stages) -> bool:
        """Read what configs set before the door is served and an attempt is made, which both act on it; False when howk
        is to stop before that could be done."""
        reading = asyncio.ensure_future(stages.learn_configs())
        stopping = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({reading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if reading.done():
            reading.result()
            return True
        reading.cancel()
        return False

    async def _reconciled(self, house: House, whole: asyncio.Event) -> None:
        """The role reconciler ends once hot state is whole."""
        await whole.wait()
        found = await house.engines.state.statistics(SystemClock().now())
        self._rebuilding.whole(found.waiting, found.ended)
        self._stop.set()

    def _server(self, house: House, stages: Stages, trusted: Trust) -> Server:
        api = self._settings.api
        readings = Readings(house, self._metrics, self._reporter)

        def expose() -> bytes:
            readings.read()
            return self._metrics.expose()

        app = App(
            house.ingest,
            house.engines.state,
            Guard(trusted.keys, loopback_only=trusted.loopback, rate=api.rate_limit.key),
            Limits(api.max_request_size, api.max_batch_size, api.max_batch),
            self._metrics,
            expose,
            lambda: self._unready(house, stages),
            Refusals(self._reporter),
            dependencies(house.engines, lambda: house.retain.fullness),
            "" if "api" in self._roles else named(self._roles),
            configs=house.configs,
            command=house.command,
        )
        bounds = Bounds(api.read_timeout, api.write_timeout, _KEEP_ALIVE, room_for_connections())
        tls = self._certificate.context if self._certificate else None
        return Server(app, bounds, _REQUESTS_END_WITHIN, tls, self._renew)

    def _renew(self) -> None:
        if self._certificate is not None:
            self._certificate.renew(self._reporter)

    async def _unready(self, house: House, stages: Stages) -> str:
        if self._stop.is_set():
            return "howk is stopping"
        # First, as what has stopped may be what keeps hot state from being whole.
        if stages.problem:
            return stages.problem
        if not stages.recovered:
            return "hot state is being brought up to date from the log"
        try:
            await house.engines.log.check()
        except Transient as error:
            return str(error)
        return ""

    def _listen_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._abort.set()
        self._stop.set()

    async def _drain(self, house: House, stages: Stages, server: Server, serving: "asyncio.Task[None]") -> int:
        """Close the door, let what is in flight end within `delivery.drain`, and say what was cut."""
        self._reporter.say("stopping", "the door is closed", in_flight=house.engines.sender.in_flight())
        server.should_exit = True
        stages.close()
        drained = asyncio.ensure_future(self._drained(stages, serving))
        aborted = asyncio.ensure_future(self._abort.wait())
        await asyncio.wait(
            {drained, aborted}, timeout=self._settings.delivery.drain, return_when=asyncio.FIRST_COMPLETED
        )
        if not drained.done():
            house.engines.sender.abort()
            await asyncio.wait({asyncio.ensure_future(house.deliver_stage.flushed())}, timeout=_FLUSH_WITHIN)
            cut = house.deliver.cut_off
            self._reporter.warn("cut_off", f"{cut} attempts were cut; they are made again at the next start", count=cut)
        elif error := drained.exception():
            raise error
        drained.cancel()
        aborted.cancel()
        unfinished = "reconciler" in self._roles and not stages.recovered
        return 1 if self._abort.is_set() or unfinished else 0

    async def _drained(self, stages: Stages, serving: "asyncio.Task[None]") -> None:
        await asyncio.wait({serving})
        await stages.drained()

    def _say_start(self, url: str, trusted: Trust) -> None:
        what = named(self._roles)
        self._reporter.say("started", f"{what} listens on {url}", data_dir=str(self._settings.data_dir))
        lacking = missing(self._roles)
        if lacking and "reconciler" not in self._roles:
            self._reporter.warn("partly_running", lacking)
        if trusted.trial and "reconciler" not in self._roles:
            self._reporter.say(
                "trial_mode",
                "trial mode: no key is needed on this machine, and receivers on this machine (loopback) are allowed; "
                "set HOWK_DELIVERY_ALLOW_PRIVATE_NETWORKS to true or false, or api.keys, to end it",
            )
        for key in self._inert:
            self._reporter.warn("setting_without_effect", f"{key} is set, but this version does not act on it yet")
