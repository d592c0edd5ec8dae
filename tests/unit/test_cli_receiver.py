"""`howk receiver`: what it prints of a webhook, and that it starts, takes and ends as a process."""

import asyncio
import json
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner, Result

from howk.cli.main import cli
from howk.cli.receiver import json_line, line
from howk.testing.receiver import Received, Receiver

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
PROCESS = (sys.executable, "-c", "from howk.cli.main import main; main()", "receiver")
RECEIVED = Received(
    id="wh_1",
    attempt=2,
    at=1_700_000_000_500,
    target="/hook",
    headers=[(b"content-type", b"text/plain"), (b"x-own", "ü".encode())],
    body="grüße".encode(),
    status=500,
    verdict="good",
)


def howk(*arguments: str, environment: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="howk", env=environment)


def test_a_webhook_is_one_line_for_people() -> None:
    assert line(RECEIVED) == (
        "2023-11-14T22:13:20.500Z  wh_1  attempt 2  /hook  7 B text/plain  signature good  -> 500"
    )


def test_what_a_sender_says_can_not_break_the_line() -> None:
    received = Received(
        id="\x1b[2J\n", attempt=0, at=0, target="/", headers=[], body=b"", status=0, verdict="unchecked"
    )
    assert line(received) == ("1970-01-01T00:00:00.000Z  \\x1b[2J\\n  /  0 B -  signature unchecked  -> no answer")


def test_a_webhook_is_one_document_for_programs() -> None:
    text = json_line(RECEIVED)
    assert "\n" not in text
    assert json.loads(text) == {
        "id": "wh_1",
        "attempt": 2,
        "at": "2023-11-14T22:13:20.500Z",
        "target": "/hook",
        "headers": [["content-type", "text/plain"], ["x-own", "ü"]],
        "body": "grüße",
        "status": 500,
        "signature": "good",
    }


def test_a_body_that_is_not_text_is_base64() -> None:
    received = Received(id="", attempt=0, at=0, target="/", headers=[], body=b"\xff", status=200, verdict="unchecked")
    assert json.loads(json_line(received))["body_base64"] == "/w=="


def test_a_broken_secret_is_misuse() -> None:
    done = howk("receiver", environment={"ENDPOINT_SECRET": "whsec_?"})
    assert done.exit_code == 2
    assert "standard base64" in done.stderr


@pytest.mark.parametrize("arguments", [["--status", "99"], ["--port", "65536"], ["--delay-ms", "-1"]])
def test_a_value_out_of_range_is_misuse(arguments: Sequence[str]) -> None:
    assert howk("receiver", *arguments).exit_code == 2


@pytest.mark.parametrize("name", ["FAIL_FIRST_N", "RESPONSE_DELAY_MS"])
def test_a_bad_value_in_the_environment_is_misuse_and_is_named(name: str) -> None:
    done = howk("receiver", environment={name: "many"})
    assert done.exit_code == 2
    assert name in done.stderr


@pytest.mark.e2e
async def test_a_port_that_is_taken_is_a_failure() -> None:
    async with Receiver() as taken:
        process = await asyncio.create_subprocess_exec(
            *PROCESS, "--port", str(taken.port), stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, said = await process.communicate()
    assert process.returncode == 1
    assert said == b"Error: cannot listen on 127.0.0.1 port %d: Address already in use\n" % taken.port


@asynccontextmanager
async def running(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *PROCESS,
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=dict(os.environ) | dict(environment or {}),
    )
    try:
        async with asyncio.timeout(30):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def printed(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def post(url: str, webhook_id: str) -> int:
    request = urllib.request.Request(url, data=b"{}", headers={"webhook-id": webhook_id}, method="POST")

    def exchange() -> int:
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(exchange)


@pytest.mark.e2e
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_prints_each_webhook_and_ends_well_by_a_signal(number: signal.Signals) -> None:
    async with running("--port", "0", "--json", environment={"FAIL_FIRST_N": "1"}) as process:
        url = json.loads(await printed(process))["url"]
        assert [await post(url + "/a", "wh_1") for _ in range(2)] == [500, 200]
        assert [json.loads(await printed(process))["status"] for _ in range(2)] == [500, 200]
        process.send_signal(number)
        assert await process.wait() == 0


@pytest.mark.e2e
async def test_it_checks_signatures_with_the_secret_of_the_environment() -> None:
    async with running("--port", "0", environment={"ENDPOINT_SECRET": "two words"}) as process:
        url = (await printed(process)).split()[4]
        assert await post(url, "wh_1") == 401
        assert "signature there is none  -> 401" in await printed(process)
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.e2e
async def test_it_ends_when_nobody_reads_what_it_prints() -> None:
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(*PROCESS, "--port", "0", "--json", stdout=writing)
    os.close(writing)
    with os.fdopen(reading) as lines:
        url = json.loads(await asyncio.to_thread(lines.readline))["url"]
    assert await post(url, "wh_1") == 200
    async with asyncio.timeout(30):
        assert await process.wait() == 0
