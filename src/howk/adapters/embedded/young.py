"""Deliveries that were accepted and have had no outcome yet, in memory: what the door says of them, and how many came
in each second.

The latest are kept as they are. Older ones, of a backlog, are packed: their time of creation stands in their id, and
what else is particular to them is shared by all that have the same, so that one costs about as much as its id.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from howk.domain.delivery import Status
from howk.domain.ids import time_of

_MOST_KINDS = 4_096


class _Kind(NamedTuple):
    scope: str
    max_attempts: int


class Young:
    """Statuses by id, oldest first. `latest` of them are kept as they are, and at most `pack_at_once` more."""

    def __init__(self, latest: int, pack_at_once: int = 512) -> None:
        self._latest = latest
        self._pack_at_once = pack_at_once
        self._whole: dict[str, Status] = {}
        # A packed one that is like no other is the status itself.
        self._packed: dict[str, _Kind | Status] = {}
        self._received: dict[int, int] = {}
        self._kind = lru_cache(maxsize=_MOST_KINDS)(_Kind)

    def __len__(self) -> int:
        return len(self._whole) + len(self._packed)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._whole or id_ in self._packed

    def get(self, id_: str) -> Status | None:
        """What was added under this id."""
        whole = self._whole.get(id_)
        if whole is not None:
            return whole
        packed = self._packed.get(id_)
        return _unpacked(id_, packed) if packed is not None else None

    def add(self, statuses: Iterable[Status]) -> None:
        """Those that are not known yet."""
        whole, packed, received = self._whole, self._packed, self._received
        for status in statuses:
            if status.id in whole or status.id in packed:
                continue
            whole[status.id] = status
            if is_first(status):
                second = status.created_at // 1000
                received[second] = received.get(second, 0) + 1
        if len(whole) > self._latest + self._pack_at_once:
            for id_ in list(islice(whole, len(whole) - self._latest)):
                packed[id_] = self._pack(whole.pop(id_))

    def pop(self, id_: str) -> Status | None:
        """Take one out; what it was."""
        status = self._whole.pop(id_, None)
        if status is None:
            packed = self._packed.pop(id_, None)
            if packed is None:
                return None
            status = _unpacked(id_, packed)
        if is_first(status):
            second = status.created_at // 1000
            left = self._received[second] - 1
            if left:
                self._received[second] = left
            else:
                del self._received[second]
        return status

    def oldest(self, most: int) -> list[Status]:
        """The oldest so many, which stay."""
        ids = [*islice(self._packed, most), *islice(self._whole, max(0, most - len(self._packed)))]
        return [status for id_ in ids if (status := self.get(id_)) is not None]

    def received(self) -> Mapping[int, int]:
        """How many came in each second (Unix time), of those that stand at their first attempt."""
        return self._received

    def clear(self) -> None:
        """Forget all of them."""
        self._whole.clear()
        self._packed.clear()
        self._received.clear()

    def _pack(self, status: Status) -> "_Kind | Status":
        kind = self._kind(status.scope, status.max_attempts)
        return kind if _unpacked(status.id, kind) == status else status


def _unpacked(id_: str, packed: "_Kind | Status") -> Status:
    if not isinstance(packed, _Kind):
        return packed
    scope, max_attempts = packed
    return Status(id=id_, scope=scope, state="pending", max_attempts=max_attempts, created_at=time_of(id_))


def is_first(status: Status) -> bool:
    """Whether it is of the first attempt: a later one had an outcome, with which it was counted."""
    return status.series == 1 and status.gen == 0
