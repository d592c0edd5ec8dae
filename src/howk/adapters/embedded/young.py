"""Deliveries that were accepted and have had no outcome yet, in memory: what the door says of them, and how many came
in each second.

A backlog may be long, so most are kept packed: their time of creation stands in their id, and what else is particular
to them is shared by all that have the same, so that one costs about as much as its id.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from howk.domain.delivery import Standing, Status
from howk.domain.ids import time_of

_MOST_KINDS = 4_096
_NEW = Standing(1, 0, ended=False)


class _Kind(NamedTuple):
    """What the packed ones share."""

    scope: str
    max_attempts: int


_NO_KIND = _Kind("", -1)


class Young:
    """Statuses by id, oldest first."""

    def __init__(self) -> None:
        # What is like no other stands here as it is.
        self._known: dict[str, _Kind | Status] = {}
        self._received: dict[int, int] = {}
        self._kind = lru_cache(maxsize=_MOST_KINDS)(_Kind)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._known

    def get(self, id_: str) -> Status | None:
        """What was added under this id."""
        found = self._known.get(id_)
        return _unpacked(id_, found) if isinstance(found, _Kind) else found

    def standing(self, id_: str) -> Standing | None:
        """Where it stands."""
        found = self._known.get(id_)
        if found is None:
            return None
        return _NEW if isinstance(found, _Kind) else Standing(found.series, found.gen, found.ended_at > 0)

    def add(self, statuses: Iterable[Status]) -> None:
        """Those that are not known yet."""
        known, received = self._known, self._received
        kind = _NO_KIND
        for status in statuses:
            id_ = status.id
            if id_ in known:
                continue
            # Those of a request are alike.
            if status.scope != kind.scope or status.max_attempts != kind.max_attempts:
                kind = self._kind(status.scope, status.max_attempts)
            known[id_] = kind if _unpacked(id_, kind) == status else status
            if is_first(status):
                second = status.created_at // 1000
                received[second] = received.get(second, 0) + 1

    def pop(self, id_: str) -> bool:
        """Take one out; whether it was there."""
        found = self._known.pop(id_, None)
        if found is None:
            return False
        if isinstance(found, _Kind):
            second = time_of(id_) // 1000
        elif is_first(found):
            second = found.created_at // 1000
        else:
            return True
        left = self._received[second] - 1
        if left:
            self._received[second] = left
        else:
            del self._received[second]
        return True

    def oldest(self, most: int) -> list[Status]:
        """The oldest so many, which stay."""
        return [status for id_ in islice(self._known, most) if (status := self.get(id_)) is not None]

    def received(self) -> Mapping[int, int]:
        """How many came in each second (Unix time), of those that stand at their first attempt."""
        return self._received

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()
        self._received.clear()


def is_first(status: Status) -> bool:
    """Whether it is of the first attempt: a later one had an outcome, with which it was counted."""
    return status.series == 1 and status.gen == 0


def _unpacked(id_: str, kind: _Kind) -> Status:
    return Status(id=id_, scope=kind.scope, state="pending", max_attempts=kind.max_attempts, created_at=time_of(id_))
