"""Looks at the machine for `howk doctor`, with deadlines, and changes nothing; `diagnosis` says what it means."""

import errno
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from msgspec import DecodeError, json

from howk.domain.errors import Permanent
from howk.domain.forward_proxy import parse_proxy
from howk.runtime import diagnosis
from howk.runtime.diagnosis import Check, Door, Place
from howk.runtime.door import trust
from howk.runtime.keys import key_problem
from howk.runtime.loading import Loaded, SettingsError, load_from_process
from howk.runtime.proxy_probe import ask_proxy
from howk.runtime.settings import Settings
from howk.runtime.wiring import examine, most_of, refusals

_RESOLVED_WITHIN = 5.0
_ANSWERED_WITHIN = 2.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask, not where to listen


def checkup(flags: dict[str, str], name: str) -> Iterator[Check]:
    """Every check, as soon as it is made; `name` is a host name to resolve."""
    try:
        loaded = load_from_process(flags)
    except SettingsError as error:
        loaded = None
        yield diagnosis.settings([str(problem) for problem in error.problems], ())
    if loaded is not None:
        yield diagnosis.settings(start_problems(loaded), loaded.inert)
    yield diagnosis.python(sys.version_info[:3])
    yield diagnosis.names(name, _resolve(name))
    if loaded is not None:
        if url := loaded.settings.delivery.proxy:
            yield diagnosis.proxy(ask_proxy(parse_proxy(url), name))
        yield from _kept(loaded.settings)
        yield diagnosis.open_files(_open_files(), loaded.settings)


def start_problems(loaded: Loaded) -> list[str]:
    """What would refuse the start although every key can be read."""
    words = refusals(loaded.settings)
    try:
        trust(loaded.settings)
    except Permanent as error:
        words.append(str(error))
    return words


def _kept(settings: Settings) -> Iterator[Check]:
    """Checks of the data directory, and of the port that may be taken by who has it."""
    path = settings.data_dir.absolute()
    place = look_at(path)
    yield diagnosis.directory(place)
    yield diagnosis.space(place)
    yield diagnosis.file_system(place)
    yield diagnosis.clock(time.time(), place.newest)
    given = settings.security.encryption_key
    yield diagnosis.key(key_problem(path, given), given=given is not None)
    try:
        found = examine(path)
    except OSError as error:
        yield diagnosis.log(f"this user may not read it: {error}", "")
        return
    yield diagnosis.sqlite(found.sqlite)
    yield diagnosis.holder(found.holder)
    yield diagnosis.log(found.refusal, found.note)
    yield diagnosis.log_size(found.used, found.unused, place, most_of(settings, place.disk))
    if settings.api.port:
        yield diagnosis.door(_look_behind(settings.api.host, settings.api.port), found.holder)


def look_at(path: Path) -> Place:
    """What there is to know of a data directory from outside, or of the place where it would be made."""
    # What may not be looked at is as good as not there; pathlib would raise.
    exists = os.path.isdir(path)
    where = path
    while not os.path.exists(where):
        where = where.parent
    disk = os.statvfs(where)
    own = _stat(path) if exists else None
    files = {file.name: _stat(file) for file in _files(path)} if exists else {}
    # Behind a directory that is closed to others, its files are too.
    open_to_others = own is not None and own.st_mode & 0o077
    exposed = [name for name, stat in files.items() if stat and stat.st_mode & 0o077]
    return Place(
        path=str(where),
        exists=exists,
        writable=where.is_dir() and os.access(where, os.R_OK | os.W_OK | os.X_OK),
        exposed=[str(path), *exposed] if open_to_others else [],
        free=disk.f_bavail * disk.f_frsize,
        disk=disk.f_blocks * disk.f_frsize,
        file_system=diagnosis.file_system_of(_mounts(), str(where.resolve())),
        newest=max((stat.st_mtime for stat in files.values() if stat), default=0.0),
    )


def _files(path: Path) -> list[Path]:
    try:
        return sorted(path.iterdir())
    except OSError:
        return []


def _stat(path: Path) -> os.stat_result | None:
    """None for what has gone meanwhile, or may not be looked at."""
    try:
        return path.stat()
    except OSError:
        return None


def _mounts() -> str:
    try:
        return Path("/proc/mounts").read_text("utf-8", "replace")
    except OSError:
        return ""


def _open_files() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return -1 if limit == resource.RLIM_INFINITY else limit


def _resolve(name: str) -> str:
    """Why a name does not resolve, "" when it does. The resolver has no deadline of its own."""
    said: list[str] = []

    def ask() -> None:
        try:
            socket.getaddrinfo(name, 443)
        except (OSError, UnicodeError) as error:
            said.append(getattr(error, "strerror", None) or str(error))
        else:
            said.append("")

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_RESOLVED_WITHIN)
    return said[0] if said else f"no answer within {_RESOLVED_WITHIN:g} s"


def _look_behind(host: str, port: int) -> Door:
    """Whether the door's port is free, and who has it where it is not."""
    found = Door("--port or HOWK_API_PORT", host, port)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            answer = _ask(_EVERYWHERE.get(host, host), port) if taken else ""
            return found._replace(problem=error.strerror or str(error), taken=taken, answer=answer)
    return found


def _ask(host: str, port: int) -> str:
    """Which howk answers, "" when none does."""
    connection = HTTPConnection(host, port, timeout=_ANSWERED_WITHIN)
    try:
        connection.request("GET", "/health")
        answer = json.decode(connection.getresponse().read(65_536), type=dict[str, object])
    except (OSError, HTTPException, DecodeError, UnicodeError):
        return ""
    finally:
        connection.close()
    return f"howk {answer['version']}" if answer.get("status") == "ok" and "version" in answer else ""
