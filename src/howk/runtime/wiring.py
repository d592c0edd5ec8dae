"""Which engines stand behind the ports, and which room gets what: the only place that names an adapter.

Settings come in, a `House` comes out whose parts are open but not running; starting and stopping is `service`.
"""

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from howk._version import __version__
from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.log import EmbeddedLog
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.adapters.outbound.options import SenderOptions
from howk.adapters.outbound.sender import OutboundSender
from howk.domain.errors import Permanent
from howk.domain.records import PENDING, RESULTS, SLOW
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import Sealer
from howk.flow import deliver, settle
from howk.flow.deliver import Deliver, DeliverOptions
from howk.flow.ingest import Ingest, IngestOptions
from howk.flow.journal import Journal
from howk.flow.reconcile import Reconcile
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
_FRESH_WEIGHT = 4
# A dead letter holds a failed result and its delivery: base64 payload, captures, headers and words around it.
_ROOM_BESIDE_PAYLOAD = 1 << 20


class SystemClock:
    """The `Clock` port on the machine's clocks."""

    def now(self) -> int:
        """See the port."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """See the port."""
        return time.monotonic()


class SystemRandom:
    """The `Random` port on the operating system's source."""

    def bytes(self, count: int) -> bytes:
        """See the port."""
        return secrets.token_bytes(count)


@dataclass(slots=True)
class House:
    """Everything one process consists of, open and wired, not yet running."""

    directory: Directory
    log: Log
    state: HotState
    sender: Sender
    sealer: Sealer
    key_made: bool
    ingest: Ingest
    deliver: Deliver
    reconcile: Reconcile
    deliver_stage: Stage
    settle_stage: Stage
    schedule: Ticker


async def build(settings: Settings, trust: Trust, meter: Meter, reporter: Reporter) -> House:
    """Open the engines and wire the rooms. Raises `Permanent` for what can't keep an invariant; nothing stays open."""
    _refuse(settings)
    clock = SystemClock()
    directory = Directory.open(Path(settings.data_dir))
    try:
        sealer, made = open_sealer(directory.path, settings.security.encryption_key)
        log = EmbeddedLog.open(directory, clock)
        try:
            ttl = settings.ttl
            state = EmbeddedState.open(directory, Keep(round(ttl.status_ttl * 1000), ttl.status_max), clock)
        except BaseException:
            await log.close()
            raise
    except BaseException:
        directory.close()
        raise
    sender = OutboundSender(_sender_options(settings, trust))
    return _wire(settings, trust, directory, log, state, sender, sealer, made, clock, SystemRandom(), meter, reporter)


def _wire(
    settings: Settings,
    trust: Trust,
    directory: Directory,
    log: Log,
    state: HotState,
    sender: Sender,
    sealer: Sealer,
    made: bool,
    clock: Clock,
    random: Random,
    meter: Meter,
    reporter: Reporter,
) -> House:
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
        poll=min(scheduler.poll_interval, 1.0),
        lease=scheduler.lock_timeout,
    )
    ticker = Ticker("schedule", schedule.turn, clock, meter, reporter)
    agent = delivery.user_agent or f"howk/{__version__}"
    delivering = Deliver(
        state,
        sender,
        sealer,
        clock,
        meter,
        DeliverOptions(delivery.timeout, delivery.response_capture, agent, redact),
    )
    settling = Settle(state, backoff, meter, ticker.wake_by)
    return House(
        directory=directory,
        log=log,
        state=state,
        sender=sender,
        sealer=sealer,
        key_made=made,
        ingest=Ingest(
            journal,
            state,
            sealer,
            clock,
            random,
            meter,
            IngestOptions(settings.api.max_payload_size, retry.max_attempts, policy(settings, trust), redact),
        ),
        deliver=delivering,
        reconcile=Reconcile(
            journal, state, backoff, clock, meter, reporter, deliver=deliver.GROUP, settle=settle.GROUP
        ),
        deliver_stage=Stage(
            deliver.GROUP,
            delivering,
            (Lane(PENDING, _FRESH_WEIGHT), Lane(SLOW, held=True)),
            journal,
            delivery.max_in_flight,
            meter,
            reporter,
        ),
        settle_stage=Stage(
            settle.GROUP, settling, (Lane(RESULTS),), journal, _SETTLE_WINDOW, meter, reporter, one_at_a_time=True
        ),
        schedule=ticker,
    )


def _refuse(settings: Settings) -> None:
    problems = unbuilt_engines(settings)
    largest = settings.api.max_payload_size * 4 // 3 + 4 * settings.delivery.response_capture + _ROOM_BESIDE_PAYLOAD
    if largest > EmbeddedLog.capabilities.max_record:
        problems.append(
            f"api.max_payload_size and delivery.response_capture make records of up to {largest} bytes, and the log "
            f"takes {EmbeddedLog.capabilities.max_record}: lower one of them"
        )
    if settings.api.tls.cert or settings.api.tls.key:
        problems.append("api.tls is set, but this version does not serve TLS: put a proxy in front of it and unset it")
    if problems:
        raise Permanent("\n".join(problems))


def _sender_options(settings: Settings, trust: Trust) -> SenderOptions:
    delivery = settings.delivery
    return SenderOptions(
        policy=policy(settings, trust),
        connect_timeout=delivery.connect_timeout,
        tls_handshake_timeout=delivery.tls_handshake_timeout,
        max_idle=delivery.max_idle_conns,
        max_per_origin=delivery.max_conns_per_host,
        idle_timeout=delivery.idle_conn_timeout,
        capture=delivery.response_capture,
    )
