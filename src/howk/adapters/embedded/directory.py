"""The data directory: one process at a time, which run wrote last, and whether it ended cleanly.

Knows nothing of what the files hold. Hot state asks it whether its file belongs to the run that ended last; the log
asks it whether a write-ahead log must be there.
"""

import fcntl
import os
import secrets
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from msgspec import DecodeError, Struct
from msgspec.json import decode, encode
from msgspec.structs import replace

from howk.domain.errors import Permanent

_PRIVATE = 0o700


class Run(Struct, frozen=True):
    """One run of a process on the directory. `boot` names the boot of the machine it ran under."""

    session: str
    boot: str
    pid: int
    clean: bool = False


class Directory:
    """Held by one process from `open` to `close`."""

    def __init__(self, path: Path, lock: int, previous: Run | None, run: Run) -> None:
        self.path = path
        self.previous = previous
        self.run = run
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> "Directory":
        """Create the directory where it is missing, and lock it. Raises `Permanent` when another process has it."""
        path = path.absolute()
        try:
            path.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
            sync_directory(path.parent)
            handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Permanent(
                f"the data directory {path} can't be made or entered ({error.strerror}): check its permissions, or "
                "choose another with HOWK_DATA_DIR"
            ) from error
        with ExitStack() as undo:
            undo.callback(os.close, handle)
            _lock(path, handle)
            previous = _read(path / "run.json")
            run = Run(session=secrets.token_hex(16), boot=boot_id(), pid=os.getpid())
            undo.pop_all()
        return cls(path, handle, previous, run)

    def opened(self) -> None:
        """The engines' files are there: from now on a missing one means a loss."""
        try:
            self._write(self.run)
        except OSError as error:
            raise _unreachable(self.path / "run.json", error) from error

    def closed_whole(self) -> None:
        """The log's files are whole: the next run need not find a write-ahead log."""
        self._write(Run(self.run.session, self.run.boot, self.run.pid, clean=True))

    def left_whole(self) -> None:
        """The log's files are whole and were left as they were found: the last run stays the last."""
        if self.previous is not None:
            self._write(replace(self.previous, clean=True))

    def close(self) -> None:
        """Let another process have the directory."""
        os.close(self._lock)

    def _write(self, run: Run) -> None:
        write_durably(self.path / "run.json", encode(run))


def holder(path: Path) -> str:
    """The process id of who has the directory, "" when nobody does; waits for nothing and changes nothing."""
    try:
        handle = os.open(path / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(handle)
    return ""


def last_run(path: Path) -> Run | None:
    """Which run was last on the directory. Raises `Permanent` when its note can't be read."""
    return _read(path / "run.json")


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that after a crash it holds either the old bytes or all of the new ones."""
    fresh = path.with_name(path.name + ".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)
    fresh.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def boot_id() -> str:
    """What changes whenever the machine starts."""
    if sys.platform == "linux":
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return subprocess.run(
        ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], check=True, capture_output=True, text=True
    ).stdout.strip()


def _lock(path: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip()
        if not isinstance(error, BlockingIOError):
            raise Permanent(
                f"{path} can't be locked ({error.strerror}): it has to be on a local file system"
            ) from error
        raise Permanent(
            f"{path} is in use by another howk (process {owner or 'unknown'}): "
            "stop that one, or choose another directory with HOWK_DATA_DIR"
        ) from error
    with suppress(OSError):
        # On a full disk the lock holds all the same.
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)


def _unreachable(path: Path, error: OSError) -> Permanent:
    return Permanent(
        f"{path} can't be read or written ({error.strerror}): see to its permissions and to the room on its disk; "
        "nothing was lost"
    )


def _read(path: Path) -> Run | None:
    try:
        return decode(path.read_bytes(), type=Run)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreachable(path, error) from error
    except (DecodeError, UnicodeDecodeError) as error:
        raise Permanent(
            f"{path} is damaged ({error}): howk can't tell how its last run ended. Restore the directory from a "
            "backup, or move this file away if you know that nothing else in the directory is missing"
        ) from error
