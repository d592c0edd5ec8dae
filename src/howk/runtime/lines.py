"""What is said: the `Reporter` behind the log's lines, for people on a terminal, JSON otherwise.

A line that is not written costs a comparison. Writing never waits for whoever reads: see `outlet`.
"""

import asyncio
import re
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from msgspec.json import Encoder

from howk.ports.telemetry import ATTEMPT_LEVELS, Attempt, Event, Level
from howk.runtime.outlet import Outlet

_RANK: dict[Level, int] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_MARK = {"debug": " ", "info": " ", "warning": "!", "error": "E"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_AGAIN = 0.1
_LAST_WORDS = 0.5

_encode = Encoder().encode

Field = str | int | float


class Lines:
    """The `Reporter` port. `least` is the level from which on lines are written."""

    def __init__(self, stream: TextIO | None = None, *, form: str = "auto", least: Level = "info") -> None:
        into = sys.stderr if stream is None else stream
        self._outlet = Outlet(into.fileno())
        self._as_json = form == "json" or (form == "auto" and not into.isatty())
        self._least = _RANK[least]
        self._said = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def dropped(self) -> int:
        """Lines that nobody read in time; it only rises."""
        return self._outlet.dropped

    def wants(self, level: Level) -> bool:
        """See the port."""
        return _RANK[level] >= self._least

    def say(self, event: Event, message: str, **fields: Field) -> None:
        """See the port."""
        self._line("info", event, message, fields)

    def warn(self, event: Event, message: str, **fields: Field) -> None:
        """See the port."""
        self._line("warning", event, message, fields)

    def fail(self, event: Event, message: str, **fields: Field) -> None:
        """See the port."""
        self._line("error", event, message, fields)

    def attempts(self, attempts: Sequence[Attempt]) -> None:
        """See the port."""
        wanted = [attempt for attempt in attempts if self.wants(ATTEMPT_LEVELS[attempt.outcome])]
        if wanted:
            now = _stamp()
            write = _json_attempt if self._as_json else _human_attempt
            self._put(b"".join([write(now, attempt) for attempt in wanted]))

    def close(self) -> None:
        """Say the last words, for which the reader is waited for a moment."""
        if self._timer is not None:
            self._timer.cancel()
        self._outlet.flush(_LAST_WORDS)
        self._say_dropped()

    def _line(self, level: Level, event: Event, message: str, fields: dict[str, Field]) -> None:
        if self.wants(level):
            make = _json if self._as_json else _human
            self._put(make(_stamp(), level, event, message, fields))

    def _put(self, lines: bytes) -> None:
        self._outlet.put(lines)
        self._afterwards()

    def _afterwards(self) -> None:
        """Where something is held, try again later; where nothing is any more, own up to what was dropped."""
        if not self._outlet.held:
            self._say_dropped()
        elif self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(_AGAIN, self._again)
            except RuntimeError:
                # Before the loop runs and after it: the next line tries again, or `close`.
                return

    def _again(self) -> None:
        self._timer = None
        self._outlet.flush()
        self._afterwards()

    def _say_dropped(self) -> None:
        dropped = self._outlet.dropped
        lost = dropped - self._said
        if lost and self.wants("warning"):
            make = _json if self._as_json else _human
            words = "log lines were dropped because nobody read them in time"
            self._outlet.put(make(_stamp(), "warning", "lines_dropped", words, {"count": lost}))
            if self._outlet.dropped == dropped:
                self._said = dropped


def _stamp() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03}Z"


def _json(stamp: str, level: str, event: str, message: str, fields: dict[str, Field]) -> bytes:
    return _encode({"time": stamp, "level": level, "event": event, "message": message, **fields}) + b"\n"


def _human(stamp: str, level: str, event: str, message: str, fields: dict[str, Field]) -> bytes:
    rest = "".join([f"  {name}={value}" for name, value in fields.items()])
    return f"{stamp[11:23]} {_MARK[level]} {_CONTROL.sub(_shown, message + rest)}\n".encode(errors="backslashreplace")


def _shown(control: re.Match[str]) -> str:
    """A receiver's words must not steer a terminal."""
    return control[0].encode("unicode_escape").decode()


def _json_attempt(stamp: str, attempt: Attempt) -> bytes:
    head = b'{"time":"%b","level":"%b","event":"attempt","message":"%b",'
    level, outcome = ATTEMPT_LEVELS[attempt.outcome].encode(), attempt.outcome.encode()
    return head % (stamp.encode(), level, outcome) + _encode(attempt)[1:] + b"\n"


def _human_attempt(stamp: str, attempt: Attempt) -> bytes:
    level = ATTEMPT_LEVELS[attempt.outcome]
    what = f"{attempt.webhook_id} attempt {attempt.attempt}/{attempt.max_attempts} {attempt.outcome}"
    answer = f" HTTP {attempt.status_code}" if attempt.status_code else ""
    told = f"{what}{answer} in {attempt.duration_ms:g} ms {attempt.endpoint}"
    left = {
        name: value
        for name in ("reason", "error", "next_state", "config_id", "series", "gen", "payload_bytes", "answer_bytes")
        if (value := getattr(attempt, name)) not in ("", 0)
    }
    return _human(stamp, level, "attempt", told, left)
