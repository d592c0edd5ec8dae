"""The embedded engine as contract tests open it, crash it and tamper with its files."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from howk.adapters.embedded.directory import Directory
from howk.adapters.embedded.endpoints import Holding
from howk.adapters.embedded.log import EmbeddedLog
from howk.adapters.embedded.state import EmbeddedState, Keep
from howk.ports.clock import Clock
from howk.testing.clock import ManualClock
from howk.testing.state_suite import StateSuite

CHILD = Path(__file__).with_name("crash_child.py")
KEEP = Keep(60_000, 20)


def keep_of(suite: StateSuite) -> Keep:
    """The engine's settings as the suite counts on them."""
    holding = Holding(suite.most_out, suite.ramp, suite.probe_lease, suite.endpoints_max)
    return Keep(suite.status_ttl, suite.status_max, holding=holding)


@asynccontextmanager
async def open_log(path: Path, clock: Clock | None = None) -> AsyncGenerator[EmbeddedLog]:
    """A log and its directory, closed in reverse."""
    directory = Directory.open(path)
    try:
        log = EmbeddedLog.open(directory, clock or ManualClock())
        try:
            yield log
        finally:
            await log.close()
    finally:
        directory.close()


@asynccontextmanager
async def open_state(path: Path, keep: Keep = KEEP) -> AsyncGenerator[EmbeddedState]:
    """A hot state and its directory, closed in reverse."""
    directory = Directory.open(path)
    try:
        state = EmbeddedState.open(directory, keep, ManualClock())
        directory.opened()
        try:
            yield state
        finally:
            await state.close()
    finally:
        directory.close()


def image_of(path: Path) -> Path:
    """What a process that is killed at this instant leaves behind."""
    image = path.with_name(f"{path.name}.killed")
    shutil.rmtree(image, ignore_errors=True)
    return Path(shutil.copytree(path, image))


def change(path: Path, sql: str, *values: object) -> None:
    """Tamper with a closed file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


def overwrite(path: Path, table: str, column: str, old: bytes, new: bytes) -> None:
    """Change stored bytes wherever they stand in a column, as a failing disk would."""
    assert len(old) == len(new)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for rowid, stored in connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall():
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (stored.replace(old, new), rowid))


def start_child(mode: str, path: Path, word: str = "") -> subprocess.Popen[str]:
    """A process that works on the directory and prints what it was answered for."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(CHILD), mode, str(path), word]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def killed_after(lines: int, mode: str, path: Path, word: str = "") -> Sequence[str]:
    """Kill such a process with SIGKILL once it has printed so many lines; every line it has printed."""
    with start_child(mode, path, word) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
    assert child.returncode < 0, f"the child ended by itself: {said[-1:]}"
    # A line that was cut off was not said.
    return [line.rstrip("\n") for line in said if line.endswith("\n")]
