"""Configs: what each config sets for its deliveries, held whole in memory as `howk.control` has it, and the one way to
change it. Memory changes only by what is read back from the log; a change is answered once it has been.

A row that can't be read keeps its config from taking webhooks until it is set again: what should have been signed would
go out unsigned otherwise. Knows neither HTTP nor what a delivery is.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from howk.domain.config_defaults import LONGEST_TIMEOUT, Config, ConfigRequest, config_of, config_record
from howk.domain.errors import Permanent, Rejected, Transient, Undecodable
from howk.domain.ids import check_config_id
from howk.domain.records import CONTROL, ConfigRecord, encode, reader
from howk.domain.retry import RetryPolicy
from howk.domain.sealing import NONCE_BYTES, Sealer, Secrets
from howk.flow import journal
from howk.flow.journal import Journal
from howk.flow.stage import each
from howk.ports.clock import Clock, Random
from howk.ports.directory import NO_LIMITS, Limits
from howk.ports.log import Entry, Follower, Record
from howk.ports.telemetry import Reporter

MOST = 100_000
MOST_BYTES = 128 << 20
_PREFIX = journal.config_key("")
_LOOK_AGAIN = 60.0
_NO_SECRETS = Secrets()
_read = reader(ConfigRecord)


class ConfigOptions(NamedTuple):
    """The deployment's retry policy, lower-case names of headers whose values are sealed, and how many configs and
    bytes of them are kept."""

    retry: RetryPolicy
    redact: frozenset[str]
    most: int = MOST
    most_bytes: int = MOST_BYTES


class _Row(NamedTuple):
    """A config, None where its row can't be read; `size` is that of its record."""

    config: Config | None
    limits: Limits
    size: int


class Configs:
    """The room, and the `Directory` port. `wake` is called when the table has changed; a ticker calls `turn`."""

    def __init__(
        self,
        journal: Journal,
        sealer: Sealer,
        clock: Clock,
        random: Random,
        reporter: Reporter,
        options: ConfigOptions,
        wake: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._sealer = sealer
        self._clock = clock
        self._random = random
        self._reporter = reporter
        self._options = options
        self._wake = wake
        self._rows: dict[str, _Row] = {}
        self._size = 0
        self._follower: Follower | None = None
        self._one_reader = asyncio.Lock()
        self._stopped: Permanent | None = None
        # Records that are being appended, and their bytes: they count before they are read back.
        self._coming = 0
        self._coming_bytes = 0

    # What is set

    def limits(self, scope: str) -> Limits:
        """See the port."""
        row = self._rows.get(scope)
        return row.limits if row is not None else NO_LIMITS

    def defaults(self, scope: str) -> Config | None:
        """What a scope sets, None for nothing. Raises `Transient` where that can't be known."""
        row = self._rows.get(scope)
        if row is None:
            return None
        if row.config is None:
            raise Transient(
                f"what the config {scope} sets can't be read, and nothing is taken without it: set it again with PUT, "
                "or remove it with DELETE",
                60.0,
            )
        return row.config

    # Changing it

    async def put(self, scope: str, asked: ConfigRequest) -> Config:
        """Replace all that a config sets. When it returns, with the config as it is kept, that is durable, and holds
        for everything that is accepted or sent from now on. Raises `Rejected`."""
        check_config_id(scope)
        options = self._options
        record, secrets = config_record(scope, asked, self._clock.now(), options.retry, options.redact)
        if secrets:
            nonce = self._random.bytes(NONCE_BYTES)
            record = replace(record, sealed=self._sealer.seal(secrets, journal.config_key(scope), nonce))
        size = len(encode(record))
        self._refuse_excess(scope, size)
        self._coming += 1
        self._coming_bytes += size
        try:
            await self._write(journal.sets(record))
        finally:
            self._coming -= 1
            self._coming_bytes -= size
        return config_of(record, secrets)

    async def remove(self, scope: str) -> bool:
        """Set nothing any more; False when nothing was set."""
        if scope not in self._rows:
            return False
        await self._write(journal.sets_no_more(scope))
        return True

    async def _write(self, record: Record) -> None:
        await self._journal.append([record])
        await self.catch_up()

    def _refuse_excess(self, scope: str, size: int) -> None:
        options, known = self._options, self._rows.get(scope)
        if known is None and len(self._rows) + self._coming >= options.most:
            message = f"{len(self._rows)} configs are kept, and no more are taken: remove some"
            raise Rejected("too_many_configs", message)
        rest = self._size + self._coming_bytes - (known.size if known else 0)
        if rest + size > options.most_bytes:
            message = f"{rest >> 20} MiB of configs are kept, and there is no room for this one: remove some"
            raise Rejected("too_many_configs", message)

    # Reading it

    async def turn(self) -> float:
        """Read what is new; the seconds until it is worth while again without a wake."""
        await self.catch_up()
        return _LOOK_AGAIN

    async def catch_up(self) -> None:
        """Know everything that was written before the call. Raises `NewerRecord`, and `Permanent` for secrets that were
        sealed with another key."""
        async with self._one_reader:
            if self._stopped is not None:
                # Whoever meets it first has taken the row: the others are to know as well.
                raise self._stopped
            if self._follower is None:
                self._follower = await self._journal.follow(CONTROL, self._wake)
            try:
                await each(self._journal.news(self._follower), self._apply)
            except Permanent as error:
                self._stopped = error
                raise

    async def _apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            # Rows of other kinds are for others to read.
            if entry.key.startswith(_PREFIX):
                self._set(entry.key.removeprefix(_PREFIX), entry)

    def _set(self, scope: str, entry: Entry) -> None:
        row = self._row(scope, entry) if entry.value else None
        before = self._rows.pop(scope, None)
        self._size -= before.size if before else 0
        if row is not None:
            self._rows[scope] = row
            self._size += row.size

    def _row(self, scope: str, entry: Entry) -> _Row:
        try:
            if entry.damage:
                raise Undecodable(entry.damage)
            record = _read(entry.value)
            if record.scope != scope:
                raise Undecodable("the row is of another config")
            secrets = self._sealer.open(record.sealed, entry.key) if record.sealed else _NO_SECRETS
        except Undecodable as error:
            source = f"{entry.stream}/{entry.key}"
            self._reporter.warn("undecodable", f"what a config sets can't be read: {error}", source=source)
            return _Row(None, NO_LIMITS, len(entry.value))
        config = config_of(record, secrets)
        return _Row(config, _limits(config), len(entry.value))


def _limits(config: Config) -> Limits:
    timeout = min(config.timeout, LONGEST_TIMEOUT) / 1000
    return Limits(config.per_second, config.burst, config.max_in_flight, timeout, config.skip_after)
