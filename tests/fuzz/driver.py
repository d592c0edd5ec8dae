"""Fuzzing for a time: examples of Hypothesis, in rounds of a seed each, until the time is over.

Ten seconds in a plain run, a minute where CI is set, and `HOWK_FUZZ_SECONDS` wherever it is (`make fuzz SECONDS=n`). A
failure is shrunk and told with its seed; `HOWK_FUZZ_SEED=n` replays that round and no other.
"""

import os
import random
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

_ROUND = 200
_PLAIN = 10.0
_CI = 60.0
_SETTINGS = settings(
    max_examples=_ROUND,
    deadline=None,
    database=None,
    print_blob=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def seconds() -> float:
    """How long to go on."""
    asked = os.environ.get("HOWK_FUZZ_SECONDS")
    return float(asked) if asked else _CI if os.environ.get("CI") else _PLAIN


def fuzz(check: Callable[[Any], None], strategy: SearchStrategy[Any]) -> None:
    """Try `check` with examples until the time is over; at least one round."""
    asked = os.environ.get("HOWK_FUZZ_SEED")
    # Not the generator that the tests share, which begins each test anew with the same seed.
    number = int(asked) if asked else random.SystemRandom().randrange(1 << 32)
    end = time.monotonic() + seconds()
    print(f"fuzzing from HOWK_FUZZ_SEED={number} on")  # noqa: T201 - shown when the test fails
    rounds = 0
    while not rounds or (not asked and time.monotonic() < end):
        _round(check, strategy, number + rounds)
        rounds += 1


def _round(check: Callable[[Any], None], strategy: SearchStrategy[Any], number: int) -> None:
    @seed(number)
    @_SETTINGS
    @given(strategy)
    def tried(example: Any) -> None:
        check(example)

    try:
        tried()
    except BaseException as error:
        error.add_note(f"replay this round with HOWK_FUZZ_SEED={number}")
        raise
