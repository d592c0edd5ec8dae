"""The operating system as a witness, by way of strace: it saw the log's fsync return before howk wrote the 202."""

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.e2e.harness import DEADLINE, Howk, Receiver, envelope, until

pytestmark = pytest.mark.e2e

READS = frozenset({"read", "readv", "recvfrom", "recvmsg"})
WRITES = frozenset({"write", "writev", "sendto", "sendmsg"})
FILE_WRITES = frozenset({"pwrite64", "pwritev", "write", "writev"})
SYNCS = frozenset({"fsync", "fdatasync"})
TRACED = ",".join(sorted(READS | WRITES | FILE_WRITES | SYNCS))
WAL = "/log.db-wal"

_CALL = r"(?P<thread>\d+)\s+(?P<name>\w+)\(\d+<(?P<target>(?:->|[^>])*)>"
_WHOLE = re.compile(_CALL + r"(?P<rest>.*)\)\s+= (?P<result>-?\d+).*")
_BEGUN = re.compile(_CALL + r"(?P<rest>.*) <unfinished \.\.\.>")
_RESUMED = re.compile(r"(?P<thread>\d+)\s+<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)\)\s+= (?P<result>-?\d+).*")


class SystemCall(NamedTuple):
    """A call on a file or connection. `began` and `ended` are lines of the trace, which are in the order of time."""

    name: str
    target: str
    text: str
    result: int
    began: int
    ended: int


def parse(lines: Iterable[str]) -> list[SystemCall]:
    """The calls of a trace of `strace -f -yy`, by when they began; those that never ended are not in it."""
    calls: list[SystemCall] = []
    begun: dict[str, tuple[int, re.Match[str]]] = {}
    for number, line in enumerate(lines):
        if whole := _WHOLE.fullmatch(line):
            calls.append(
                SystemCall(whole["name"], whole["target"], whole["rest"], int(whole["result"]), number, number)
            )
        elif start := _BEGUN.fullmatch(line):
            begun[start["thread"]] = number, start
        elif (end := _RESUMED.fullmatch(line)) and end["thread"] in begun:
            began, start = begun.pop(end["thread"])
            text = start["rest"] + end["rest"]
            calls.append(SystemCall(start["name"], start["target"], text, int(end["result"]), began, number))
    return sorted(calls, key=lambda call: call.began)


def problem(calls: Sequence[SystemCall], request: str) -> str:
    """Why the 202 to the request with this path was not preceded by its fsync, "" when it was."""
    reads = [call for call in calls if call.name in READS and f'"POST {request} ' in call.text]
    if len(reads) != 1:
        return f"it was read {len(reads)} times"
    [read] = reads
    answers = [
        call
        for call in calls
        if call.name in WRITES and call.target == read.target and call.began > read.ended and '"HTTP/1.1 ' in call.text
    ]
    if not answers or '"HTTP/1.1 202 ' not in answers[0].text:
        return "no 202 was written"
    answer = answers[0]
    log = [call for call in calls if call.target.endswith(WAL) and read.ended < call.began < answer.began]
    written = next((call for call in log if call.name in FILE_WRITES and call.result > 0), None)
    if written is None:
        return "nothing was written to the log before the 202"
    synced = [
        call
        for call in log
        if call.name in SYNCS and call.result == 0 and call.began > written.ended and call.ended < answer.began
    ]
    return "" if synced else "the log was not synced between its write and the 202"


async def test_every_202_is_written_after_the_fsync_of_its_records_returned(tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        if os.environ.get("CI"):
            pytest.fail("strace has to be there in CI")
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    # -D: howk is our child and the tracer is not, so that signals and the exit code are howk's.
    tracer = [strace, "-D", "-f", "-yy", "-s", "100", "-e", "signal=none", "-e", f"trace={TRACED}", "-o", str(trace)]
    requests: list[str] = []
    async with Receiver() as receiver, Howk(tmp_path) as howk:
        await howk.stop()
        await howk.start(under=tracer)
        for number in range(5):
            # Each has ended before the next begins: what is synced meanwhile is the request's own.
            one = await howk.enqueue(receiver.url(), config=f"one-{number}")
            await howk.reach([one], "delivered")
            items = [envelope(receiver.url(), b"%d" % item) for item in range(3)]
            many = await howk.enqueue_batch(items, config=f"many-{number}")
            await howk.reach(many, "delivered")
            requests += [f"/webhooks/one-{number}/enqueue", f"/webhooks/many-{number}/enqueue/batch"]
        pid = howk.pid
        assert await howk.stop() == 0

    async def written() -> bool:
        return [str(pid), "+++", "exited"] in [line.split()[:3] for line in trace.read_text().splitlines()]

    await until(written, "the trace is whole", DEADLINE)
    calls = parse(trace.read_text().splitlines())
    assert {request: problem(calls, request) for request in requests} == dict.fromkeys(requests, "")


READ = '7 read(9<TCP:[127.0.0.1:80->127.0.0.1:5000]>, "POST /a HTTP/1.1\\r\\n"..., 999) = 120'
APPEND = '8 pwrite64(16</d/log.db-wal>, "\\0"..., 8192, 32) = 8192'
SYNC = "8 fdatasync(16</d/log.db-wal>)     = 0"
SYNC_BEGINS = "8 fdatasync(16</d/log.db-wal> <unfinished ...>"
SYNC_ENDS = "8 <... fdatasync resumed>)         = 0"
ANSWER = '7 write(9<TCP:[127.0.0.1:80->127.0.0.1:5000]>, "HTTP/1.1 202 Accepted\\r\\n"..., 114) = 114'


@pytest.mark.parametrize(
    "trace",
    [
        [READ, APPEND, SYNC, ANSWER],
        [READ, APPEND, SYNC_BEGINS, SYNC_ENDS, ANSWER],
        [SYNC, READ, APPEND, SYNC_BEGINS, "9 read(3</dev/null>, 1) = 0", SYNC_ENDS, ANSWER, SYNC],
        [
            "7 read(9<TCP:[127.0.0.1:80->127.0.0.1:5000]>,  <unfinished ...>",
            SYNC,
            '7 <... read resumed>"POST /a HTTP/1.1\\r\\n"..., 999) = 120',
            APPEND,
            SYNC,
            ANSWER,
        ],
    ],
)
def test_a_trace_in_the_right_order_is_recognised(trace: list[str]) -> None:
    assert problem(parse(trace), "/a") == ""


@pytest.mark.parametrize(
    ("trace", "why"),
    [
        ([READ, APPEND, ANSWER, SYNC], "not synced"),
        ([READ, APPEND, SYNC_BEGINS, ANSWER, SYNC_ENDS], "not synced"),
        ([SYNC_BEGINS, READ, APPEND, SYNC_ENDS, ANSWER], "not synced"),
        ([READ, SYNC_BEGINS, APPEND, SYNC_ENDS, ANSWER], "not synced"),
        ([READ, APPEND, SYNC.replace("= 0", "= -1 EIO (Input/output error)"), ANSWER], "not synced"),
        ([READ, APPEND, SYNC.replace("log.db-wal", "hot.db-wal"), ANSWER], "not synced"),
        ([READ, APPEND, SYNC.replace("log.db-wal", "log.db"), ANSWER], "not synced"),
        ([APPEND, READ, SYNC, ANSWER], "nothing was written"),
        ([READ, SYNC, ANSWER], "nothing was written"),
        ([READ, APPEND, SYNC], "no 202"),
        ([READ, APPEND, SYNC, ANSWER.replace("5000", "5001")], "no 202"),
        ([READ, APPEND, SYNC, ANSWER.replace("202", "503")], "no 202"),
        ([APPEND, SYNC, ANSWER], "read 0 times"),
    ],
)
def test_a_trace_in_the_wrong_order_is_detected(trace: list[str], why: str) -> None:
    assert why in problem(parse(trace), "/a")
