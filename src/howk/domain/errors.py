"""The five ways something can go wrong; adapters translate into these at their edge.

What is raised says who acts: `Transient` is retried by the stage, `Conflict` and `Rejected` go back to whoever
asked, `Permanent` stops the part it names until an operator acts, anything else is a bug and stops the service.
"""

from collections.abc import Sequence
from traceback import walk_tb
from typing import NamedTuple


class HowkError(Exception):
    """Every error howk raises on purpose. The text says what to do next."""


class Transient(HowkError):
    """May succeed when tried again; `retry_after` is a hint in seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Full(Transient):
    """A bound was reached: nothing was taken, try again later. `code` is stable, and says which bound where that makes
    a difference to whoever asked."""

    def __init__(self, message: str, retry_after: float = 1.0, code: str = "unavailable") -> None:
        super().__init__(message, retry_after)
        self.code = code


class OverShare(Full):
    """A bound is near, and whoever asked has had more than its share of what is left; others go on."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message, retry_after, "over_share")


class Conflict(HowkError):
    """The state of the thing asked about does not allow it."""


class FieldProblem(NamedTuple):
    """One field of a request that can't be taken, and why."""

    field: str
    message: str


class Rejected(HowkError):
    """The request is wrong and changes nothing; `code` is stable, `problems` name the fields."""

    def __init__(self, code: str, message: str, problems: Sequence[FieldProblem] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.problems = tuple(problems)


class Permanent(HowkError):
    """Can't go on without an operator; the text says what has to be done."""


class NewerRecord(Permanent):
    """A record was written by a newer version: this process must not judge it, upgrade it instead."""


class Undecodable(HowkError):
    """A record's bytes are not what any known version wrote."""


_MOST_FRAMES = 12


def whereabouts(error: BaseException) -> str:
    """The type of an unforeseen error and where it was raised, innermost call first. Its message is left out: it may
    quote the record or a secret that was just opened, and this goes into log lines and dead letters."""
    frames = [
        f"{frame.f_code.co_filename.rpartition('/')[2]}:{line} in {frame.f_code.co_name}"
        for frame, line in walk_tb(error.__traceback__)
    ]
    return " < ".join([type(error).__name__, *frames[: -_MOST_FRAMES - 1 : -1]])
