"""The machine under the measurement: what it is, which core runs what, and what the kernel counts of a process.

Reads /proc, so that a measurement needs no privilege; `perf` counts system calls where it may.
"""

import os
import platform
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_ENDS_WITHIN = 5.0
_SYNCS = ("syscalls:sys_enter_fdatasync", "syscalls:sys_enter_fsync")


def describe() -> dict[str, str | int]:
    """What a figure depends on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


class Cores(NamedTuple):
    """`measured` runs the process measured, `rest` everything else; both are all cores where there is but one."""

    measured: frozenset[int]
    rest: frozenset[int]

    def __str__(self) -> str:
        if self.measured == self.rest:
            return "howk, client and sink share all cores"
        return f"howk on core {_listed(self.measured)}, client and sink on core {_listed(self.rest)}"


def cores(*, pin: bool) -> Cores:
    """Who runs where."""
    if not hasattr(os, "sched_getaffinity"):
        everything = frozenset(range(os.cpu_count() or 1))
        return Cores(everything, everything)
    everything = frozenset(os.sched_getaffinity(0))
    if not pin or len(everything) < 2:
        return Cores(everything, everything)
    first = frozenset({min(everything)})
    return Cores(first, everything - first)


def _listed(numbers: frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


class Spent(NamedTuple):
    """CPU seconds of a process: of its event loop's thread, and of all its threads."""

    loop: float
    total: float

    def since(self, before: "Spent") -> "Spent":
        return Spent(self.loop - before.loop, self.total - before.total)


def spent(pid: int) -> Spent:
    """What a process has used up so far."""
    return Spent(_seconds(Path(f"/proc/{pid}/task/{pid}/stat")), _seconds(Path(f"/proc/{pid}/stat")))


def _seconds(stat: Path) -> float:
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def resident(pid: int) -> float:
    """Resident memory in MB."""
    return _memory(pid, "VmRSS:")


def peak(pid: int) -> float:
    """The most resident memory that it has had, in MB."""
    return _memory(pid, "VmHWM:")


def _memory(pid: int, kind: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1024
    return 0.0


class Syncs:
    """Counts the fsyncs of a process; where `perf` may not, every flush of the disk below `directory`."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.what = "fsyncs"
        self._directory = directory
        self._output = directory / "perf.csv"
        self._perf: subprocess.Popen[bytes] | None = None
        if shutil.which("perf") and _perf_counts():
            command = ["perf", "stat", "-x,", "-e", ",".join(_SYNCS), "-o", str(self._output), "-p", str(pid)]
            self._perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        else:
            self.what = "flushes of the disk"
            self._before = _flushes(directory)

    def end(self) -> int | None:
        """How many since the beginning; None where nothing can be known."""
        if self._perf is None:
            after = _flushes(self._directory)
            return None if after is None or self._before is None else after - self._before
        self._perf.send_signal(2)
        try:
            self._perf.wait(_ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            # The signal came before it had begun.
            self.close()
        if not self._output.exists():
            return None
        lines = [line for line in self._output.read_text().splitlines() if "sys_enter" in line]
        return sum(int(line.split(",")[0]) for line in lines)

    def close(self) -> None:
        if self._perf is not None and self._perf.poll() is None:
            self._perf.kill()
            self._perf.wait()


def _perf_counts() -> bool:
    probe = subprocess.run(["perf", "stat", "-e", ",".join(_SYNCS), "true"], capture_output=True, check=False)
    return probe.returncode == 0 and b"not supported" not in probe.stderr and b"not counted" not in probe.stderr


def _flushes(directory: Path) -> int | None:
    device = os.stat(directory).st_dev
    try:
        lines = Path("/proc/diskstats").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)) and len(fields) > 18:
            return int(fields[18])
    return None


def real_disk(wanted: str | None) -> Path:
    """A directory whose writes reach a disk. Raises `SystemExit` where only memory is to be had."""
    candidates = [wanted] if wanted else [tempfile.gettempdir(), "/var/tmp", "."]  # noqa: S108 - only the parent
    for candidate in candidates:
        path = Path(candidate).resolve()
        if path.is_dir() and _filesystem(path) not in ("tmpfs", "ramfs"):
            return path
    raise SystemExit(f"{' and '.join(candidates)} are in memory, where an fsync costs nothing: choose --directory")


def _filesystem(path: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return ""
    over = [mount for mount in mounts if path.is_relative_to(mount[1])]
    return max(over, key=lambda mount: len(mount[1]))[2] if over else ""
