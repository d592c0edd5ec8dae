"""A process made to be killed: it works on a data directory as fast as it can and prints what it was answered for."""

import asyncio
import itertools
import sys
from pathlib import Path

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.log import EmbeddedLog
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.domain.delivery import Status
from howk.domain.errors import Permanent
from howk.domain.records import PENDING, RESULTS, SLOW, STATE
from howk.ports.log import Entry, Finish, Place, Record
from howk.ports.state import Effect
from howk.testing.clock import ManualClock

APPENDERS = 4
BURST = 60
LARGE = bytes(300_000)


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def append(path: Path, word: str) -> None:
    """Appends to two streams at once, and a room that finishes one of them into a third and a table."""
    log = EmbeddedLog.open(Directory.open(path), ManualClock())

    async def accept(who: int) -> None:
        for n in itertools.count():
            name = f"{word}.{who}.{n}"
            await log.append([Record(stream, name, name.encode()) for stream in (PENDING, SLOW)])
            say("accepted", name)

    async def settle() -> None:
        woken = asyncio.Event()
        consumer = await log.consume(PENDING, "room", woken.set)
        while True:
            woken.clear()
            batch = await consumer.fetch(7)
            if not batch:
                await woken.wait()
                continue
            records = [Record(where, entry.key, entry.value) for entry in batch for where in (RESULTS, STATE)]
            offsets = [entry.offset for entry in batch]
            await log.append(records, Finish("room", {Place(PENDING, 0): offsets}))
            say("settled", *[entry.key for entry in batch])

    await asyncio.gather(settle(), *[accept(who) for who in range(APPENDERS)])


async def trim(path: Path, word: str) -> None:
    """Appends large records, finishes them in bursts, and drops what is finished all the while, so that the file grows
    and shrinks."""
    log = EmbeddedLog.open(Directory.open(path), ManualClock())

    async def accept() -> None:
        for n in itertools.count():
            name = f"{word}.{n}"
            await log.append([Record(PENDING, name, LARGE)])
            say("accepted", name)

    async def settle() -> None:
        woken = asyncio.Event()
        consumer = await log.consume(PENDING, "room", woken.set)
        hand: list[Entry] = []
        while True:
            woken.clear()
            hand += await consumer.fetch(100)
            if len(hand) < BURST:
                await woken.wait()
                continue
            await log.append(
                [Record(RESULTS, entry.key, b"done") for entry in hand],
                Finish("room", {Place(PENDING, 0): [entry.offset for entry in hand]}),
            )
            hand.clear()
            say("settled")

    async def drop() -> None:
        while True:
            await log.trim(PENDING, 0, 1 << 62)
            say("trimmed")
            await asyncio.sleep(0.001)

    await asyncio.gather(settle(), accept(), drop())


async def apply(path: Path, word: str) -> None:
    """Applies one ended and one waiting delivery after the other, each with its watermark."""
    directory = Directory.open(path)
    state = EmbeddedState.open(directory, Keep(1 << 40, 1 << 30), ManualClock())
    directory.opened()
    condition = await state.condition()
    if not condition.valid:
        await (await state.rebuild()).seal({})
    say("began", str(condition.watermark.get(0, 0)), condition.reason)
    for n in itertools.count(condition.watermark.get(0, 0) + 1):
        waits = Effect(Status(id=f"w{n}", scope=word, state="failed", gen=1), n, b"%d" % n)
        ended = Effect(Status(id=f"e{n}", scope=word, state="delivered", ended_at=n))
        await state.apply([waits, ended], {0: n})
        say("applied", str(n))


async def try_to_open(path: Path, word: str) -> None:
    """Says why it can't have the directory."""
    del word
    try:
        Directory.open(path)
    except Permanent as error:
        say(str(error))


if __name__ == "__main__":
    modes = {"append": append, "trim": trim, "apply": apply, "open": try_to_open}
    asyncio.run(modes[sys.argv[1]](Path(sys.argv[2]), sys.argv[3]))
