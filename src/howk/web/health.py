"""What howk stands on, asked one by one: dependencies come in, what each answered and how fast goes out."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from msgspec import Struct

from howk.domain.errors import HowkError

_WITHIN = 5.0


class Dependency(NamedTuple):
    """`ask` answers what is wrong, "" when nothing is; it may also raise what howk raises."""

    name: str
    ask: Callable[[], Awaitable[str]]


class Finding(Struct, frozen=True):
    """One dependency, as it was when it was asked. `error` is null when it is well."""

    name: str
    ok: bool
    latency_ms: float
    error: str | None


class Health(Struct, frozen=True):
    """All of them; `failing` when one is."""

    status: str
    dependencies: list[Finding]


async def examine(dependencies: Sequence[Dependency], within: float = _WITHIN) -> Health:
    """Ask them in turn, each for at most `within` seconds."""
    findings = [await _ask(dependency, within) for dependency in dependencies]
    return Health("ok" if all(finding.ok for finding in findings) else "failing", findings)


async def _ask(dependency: Dependency, within: float) -> Finding:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(within):
            error = await dependency.ask()
    except TimeoutError:
        error = f"no answer within {within:g} s"
    except HowkError as raised:
        error = str(raised)
    latency = round((time.perf_counter() - began) * 1000, 3)
    return Finding(dependency.name, not error, latency, error or None)
