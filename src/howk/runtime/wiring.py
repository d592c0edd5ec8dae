"""Which engines stand behind the ports, and which room gets what: the only place that names an adapter.

Settings come in, a `House` comes out whose parts are open but not running; starting and stopping is `service`.
"""

import contextlib
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from howk._version import __version__
from howk.adapters.embedded import inspection
from howk.adapters.embedded.directory import Directory, write_durably
from howk.adapters.embedded.endpoints import Holding
from howk.adapters.embedded.log import EmbeddedLog
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.sender import OutboundSender
from howk.domain.breaker import BreakerPolicy
from howk.domain.errors import Permanent
from howk.domain.forward_proxy import parse_proxy
from howk.domain.pacing import PaceLimits
from howk.domain.records import PENDING, RESULTS, SLOW
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import Sealer
from howk.domain.settlement import Rules
from howk.domain.turns import TurnLimits
from howk.flow import deliver, settle
from howk.flow.attempt import DeliverOptions
from howk.flow.command import Command
from howk.flow.configs import ConfigOptions, Configs
from howk.flow.deliver import Deliver, Patience
from howk.flow.ingest import Ingest, IngestOptions
from howk.flow.journal import Journal
from howk.flow.recall import Recall
from howk.flow.reconcile import Reconcile
from howk.flow.retain import Retain, RetainOptions
from howk.flow.schedule import Schedule
from howk.flow.settle import Settle
from howk.flow.stage import Lane, Stage, Ticker
from howk.ports.clock import Clock, Random
from howk.ports.log import Log
from howk.ports.sender import Sender
from howk.ports.state import HotState
from howk.ports.telemetry import Meter, Reporter
from howk.runtime.door import Trust, policy
from howk.runtime.keys import open_sealer
from howk.runtime.settings import Settings, unbuilt_engines

_SETTLE_WINDOW = 1_024
_SETTLE_RESTS = 0.01
# What comes to the door meanwhile waits for no more than these to be signed and sent.
_DELIVER_AT_ONCE = 64
# A sixteenth of what may wait holds a burst of 500 to one endpoint.
_MOST_PATIENT = 10_240
_MOST_PATIENT_BYTES = 24 << 20
_FRESH_WEIGHT = 4
_LONGEST_POLL = 1.0
_RANDOM_BLOCK = 4_096
# A dead letter holds a failed result and its delivery: base64 payload, captures, headers and words around it.
_ROOM_BESIDE_PAYLOAD = 1 << 20
_LEAST_LOG = 8 << 20


class SystemRandom:
    """The `Random` port on the operating system's source, read in blocks: ids and nonces ask for few bytes each."""

    def __init__(self) -> None:
        self._block = b""
        self._used = 0

    def bytes(self, count: int) -> bytes:
        """See the port."""
        start = self._used
        if start + count > len(self._block):
            self._block = secrets.token_bytes(max(_RANDOM_BLOCK, count))
            start = 0
        self._used = start + count
        return self._block[start : self._used]


class Tools(NamedTuple):
    """What every room may use beside its ports."""

    clock: Clock
    random: Random
    meter: Meter
    reporter: Reporter
    wall: Callable[[], int] | None = None
    """Unix time in milliseconds as everybody has it, for what receivers compare with theirs; by default `clock`'s."""


class Engines(NamedTuple):
    """What stands behind the ports."""

    log: Log
    state: HotState
    sender: Sender
    sealer: Sealer


@dataclass(slots=True)
class House:
    """Everything one process consists of, wired and not yet running."""

    engines: Engines
    ingest: Ingest
    command: Command
    deliver: Deliver
    reconcile: Reconcile
    deliver_stage: Stage
    pace: Ticker
    settle_stage: Stage
    schedule: Ticker
    recall: Recall
    keys: Ticker
    configs: Configs
    control: Ticker
    retain: Retain
    retention: Ticker


@contextlib.asynccontextmanager
async def engines(settings: Settings, trust: Trust, tools: Tools) -> AsyncGenerator[Engines]:
    """Open the engines the settings ask for, and close them in reverse. Raises `Permanent` for what can't keep an
    invariant."""
    if problems := refusals(settings):
        raise Permanent("\n".join(problems))
    ttl = settings.ttl
    async with contextlib.AsyncExitStack() as stack:
        directory = Directory.open(settings.data_dir)
        stack.callback(directory.close)
        sealer, made = open_sealer(directory.path, settings.security.encryption_key, write_durably)
        if made:
            tools.reporter.say(
                "key_generated",
                "a key that seals secrets was made: back it up with the data directory",
                path=str(directory.path / "secret.key"),
            )
        log = EmbeddedLog.open(directory, tools.clock)
        stack.push_async_callback(log.close)
        keep = Keep(
            round(ttl.status_ttl * 1000),
            ttl.status_max,
            round(ttl.idempotency_ttl * 1000),
            round(ttl.stats_ttl * 1000),
            _holding(settings),
        )
        state = EmbeddedState.open(directory, keep, tools.clock)
        stack.push_async_callback(state.close)
        sender = OutboundSender(sender_options(settings, trust))
        stack.push_async_callback(sender.close)
        yield Engines(log, state, sender, sealer)


def wire(settings: Settings, trust: Trust, engines: Engines, tools: Tools) -> House:
    """Give every room its ports and every stage its room."""
    clock, random, meter, reporter, wall = tools
    log, state, sender, sealer = engines
    journal = Journal(log, meter)
    retry = settings.retry
    backoff = RetryPolicy(round(retry.base_delay * 1000), round(retry.max_delay * 1000), retry.jitter)
    redact = frozenset(name.lower() for name in settings.dlq.redact_headers)
    delivery = settings.delivery
    scheduler = settings.scheduler
    schedule = Schedule(
        journal,
        state,
        clock,
        meter,
        batch=scheduler.batch_size,
        poll=min(scheduler.poll_interval, _LONGEST_POLL),
        lease=scheduler.lock_timeout,
    )
    ticker = Ticker("schedule", schedule.turn, clock, meter, reporter)
    recall = Recall(journal, state, clock, reporter, ttl=round(settings.ttl.idempotency_ttl * 1000))
    configs = Configs(
        journal, sealer, clock, random, reporter, ConfigOptions(backoff, redact), wake=lambda: control.wake_by(0)
    )
    control = Ticker("control", configs.turn, clock, meter, reporter)
    agent = delivery.user_agent or f"howk/{__version__}"
    sending = DeliverOptions(delivery.timeout, delivery.response_capture, agent, redact, wall or clock.now)
    taking = IngestOptions(
        settings.api.max_payload_size,
        retry.max_attempts,
        policy(settings, trust),
        redact,
        backoff,
        max_age=round(delivery.max_age * 1000),
        max_delay_ahead=round(delivery.max_delay_ahead * 1000),
        fresh_rate=delivery.fresh_rate,
    )

    def wake(due: int) -> None:
        pace.wake_by(due)

    delivering = Deliver(state, sender, sealer, clock, meter, reporter, sending, configs, _patience(settings), wake)
    pace = Ticker("pace", delivering.turn, clock, meter, reporter)
    retain = Retain(journal, state, clock, meter, reporter, _retention(settings))
    rules = Rules(backoff, _breaker(settings))
    settling = Settle(state, rules, meter, reporter, ticker.wake_by, delivering.ended)
    lanes = (Lane(PENDING, _FRESH_WEIGHT), Lane(SLOW, held=True))
    deliver_stage = Stage(
        deliver.GROUP,
        delivering,
        lanes,
        journal,
        delivery.max_in_flight + 2 * _MOST_PATIENT,
        meter,
        reporter,
        at_once=_DELIVER_AT_ONCE,
        appetite=delivering.appetite,
    )
    return House(
        engines=engines,
        ingest=Ingest(
            journal,
            state,
            sealer,
            clock,
            random,
            meter,
            taking,
            configs.defaults,
            lambda: deliver_stage.backlog().get(PENDING, 0),
            lambda: retain.fullness,
        ),
        command=Command(journal, state, clock, random),
        deliver=delivering,
        reconcile=Reconcile(journal, state, rules, clock, meter, reporter, deliver=deliver.GROUP, settle=settle.GROUP),
        deliver_stage=deliver_stage,
        pace=pace,
        settle_stage=Stage(
            settle.GROUP,
            settling,
            (Lane(RESULTS),),
            journal,
            _SETTLE_WINDOW,
            meter,
            reporter,
            one_at_a_time=True,
            lazy_finish=True,
            rest=_SETTLE_RESTS,
        ),
        schedule=ticker,
        recall=recall,
        keys=Ticker("keys", recall.turn, clock, meter, reporter),
        configs=configs,
        control=control,
        retain=retain,
        retention=Ticker("retain", retain.turn, clock, meter, reporter),
    )


def most_of(settings: Settings, disk: int) -> int:
    """The most the log may keep on a disk of so many bytes."""
    asked = settings.retention.max_log_size
    return asked if isinstance(asked, int) else int(disk * asked.value / 100)


def _retention(settings: Settings) -> RetainOptions:
    kept = settings.retention
    pending, results, deadletter = (round(age * 1000) for age in (kept.pending, kept.results, kept.deadletter))
    return RetainOptions(pending, results, deadletter, partial(most_of, settings), deliver.GROUP, settle.GROUP)


def _holding(settings: Settings) -> Holding:
    held = settings.concurrency
    # A probe that has not come back by then never will.
    lease = 2 * settings.delivery.timeout + settings.scheduler.lock_timeout
    return Holding(
        held.max_inflight_per_endpoint,
        held.slow_lane_rate,
        lease,
        idle_after=settings.ttl.circuit_state_ttl,
    )


def _patience(settings: Settings) -> Patience:
    held = settings.concurrency
    pace = PaceLimits(
        slots=settings.delivery.max_in_flight,
        window=_MOST_PATIENT,
        window_bytes=_MOST_PATIENT_BYTES,
        per_endpoint=held.max_inflight_per_endpoint,
        per_domain=held.max_inflight_per_domain,
    )
    return Patience(pace, TurnLimits(_MOST_PATIENT, _MOST_PATIENT_BYTES))


def _breaker(settings: Settings) -> BreakerPolicy:
    breaker = settings.circuit_breaker
    return BreakerPolicy(
        breaker.failure_threshold,
        breaker.failure_ratio,
        round(breaker.failure_window * 1000),
        round(breaker.recovery_timeout * 1000),
        round(breaker.probe_interval * 1000),
        breaker.success_threshold,
    )


def examine(data_dir: Path) -> inspection.Found:
    """What stands in a data directory, as the engine would judge it; changes nothing."""
    return inspection.examine(data_dir.absolute())


def refusals(settings: Settings) -> list[str]:
    """Why these settings can't keep an invariant, a sentence for each."""
    problems = unbuilt_engines(settings)
    largest = settings.api.max_payload_size * 4 // 3 + 4 * settings.delivery.response_capture + _ROOM_BESIDE_PAYLOAD
    if largest > EmbeddedLog.capabilities.max_record:
        problems.append(
            f"api.max_payload_size and delivery.response_capture make records of up to {largest} bytes, and the log "
            f"takes {EmbeddedLog.capabilities.max_record}: lower one of them"
        )
    most = settings.retention.max_log_size
    if isinstance(most, int) and most < _LEAST_LOG:
        problems.append(f"retention.max_log_size is {most} bytes: give the log at least {_LEAST_LOG >> 20} MiB")
    return problems


def sender_options(settings: Settings, trust: Trust) -> SenderOptions:
    """What the settings say about sending."""
    delivery = settings.delivery
    return SenderOptions(
        policy=policy(settings, trust),
        proxy=parse_proxy(delivery.proxy) if delivery.proxy else None,
        connect_timeout=delivery.connect_timeout,
        tls_handshake_timeout=delivery.tls_handshake_timeout,
        max_idle=delivery.max_idle_conns,
        max_per_origin=delivery.max_conns_per_host,
        idle_timeout=delivery.idle_conn_timeout,
        capture=delivery.response_capture,
    )
