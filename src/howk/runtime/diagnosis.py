"""What is right and wrong with a machine and its settings, and what to do: judgements on what `probes` has found.

Decides purely: no file, clock or socket is touched here.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from howk.domain.budget import CROWDED, Budget, budget
from howk.domain.forward_proxy import UNAUTHORIZED
from howk.runtime.settings import Settings

Level = Literal["ok", "warn", "fail"]

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 38)
"""The first with the operator `->>`."""

_EARLIEST = 1_735_689_600.0  # 2025-01-01: howk did not exist before
_BACKWARDS = 300.0
_FILES_BESIDE = 64
_FILES_FOR_CLIENTS = 256
_LITTLE_SPACE = 1 << 30
_TOO_LITTLE_SPACE = 128 << 20
_OCTAL = re.compile(r"\\([0-7]{3})")  # how /proc/mounts writes a space
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})
_IN_CONTAINER = frozenset({"overlay", "aufs"})
_OVER_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "afs", "fuse.sshfs"})


class Check(NamedTuple):
    """One thing that was looked at; `advice` says what to do, "" where there is nothing to do."""

    name: str
    level: Level
    found: str
    advice: str = ""


class Place(NamedTuple):
    """The data directory, or the nearest directory above it where it is not there yet; sizes in bytes. `exposed` names
    what others than the owner may open, `newest` is when its newest file was written, in Unix seconds, 0 for none."""

    path: str
    exists: bool
    writable: bool
    exposed: Sequence[str]
    free: int
    file_system: str
    newest: float
    disk: int = 0


class Door(NamedTuple):
    """A port: `problem` is why it can't be listened on, "" when it can; `answer` is which howk answers there."""

    setting: str
    host: str
    port: int
    problem: str = ""
    taken: bool = False
    answer: str = ""


class Tunnel(NamedTuple):
    """What became of asking the forward proxy for a tunnel to `target`, "" when none was asked for: the `status` of its
    answer, or the `problem` because of which there is none."""

    target: str
    status: int = 0
    problem: str = ""


def settings(problems: Sequence[str], without_effect: Sequence[str]) -> Check:
    """Whether howk would start with its settings."""
    if problems:
        return Check("settings", "fail", "; ".join(problems), "put that right; `howk config check` looks again")
    if without_effect:
        return Check("settings", "warn", f"set without effect: {', '.join(without_effect)}", "take them out")
    return Check("settings", "ok", "they are right")


def python(version: tuple[int, int, int]) -> Check:
    """Whether the interpreter is new enough."""
    found = ".".join(map(str, version))
    if version[:2] < OLDEST_PYTHON:
        return Check("python", "fail", found, f"run howk with Python {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    return Check("python", "ok", found)


def sqlite(version: str) -> Check:
    """Whether the library is new enough."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        return Check("sqlite", "fail", version, f"run howk with a Python that has SQLite {oldest} or newer")
    return Check("sqlite", "ok", version)


def directory(place: Place) -> Check:
    """Whether the data directory can be written, and by its owner only."""
    name = "data directory"
    if not place.writable:
        what = "can't be written" if place.exists else "can't be made there"
        advice = "give this user the right to write there, or choose another one with HOWK_DATA_DIR"
        return Check(name, "fail", f"{place.path} {what}", advice)
    if not place.exists:
        return Check(name, "ok", f"not there yet; it will be made in {place.path}")
    if place.exposed:
        what = f"others may open {', '.join(place.exposed)}"
        return Check(name, "warn", what, f"chmod -R go-rwx {place.path}")
    return Check(name, "ok", f"{place.path} is writable, by its owner only")


def space(place: Place) -> Check:
    """Whether there is room to write."""
    found = f"{place.free >> 20} MiB are free"
    advice = "free some, or choose a directory on another disk with HOWK_DATA_DIR"
    if place.free < _TOO_LITTLE_SPACE:
        return Check("disk space", "fail", found, f"{advice}: a full disk closes the door (503)")
    if place.free < _LITTLE_SPACE:
        return Check("disk space", "warn", found, advice)
    return Check("disk space", "ok", found)


def file_system(place: Place) -> Check:
    """Whether what is written there stays."""
    kind = place.file_system
    advice = "choose a directory on a local disk with HOWK_DATA_DIR"
    if kind in _IN_MEMORY:
        return Check("file system", "warn", f"{kind}: all is gone when the machine stops", advice)
    if kind in _OVER_NETWORK:
        what = f"{kind}: locks and fsync over a network can't be relied on, and webhooks may be lost or doubled"
        return Check("file system", "warn", what, advice)
    if kind in _IN_CONTAINER:
        what = f"{kind}: all is gone when the container is removed"
        return Check("file system", "warn", what, "keep HOWK_DATA_DIR on a volume")
    return Check("file system", "ok", kind or "not known on this system")


def open_files(limit: int, wanted: Settings) -> Check:
    """Whether every attempt and every idle connection may have its descriptor; `limit` -1 is none."""
    delivery = wanted.delivery
    need = delivery.max_in_flight + delivery.max_idle_conns + _FILES_BESIDE
    found = f"{limit} may be open; deliveries take up to {need}"
    advice = f"raise it (ulimit -n {need + 4 * _FILES_FOR_CLIENTS}), or lower delivery.max_in_flight"
    if limit < 0:
        return Check("open files", "ok", "without limit")
    if limit < need:
        return Check("open files", "fail", found, advice)
    if limit < need + _FILES_FOR_CLIENTS:
        return Check("open files", "warn", f"{found}, which leaves {limit - need} for clients", advice)
    return Check("open files", "ok", found)


def clock(now: float, newest: float) -> Check:
    """Whether the clock can be right: times are in signatures, and decide when a retry is due."""
    advice = "set the clock, and keep it right with NTP"
    if now < _EARLIEST:
        return Check("clock", "fail", "it stands before 2025", advice)
    if newest > now + _BACKWARDS:
        ahead = round(newest - now)
        return Check("clock", "fail", f"the data directory was written {ahead} s in its future", advice)
    return Check("clock", "ok", "plausible")


def names(name: str, problem: str) -> Check:
    """Whether names of receivers can be resolved."""
    if problem:
        advice = "look at /etc/resolv.conf and the network; receivers with an address instead of a name are reached"
        return Check("names", "warn", f"{name} does not resolve: {problem}", advice)
    return Check("names", "ok", f"{name} resolves")


def proxy(found: Tunnel) -> Check:
    """Whether deliveries get through the forward proxy."""
    name = "forward proxy"
    if found.problem:
        advice = "look whether it runs, and at the host and port in HOWK_DELIVERY_PROXY: every delivery goes through it"
        return Check(name, "fail", f"no tunnel can be asked of it: {found.problem}", advice)
    if not found.target:
        return Check(name, "ok", "it takes connections; no tunnel was asked for, as the name does not resolve")
    if found.status in UNAUTHORIZED:
        what = f"it refuses the credentials (HTTP {found.status})"
        return Check(name, "fail", what, "put them right in HOWK_DELIVERY_PROXY")
    if not 200 <= found.status < 300:
        what = f"it refused a tunnel to {found.target} with HTTP {found.status}"
        return Check(name, "warn", what, "let it connect to the addresses and ports of your receivers")
    return Check(name, "ok", f"it opens a tunnel to {found.target}")


def key(problem: str, *, given: bool) -> Check:
    """Whether what was sealed can be opened."""
    if problem:
        return Check("encryption key", "fail", problem, "start howk with the key that sealed the secrets")
    where = "HOWK_SECURITY_ENCRYPTION_KEY" if given else "the data directory"
    return Check("encryption key", "ok", f"of {where}")


def log(refusal: str, note: str) -> Check:
    """Whether the log would be opened."""
    if refusal:
        return Check("log", "fail", refusal, "see docs/failure-modes.md before you change anything")
    return Check("log", "ok", note)


def log_size(used: int, unused: int, place: Place, asked: int) -> Check:
    """How near the log is to where the door closes."""
    found = budget(used, unused + place.free, place.disk, asked)
    what = f"{used >> 20} MiB of the {max(0, found.most) >> 20} MiB that {_bound(found)} allows"
    advice = "see docs/retention.md, what to do when the log is full"
    if found.fill >= 1:
        return Check("log size", "fail", f"{what}: the door is closed (503)", advice)
    if found.fill >= CROWDED:
        return Check("log size", "warn", f"{what}: configs over their share get 429", advice)
    return Check("log size", "ok", what)


def _bound(found: Budget) -> str:
    return "the disk" if found.by_disk else "retention.max_log_size"


def holder(process: str) -> Check:
    """Who has the data directory."""
    if process:
        return Check("lock", "ok", f"process {process} has the data directory")
    return Check("lock", "ok", "free")


def door(found: Door, holder: str) -> Check:
    """Whether the port is free, or taken by the howk that also has the data directory (`holder`)."""
    name = f"port {found.port}"
    choose = f"choose another one with {found.setting}"
    if found.answer and holder:
        return Check(name, "ok", f"{found.answer} answers there")
    if found.answer:
        return Check(name, "warn", f"{found.answer} answers there, with another data directory", choose)
    if found.taken:
        return Check(name, "fail", f"another program has {found.host} port {found.port}", choose)
    if found.problem:
        return Check(name, "fail", f"can't listen on {found.host} port {found.port}: {found.problem}", choose)
    return Check(name, "ok", "free")


def file_system_of(mounts: str, path: str) -> str:
    """The kind of file system that holds an absolute path, from the text of /proc/mounts; "" when it is not there."""
    best, kind = "", ""
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 3:
            continue
        point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), parts[1])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, parts[2]
    return kind
