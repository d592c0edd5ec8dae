"""A whole howk in a process of its own meets answers without bound: what it reads of them and what it takes of memory
for them has one.
"""

from pathlib import Path

import pytest
from tests.authority import Authority
from tests.e2e.harness import Howk
from tests.hostile.corpus import CORPUS
from tests.hostile.scene import Names, set_up

pytestmark = pytest.mark.e2e

_ENDLESS = [
    "100 MB",
    "100 MB with a 500",
    "100 MB in chunks",
    "chunks of a byte",
    "a body without end",
    "a gzip bomb",
    "a header of 1 MB",
    "headers of 1 MB",
    "headers without end",
    "a header without end",
    "a status line without end",
    "a flood of interim answers",
    "interim answers with large headers",
    "chunk extensions without end",
    "trailers without end",
]
# Fewer than open a breaker.
_EACH = 4
_BOUND = (1 << 20) + (64 << 10)
# What the kernel takes off a sender on both sides of a loopback connection, and asyncio's own buffer.
_BUFFERED = 16 << 20
_GROWTH = 64 << 20


def _peak(pid: int) -> int:
    """The most bytes that were resident so far."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("this system does not tell the peak of another process")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) << 10


async def test_memory_and_bytes_read_are_bounded_whatever_is_answered(
    authority: Authority, names: Names, tmp_path: Path
) -> None:
    chosen = [each for each in CORPUS if each.name in _ENDLESS]
    assert len(chosen) == len(_ENDLESS)
    # The child and its pipes are the harness's to end.
    async with set_up(authority, names, strict=False) as scene:
        ports = [await scene.open(each.host, each.lookups, each.place) for each in chosen]
        grown = await _grown(tmp_path, ports)
    assert grown < _GROWTH
    assert scene.most_sent < _BOUND + _BUFFERED


async def _grown(home: Path, ports: list[int]) -> int:
    """By how much the peak of howk's memory rises while it delivers to all of these at once."""
    async with Howk(home) as howk:
        warm = await howk.enqueue(f"http://127.0.0.1:{ports[0]}/", max_attempts=1)
        await howk.reach([warm], "delivered", "dead")
        before = _peak(howk.pid)
        # Sixty answers, of which most are worth 100 MB, were it read or unpacked.
        ids = [await howk.enqueue(f"http://127.0.0.1:{port}/", max_attempts=1) for port in ports for _ in range(_EACH)]
        await howk.reach(ids, "delivered", "dead")
        grown = _peak(howk.pid) - before
        await howk.stop()
    return grown
