"""Who may have a thread for a lookup, when names hang."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from tests.adapters.outbound.support import PATIENCE, until

from howk.adapters.outbound.lookups import Shares, domain_of
from howk.adapters.outbound.resolve import SystemResolver

SHARES = Shares(threads=6, unproven=4, per_domain=2, waiting=3)


class Names:
    """In place of the system's lookups: those of `hung` wait, all others answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hung: set[str] = set()
        self.go = threading.Event()

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        self.asked.append(host)
        if host in self.hung:
            self.go.wait(PATIENCE)
        return [(2, 1, 6, "", ("192.0.2.1", 0))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    found = Names()
    monkeypatch.setattr(socket, "getaddrinfo", found.getaddrinfo)
    yield found
    found.go.set()


@pytest.fixture
def resolver() -> Iterator[SystemResolver]:
    found = SystemResolver(SHARES, fresh_for=0.0)
    yield found
    found.close()


async def hang(names: Names, resolver: SystemResolver, *hosts: str) -> list["asyncio.Future[list[str]]"]:
    """Lookups that are under way and do not end."""
    names.hung |= set(hosts)
    waiting = [asyncio.ensure_future(resolver(host, 80)) for host in hosts]
    await until(lambda: set(hosts) <= set(names.asked))
    return waiting


async def is_found(resolver: SystemResolver, host: str) -> bool:
    async with asyncio.timeout(PATIENCE):
        return await resolver(host, 80) == ["192.0.2.1"]


async def let_go(names: Names, waiting: list["asyncio.Future[list[str]]"]) -> None:
    names.go.set()
    assert await asyncio.gather(*waiting) == [["192.0.2.1"]] * len(waiting)


async def test_names_of_one_domain_that_hang_hold_its_share_and_another_domain_has_room(
    names: Names, resolver: SystemResolver
) -> None:
    waiting = await hang(names, resolver, "a.evil.example", "b.evil.example")
    third = asyncio.ensure_future(resolver("c.evil.example", 80))
    assert await is_found(resolver, "good.example")
    assert "c.evil.example" not in names.asked
    await let_go(names, [*waiting, third])


async def test_names_that_hang_leave_threads_to_those_that_answered_before(
    names: Names, resolver: SystemResolver
) -> None:
    assert await is_found(resolver, "known.example")
    waiting = await hang(names, resolver, *(f"hung{n}.example" for n in range(SHARES.unproven)))
    new = asyncio.ensure_future(resolver("new.example", 80))
    for _ in range(5):
        assert await is_found(resolver, "known.example")
    assert "new.example" not in names.asked
    await let_go(names, [*waiting, new])


async def test_a_name_that_fails_is_no_longer_one_that_answered(
    names: Names, resolver: SystemResolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await is_found(resolver, "once.example")

    def fails(host: str, *_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_AGAIN, "again")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", fails)
        with pytest.raises(socket.gaierror):
            await resolver("once.example", 80)
    waiting = await hang(names, resolver, *(f"hung{n}.example" for n in range(SHARES.unproven)))
    once = asyncio.ensure_future(resolver("once.example", 80))
    await asyncio.sleep(0)
    assert names.asked.count("once.example") == 1
    await let_go(names, [*waiting, once])


async def test_what_nobody_waits_for_any_more_is_not_looked_up(names: Names, resolver: SystemResolver) -> None:
    waiting = await hang(names, resolver, "a.evil.example", "b.evil.example")
    left = [asyncio.ensure_future(resolver("left.evil.example", 80)) for _ in range(2)]
    await asyncio.sleep(0)
    for each in left:
        each.cancel()
    await asyncio.wait(left)
    await let_go(names, waiting)
    assert await is_found(resolver, "last.evil.example")
    assert "left.evil.example" not in names.asked


async def test_more_names_than_may_wait_are_refused(names: Names, resolver: SystemResolver) -> None:
    waiting = await hang(names, resolver, "a.evil.example", "b.evil.example")
    waiting += [asyncio.ensure_future(resolver(f"{n}.evil.example", 80)) for n in range(SHARES.waiting)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many names"):
        await resolver("over.evil.example", 80)
    await let_go(names, waiting)


async def test_a_closed_resolver_refuses_and_ends_what_waits(names: Names, resolver: SystemResolver) -> None:
    waiting = await hang(names, resolver, "hung.example")
    resolver.close()
    await asyncio.wait(waiting, timeout=PATIENCE)
    assert waiting[0].cancelled()
    with pytest.raises(OSError, match="closed"):
        await resolver("late.example", 80)


def test_a_lookup_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    script = (
        "import asyncio, socket, threading\n"
        "from howk.adapters.outbound.resolve import SystemResolver\n"
        "asked = threading.Event()\n"
        "socket.getaddrinfo = lambda *_, **__: (asked.set(), threading.Event().wait())\n"
        "async def main():\n"
        "    resolver = SystemResolver()\n"
        "    waiting = asyncio.ensure_future(resolver('hung.example', 80))\n"
        "    while not asked.is_set():\n"
        "        await asyncio.sleep(0)\n"
        "    waiting.cancel()\n"
        "    resolver.close()\n"
        "asyncio.run(main())\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("host", "domain"),
    [("a.b.example.com", "example.com"), ("Example.COM.", "example.com"), ("localhost", "localhost"), ("", "")],
)
def test_a_domain_is_the_last_two_labels(host: str, domain: str) -> None:
    assert domain_of(host) == domain
