"""What clients ask of howk in a run: webhooks of every kind, repeats under a key, batches, commands, and settings that
change meanwhile. All of it is drawn before the run begins, so that faults change what comes of it and never what is
asked.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal

from msgspec import Raw
from tests.simulation.network import MOODS, Mood, Receiver
from tests.simulation.world import BEGINNING

from howk.domain.config_defaults import ConfigRequest, OrderingAsked, RateLimitAsked
from howk.domain.settlement import EndpointCommand
from howk.domain.timing import RetryAsked
from howk.flow.ingest import Enqueue

SCOPES = ("shop", "bank:eu")
SECRET = "whsec_c2ltdWxhdGVkIHNlY3JldCBvZiBzb21lYm9keQ=="
LASTS = 8.0
"""Seconds in which clients ask."""
_TEXTS = (b'{ "n" : %d, "b": 1.0 }', b"[%d,12345678901234567890]", b'"<a>&\\u00e4 %d"', b'{"z":%d,"a":{"y":[]}}')
_BYTES = (b"\x00\xff\xfe %d", b"\r\n\r\n%d", b"plain %d", b"%d" + b"\x80" * 40)


@dataclass(slots=True)
class Endpoint:
    """Where webhooks of a config go."""

    scope: str
    url: str
    receiver: Receiver


@dataclass(slots=True)
class Webhook:
    """A request for one delivery, and what its client knows of it."""

    number: int
    endpoint: Endpoint
    body: bytes
    enqueue: Enqueue
    key: str = ""
    ordering_key: str = ""
    timed: bool = False
    signed: bool = False
    id: str = ""
    """Once it was answered."""
    begun_at: int = -1
    """Steps of the trace: when it was asked for first, and when it was answered."""
    answered_at: int = -1
    first_answers: int = 0
    cancel_asked: bool = False

    @property
    def turn(self) -> tuple[str, str]:
        return self.endpoint.url, self.ordering_key


@dataclass(slots=True)
class Ask:
    """Webhooks that are asked for in one request; `again` are the times at which a client repeats it unasked."""

    at: float
    webhooks: list[Webhook]
    tries: int = 0


@dataclass(slots=True)
class Cancel:
    at: float
    webhook: Webhook


@dataclass(slots=True)
class Command:
    at: float
    endpoint: Endpoint
    name: EndpointCommand


@dataclass(slots=True)
class Configure:
    at: float
    scope: str
    asked: ConfigRequest | None


@dataclass(slots=True)
class Misuse:
    """Another request under the key of this one, which has been answered by then."""

    at: float
    webhook: Webhook


@dataclass(slots=True)
class Happening:
    """What no client asks for: the wall clock jumps by `amount` milliseconds, everything stands still for so many, howk
    is stopped, or quiet falls."""

    at: float
    what: Literal["jump", "freeze", "stop", "quiet"]
    amount: int = 0


Item = Ask | Cancel | Command | Configure | Misuse | Happening


@dataclass(slots=True)
class Workload:
    endpoints: list[Endpoint]
    webhooks: list[Webhook] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


def workload_of(
    seed: int, moody: bool, cancels: float, ordered: float = 0.35, *, busy_owners: bool = False
) -> Workload:
    """What is asked in the run of a seed."""
    chance = Random(f"{seed}/workload")
    work = Workload([_endpoint(chance, number, moody) for number in range(chance.randint(1, 4))])
    for scope in SCOPES:
        if chance.random() < 0.4:
            work.items.append(Configure(0.0, scope, _config(chance)))
        if chance.random() < 0.1:
            work.items.append(Configure(LASTS * chance.random(), scope, chance.choice((None, _config(chance)))))
    for _ in range(chance.choice((4, 8, 12, 20))):
        _ask(chance, work, ordered)
    for webhook in work.webhooks:
        if chance.random() < cancels:
            work.items.append(Cancel(_sometime(chance), webhook))
    for endpoint in work.endpoints:
        if chance.random() < 0.25:
            name: EndpointCommand = chance.choice(("enable", "pause", "release"))
            work.items.append(Command(_sometime(chance), endpoint, name))
    _repeat_wrongly(Random(f"{seed}/misuse"), work)
    if busy_owners:
        _own(Random(f"{seed}/owners"), work)
    return work


def _repeat_wrongly(chance: Random, work: Workload) -> None:
    for webhook in work.webhooks:
        if webhook.key and chance.random() < 0.1:
            work.items.append(Misuse(LASTS * chance.random(), webhook))


def _own(chance: Random, work: Workload) -> None:
    """What owners do who can't leave anything as it is."""
    for endpoint in work.endpoints:
        for _ in range(chance.randint(2, 8)):
            name: EndpointCommand = chance.choice(("enable", "pause", "release"))
            work.items.append(Command(_sometime(chance), endpoint, name))
    for scope in SCOPES:
        for _ in range(chance.randint(0, 4)):
            work.items.append(
                Configure(_sometime(chance), scope, chance.choice((None, _config(chance), _config(chance))))
            )


def _sometime(chance: Random) -> float:
    return LASTS * chance.random()


def _endpoint(chance: Random, number: int, moody: bool) -> Endpoint:
    mood: Mood = chance.choice(MOODS) if moody else "well"
    well_at = chance.choice((2.0, 5.0, 9.0, 14.0)) if mood != "gone" else chance.choice((1.0, 4.0))
    receiver = Receiver(f"r{number}.example", mood, well_at, moody and chance.random() < 0.2)
    return Endpoint(chance.choice(SCOPES), f"http://{receiver.host}/hook", receiver)


def _config(chance: Random) -> ConfigRequest:
    rate, most, skips = chance.random() < 0.4, chance.random() < 0.3, chance.random() < 0.5
    return ConfigRequest(
        rate_limit=RateLimitAsked(per_second=chance.choice((1.0, 5.0)), burst=chance.choice((1.0, 3.0)))
        if rate
        else None,
        max_in_flight=chance.choice((1, 2)) if most else None,
        ordering=OrderingAsked(policy="skip", after=chance.choice((1, 2))) if skips else None,
    )


def _ask(chance: Random, work: Workload, ordered: float) -> None:
    at = _sometime(chance)
    count = chance.choice((1, 1, 1, 1, 3, 6))
    endpoint = chance.choice(work.endpoints)
    in_one_scope = [each for each in work.endpoints if each.scope == endpoint.scope]
    webhooks: list[Webhook] = []
    for _ in range(count):
        made = _webhook(chance, len(work.webhooks), chance.choice(in_one_scope), at, ordered)
        webhooks.append(made)
        work.webhooks.append(made)
    work.items.append(Ask(at, webhooks))
    for webhook in webhooks:
        # Somebody who did not wait for the answer, at the same moment or later.
        while webhook.key and chance.random() < 0.4:
            work.items.append(Ask(at + chance.choice((0.0, 0.001, 0.05, 3.0)) * chance.random(), [webhook]))


def _webhook(chance: Random, number: int, endpoint: Endpoint, at: float, ordered: float) -> Webhook:
    fields: dict[str, Any] = {"endpoint": endpoint.url}
    if chance.random() < 0.75:
        body = chance.choice(_TEXTS) % number
        fields["payload"] = Raw(body)
    else:
        body = chance.choice(_BYTES) % number
        fields["payload_base64"] = b64encode(body).decode()
        fields["content_type"] = "application/octet-stream"
    timed, signed = chance.random() < 0.12, chance.random() < 0.1
    ordering_key = chance.choice(("a", "a", "b")) if chance.random() < ordered else ""
    key = f"key-{number}" if chance.random() < 0.3 else ""
    if timed:
        moment = BEGINNING / 1000 + at + 0.5 + 4 * chance.random()
        fields["deliver_at"] = datetime.fromtimestamp(moment, UTC)
    if signed:
        fields["signing_secret"] = SECRET
    if chance.random() < 0.1:
        fields["max_age"] = chance.choice((1.0, 4.0, 20.0))
    if chance.random() < 0.3:
        fields["max_attempts"] = chance.choice((1, 2, 3))
    if chance.random() < 0.1:
        fields["retry"] = RetryAsked(type="fixed", base_delay=1.0, on_status=(404, 410))
    if ordering_key:
        fields["ordering_key"] = ordering_key
    if key:
        fields["idempotency_key"] = key
    return Webhook(number, endpoint, body, Enqueue(**fields), key, ordering_key, timed, signed)


def by_number(webhooks: Sequence[Webhook]) -> dict[bytes, Webhook]:
    """Every body is of one webhook."""
    return {webhook.body: webhook for webhook in webhooks}
