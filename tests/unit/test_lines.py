"""The log's lines: what is written at which level and in which form, and that nobody is waited for."""

import json
import os
import tempfile
from collections.abc import Iterator
from typing import Any, TextIO

import pytest

from howk.domain.errors import whereabouts
from howk.ports.telemetry import ATTEMPT_LEVELS, Attempt
from howk.runtime.lines import Lines
from howk.runtime.outlet import Outlet


def _attempt(outcome: str = "delivered", **values: Any) -> Attempt:
    fields = {"at": 1_790_000_000_000, "endpoint": "http://127.0.0.1/hook", "status_code": 200, **values}
    return Attempt("wh_1", "app", 2, 20, 1, 1, outcome, "delivered", **fields)


@pytest.fixture
def file() -> Iterator[TextIO]:
    with tempfile.TemporaryFile("w+") as found:
        yield found


def _written(file: TextIO) -> str:
    file.seek(0)
    return file.read()


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The two ends of a pipe: the reader's, and what lines are written into."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        yield reading, stream
    os.close(reading)


def _read_all(descriptor: int) -> bytes:
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while piece := os.read(descriptor, 1 << 20):
            found += piece
    except BlockingIOError:
        pass
    return found


def test_lines_below_the_level_are_not_written(file: TextIO) -> None:
    lines = Lines(file, form="json", least="warning")
    lines.say("started", "quiet")
    lines.attempts([_attempt()])
    lines.warn("cut_off", "loud", count=3)
    lines.fail("internal", "louder")
    written = [json.loads(line) for line in _written(file).splitlines()]
    assert [(line["level"], line["message"]) for line in written] == [("warning", "loud"), ("error", "louder")]
    assert written[0]["count"] == 3
    assert not lines.wants("info")
    assert lines.wants("error")


def test_a_batch_of_attempts_is_a_json_line_each_with_every_figure(file: TextIO) -> None:
    lines = Lines(file, form="json", least="debug")
    lines.attempts([_attempt(), _attempt("failed", error="HTTP 500", status_code=500, first_byte_ms=1.5)])
    first, second = (json.loads(line) for line in _written(file).splitlines())
    assert (first["event"], first["level"], first["webhook_id"], first["attempt"]) == ("attempt", "debug", "wh_1", 2)
    assert (second["level"], second["error"], second["first_byte_ms"]) == ("warning", "HTTP 500", 1.5)
    assert "error" not in first
    assert "first_byte_ms" not in first


def test_every_outcome_of_an_attempt_has_a_level() -> None:
    assert set(ATTEMPT_LEVELS) == {"delivered", "failed", "rejected", "undecodable", "held", "cancelled"}


def test_words_of_a_receiver_cannot_steer_a_terminal(file: TextIO) -> None:
    lines = Lines(file, form="human")
    lines.warn("stage_retry", "a\x1b[2Jb\nc", stage="x\r\u2028y\ud800")
    lines.attempts([_attempt("failed", error="\x1b]0;evil\x07\n{}")])
    written = _written(file)
    assert written.count("\n") == 2
    assert not set(written) & {"\x1b", "\r", "\x07", "\u2028"}
    assert "wh_1 attempt 2/20 failed" in written


def test_a_stalled_reader_is_not_waited_for_and_what_was_dropped_is_said_once(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    lines = Lines(stream, form="json", least="debug")
    batch = [_attempt(error="x" * 400)] * 100
    for _ in range(200):
        lines.attempts(batch)
    dropped = lines.dropped
    assert 0 < dropped < 20_000
    found = b""
    # Each turn takes what the pipe holds, 64 KiB of the 4 MiB.
    for _ in range(100):
        found += _read_all(reading)
        lines.say("started", "on we go")
    lines.close()
    found += _read_all(reading)
    written = [json.loads(line) for line in found.splitlines()]
    said = [line["count"] for line in written if line["event"] == "lines_dropped"]
    assert said == [lines.dropped]
    assert sum(line["event"] == "attempt" for line in written) == 20_000 - dropped


def test_an_outlet_holds_no_more_than_its_bound_and_keeps_the_order(pipe: tuple[int, TextIO]) -> None:
    reading, stream = pipe
    outlet = Outlet(stream.fileno(), most=10_000)
    sent = [b"%06d %s\n" % (i, b"y" * 100) for i in range(5_000)]
    for line in sent:
        outlet.put(line)
        assert outlet.held <= 10_000
    found = b""
    while piece := _read_all(reading):
        found += piece
        outlet.flush()
    kept = found.splitlines(keepends=True)
    assert kept == sent[: len(kept)]
    assert len(kept) + outlet.dropped == len(sent)
    assert outlet.dropped > 0


def test_a_reader_that_has_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream:
        lines = Lines(stream, form="json")
        os.close(reading)
        lines.say("started", "to nobody")
        lines.say("stopped", "to nobody")
        lines.close()
        assert lines.dropped >= 2


def test_where_an_error_was_raised_is_told_without_its_message() -> None:
    def inner(secret: str) -> None:
        raise ValueError(secret)

    with pytest.raises(ValueError, match="s3cr3t") as caught:
        inner("s3cr3t")
    told = whereabouts(caught.value)
    assert told.startswith("ValueError < test_lines.py:")
    assert " in inner < test_lines.py:" in told
    assert "s3cr3t" not in told


def test_where_a_deep_recursion_was_raised_is_told_briefly() -> None:
    def deep() -> None:
        deep()

    with pytest.raises(RecursionError) as caught:
        deep()
    assert whereabouts(caught.value).count(" < ") == 12
