"""SQLite as the embedded engine uses it: one thread owns the writing connection and commits what waits together.

Knows nothing of streams or deliveries. Jobs come from the event loop and their results go back to it; a file error
becomes `Transient`, and nothing of that group happened.
"""

import asyncio
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import lru_cache
from itertools import accumulate, chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from howk.domain.errors import Full, HowkError, Permanent, Transient

J = TypeVar("J")
R = TypeVar("R")
_Waiting = tuple[J, asyncio.Future[R], int]

_OF_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CONSTRAINT_PRIMARYKEY", "SQLITE_CONSTRAINT_ROWID")
_EXACT = 32
_SIZES = (48, 64, 96, 128, 192, 256, 384, 512)
_LOOK_EVERY = 64
_LONGEST_WAIT = 0.006
_QUIET_TURNS = 2
_ENOUGH_JOBS = 256
_ENOUGH_BYTES = 256 << 10
_MOST_BYTES = 1 << 20
_FEW_BYTES = 2 << 20
_MOST_GROWN = 4


def connect(path: Path, *, pragmas: Sequence[str] = (), read_only: bool = False) -> sqlite3.Connection:
    """A connection in manual transaction mode that any thread may use, one at a time."""
    where = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False, cached_statements=256)
    for pragma in pragmas:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def execute_rows(connection: sqlite3.Connection, into: str, rows: Sequence[Sequence[Any]], tail: str = "") -> None:
    """`into` gets the rows in as few statements as can be: each statement gives up the interpreter lock, and beside a
    busy loop getting it back costs more than the rows do.

    Few rows go in a statement of their number, many in one of few sizes, so that statements stay prepared; what such
    a size has too many is NULL and passed over.
    """
    width = len(rows[0]) if rows else 0
    start = 0
    while start < len(rows):
        part = rows[start : start + _SIZES[-1]]
        values = list(chain.from_iterable(part))
        if len(part) <= _EXACT or len(part) == _SIZES[-1]:
            connection.execute(_exactly(into, width, len(part), tail), values)
        else:
            size = next(size for size in _SIZES if size >= len(part))
            values.extend([None] * ((size - len(part)) * width))
            connection.execute(_at_most(into, width, size, tail), values)
        start += len(part)


@lru_cache(maxsize=256)
def _exactly(into: str, width: int, size: int, tail: str) -> str:
    one = "(" + ",".join("?" * width) + ")"
    return f"{into} VALUES {','.join([one] * size)} {tail}"


@lru_cache(maxsize=256)
def _at_most(into: str, width: int, size: int, tail: str) -> str:
    one = "(" + ",".join("?" * width) + ")"
    return f"{into} SELECT * FROM (VALUES {','.join([one] * size)}) WHERE column1 IS NOT NULL {tail}"


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """One transaction: committed at the end, rolled back when anything is raised."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _in_no_order(job: object) -> Collection[Hashable]:
    return ()


class Committer(Generic[J, R]):
    """A thread that runs together what waits, and answers when `run` has committed it.

    `run` gets jobs and returns a result for each. `before_answer` is called on the loop with a group's results before
    any caller sees them, in the order of the commits, even where a caller was cancelled.

    Large jobs stand in a line of their own, of which a group takes a bounded number of bytes, at least one job: small
    ones wait for one group and not for all that others bring. Two jobs that share a part of their `order` are run in
    the order of `submit`; others pass.

    A commit costs its fsync, a fight for the interpreter lock and a turn of every room, however little is in it. So a
    group is closed only when the loop has nothing more at hand to add to it, or `longest_wait` seconds after the one
    before: alone a job waits for no timer, and a busy loop makes few large groups.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[list[J]], list[R]],
        *,
        before_answer: Callable[[list[R]], None],
        max_group: int = 1024,
        max_waiting: int = 20_000,
        longest_wait: float = _LONGEST_WAIT,
        order: Callable[[J], Collection[Hashable]] = _in_no_order,
    ) -> None:
        self._name = name
        self._run = run
        self._before_answer = before_answer
        self._max_group = max_group
        self._max_waiting = max_waiting
        self._longest_wait = longest_wait
        self._order = order
        self._waiting = 0
        self._closed = False
        self._broken = False
        self._loop = asyncio.get_running_loop()
        self._gathered: list[_Waiting[J, R]] = []
        self._weight = 0
        self._standing: deque[_Waiting[J, R]] = deque()
        self._ordered: set[Hashable] = set()
        self._ordered_of = 0
        self._watching = False
        self._working = False
        self._handed_over_at = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._groups: SimpleQueue[list[_Waiting[J, R]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"howk-{name}", daemon=True)
        self._thread.start()

    def submit(self, job: J, weight: int = 0, *, large: bool = False) -> asyncio.Future[R]:
        """The job's result, once it is committed; `weight` is its size in bytes, about. One that is `large` lets others
        pass. Raises `Full` when too many wait."""
        if self._broken:
            raise self._bug()
        if self._closed:
            raise Transient(f"the {self._name} is closed: the process is stopping, try again")
        if self._waiting >= self._max_waiting:
            raise Full(f"{self._waiting} writes wait for the {self._name}: try again in a moment")
        self._waiting += 1
        self._idle.clear()
        future: asyncio.Future[R] = self._loop.create_future()
        if large or (self._standing and self._comes_after(job)):
            self._standing.append((job, future, weight))
        else:
            self._gathered.append((job, future, weight))
            self._weight += weight
        self._consider()
        return future

    async def close(self) -> None:
        """Commit what waits and end the thread."""
        self._closed = True
        await self._idle.wait()
        self._groups.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    # How groups are made, on the loop

    def _consider(self) -> None:
        if self._working or not (self._gathered or self._standing):
            return
        if self._standing or self._weight >= _ENOUGH_BYTES or len(self._gathered) >= _ENOUGH_JOBS:
            self._hand_over()
        elif not self._watching:
            self._watching = True
            self._loop.call_soon(self._watch, len(self._gathered), _QUIET_TURNS)

    def _watch(self, seen: int, quiet: int) -> None:
        """Called in each turn of the loop while a group is open; `quiet` turns without a new job close it."""
        count = len(self._gathered)
        quiet = quiet - 1 if count == seen else _QUIET_TURNS
        if self._working or not count:
            self._watching = False
        elif quiet and self._loop.time() < self._handed_over_at + self._longest_wait:
            self._loop.call_soon(self._watch, count, quiet)
        else:
            self._watching = False
            self._hand_over()

    def _hand_over(self) -> None:
        group = self._gathered[: self._most_of_gathered()]
        del self._gathered[: len(group)]
        weight = sum([each[2] for each in group]) if self._standing or self._gathered else self._weight
        self._weight -= weight
        if not self._gathered:
            self._take_standing(group, weight)
        self._working = True
        self._handed_over_at = self._loop.time()
        self._groups.put(group)

    def _most_of_gathered(self) -> int:
        """How many of the small ones make a group."""
        if self._weight <= _MOST_BYTES:
            return self._max_group
        weights = accumulate([weight for _, _, weight in self._gathered])
        return max(1, min(self._max_group, sum([weight <= _MOST_BYTES for weight in weights])))

    def _take_standing(self, group: list[_Waiting[J, R]], weight: int) -> None:
        """Of what stands behind, as much as there is room for and at least one; only into a group that has all that
        came before."""
        standing, alone = self._standing, len(group) < self._max_group
        while standing and (alone or (weight + standing[0][2] <= _MOST_BYTES and len(group) < self._max_group)):
            alone = False
            weight += standing[0][2]
            group.append(standing.popleft())
            self._ordered_of = 0
        if not self._ordered_of:
            self._ordered.clear()

    def _comes_after(self, job: J) -> bool:
        """Whether it has to stay behind something that stands."""
        for standing, _, _ in islice(self._standing, self._ordered_of, None):
            self._ordered.update(self._order(standing))
        self._ordered_of = len(self._standing)
        return not self._ordered.isdisjoint(self._order(job))

    def _answer(self, futures: list[asyncio.Future[R]], outcome: list[R] | HowkError) -> None:
        self._waiting -= len(futures)
        if not self._waiting:
            self._idle.set()
        if isinstance(outcome, HowkError):
            for future in futures:
                if not future.done():
                    future.set_exception(outcome)
            return
        self._before_answer(outcome)
        for future, result in zip(futures, outcome, strict=True):
            if not future.done():
                future.set_result(result)

    def _next(self, futures: list[asyncio.Future[R]], outcome: list[R] | HowkError) -> None:
        # First, so that the thread works on while the answers are given.
        self._working = False
        self._consider()
        self._answer(futures, outcome)

    def _ended(self) -> None:
        # After a bug nobody runs jobs any more: those that wait must not wait for ever.
        self._broken = not self._closed or self._waiting > 0
        left = [*self._gathered, *self._standing]
        self._gathered, self._standing = [], deque()
        while not self._groups.empty():
            left = [*(self._groups.get_nowait() or ()), *left]
        self._answer([future for _, future, _ in left], self._bug())

    def _bug(self) -> Permanent:
        return Permanent(f"the {self._name} stopped on a bug: restart howk and report it")

    # The thread

    def _work(self) -> None:
        try:
            while group := self._groups.get():
                outcome: list[R] | HowkError = self._bug()
                try:
                    outcome = self._run([job for job, _, _ in group])
                except sqlite3.DatabaseError as error:
                    outcome = translate(self._name, error)
                except MemoryError:
                    outcome = Permanent(f"out of memory: the {self._name} can't write; start howk again with more")
                    return
                finally:
                    self._loop.call_soon_threadsafe(self._next, [future for _, future, _ in group], outcome)
        finally:
            self._loop.call_soon_threadsafe(self._ended)


class Checkpoints:
    """Keeps a write-ahead log small without stopping its writer: the bulk is moved in a thread while commits go on, and
    the few pages that came meanwhile by the writer itself, so that the next commit begins the log anew. Where much has
    come meanwhile, that is moved in the thread as well, unless the log has grown to four times `above`.

    `above` is the size in bytes from which on it is moved; `pragmas` are for the thread's own connection.
    """

    def __init__(self, path: Path, above: int, pragmas: Sequence[str] = ()) -> None:
        self._path = path
        # It stands beside the file itself, wherever a link leads from.
        self._log = path.resolve().with_name(path.resolve().name + "-wal")
        self._above = above
        self._pragmas = pragmas
        self._commits = 0
        self._written = 0
        self._moving: Future[None] | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="howk-checkpoint")

    def after_commit(self, connection: sqlite3.Connection, written: int = 0) -> None:
        """To be called by the writer, outside a transaction; `written` are the bytes of the commit, where they are
        known. Raises nothing of the file's: the commit stands."""
        self._commits += 1
        self._written += written
        if self._moving is not None and self._moving.done():
            self._moving = None
            if self._written > _FEW_BYTES and self._log.stat().st_size < _MOST_GROWN * self._above:
                self._begin_to_move()
                return
            with suppress(sqlite3.DatabaseError):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        elif self._moving is None and (self._commits % _LOOK_EVERY == 0 or self._written > self._above):
            # A file that is written without one has none.
            if self._log.exists() and self._log.stat().st_size > self._above:
                self._begin_to_move()
            else:
                self._written = 0

    def _begin_to_move(self) -> None:
        self._written = 0
        self._moving = self._pool.submit(self._move)

    def close(self) -> None:
        """Wait for what is being moved."""
        self._pool.shutdown(wait=True)

    def _move(self) -> None:
        try:
            with closing(connect(self._path, pragmas=self._pragmas)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.DatabaseError:
            # A full disk is told by the commits themselves; this is tried again.
            return


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the file is not what was written, rather than out of reach for now. Statements that the schema does not
    take, and texts that are none, come of nothing else."""
    code = getattr(error, "sqlite_errorname", "")
    return code == "SQLITE_ERROR" or code.startswith(_OF_DAMAGE) or "UTF-8" in str(error)


def translate(name: str, error: sqlite3.DatabaseError) -> HowkError:
    """What a file error means for the caller."""
    code = getattr(error, "sqlite_errorname", "")
    if is_damage(error):
        return Permanent(f"the file of the {name} is damaged ({error}): restore the data directory from a backup")
    if code.startswith("SQLITE_FULL"):
        return Transient(f"the disk is full, so the {name} can't write: free some space; nothing was lost", 5.0)
    return Transient(f"the {name} can't write ({code or error}): check the disk and its permissions", 2.0)
