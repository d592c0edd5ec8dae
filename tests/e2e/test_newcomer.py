"""The first minute with howk: what it prints can be pasted, and the webhook is seen to arrive."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.harness import DEADLINE, Howk, clean_environment, until

from howk._version import __version__

pytestmark = pytest.mark.e2e


def test_howk_tells_its_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "howk", "--version"]
    environment = clean_environment(tmp_path, {})
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert done.stdout.strip() == f"howk {__version__}"


async def test_the_command_that_howk_prints_delivers_a_first_webhook_to_its_receiver(tmp_path: Path) -> None:
    howk = Howk(tmp_path)
    await howk.start("--receiver")
    try:

        async def greeted() -> bool:
            return all(any(said in line for line in howk.printed) for said in ("receiver listens at", " send "))

        await until(greeted, "the receiver listens, and it is said what to send to it")
        [command] = [line.strip() for line in howk.printed if " send " in line]
        shell = await asyncio.create_subprocess_shell(
            command,
            cwd=tmp_path,
            env=clean_environment(tmp_path, {}),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await shell.communicate()
        assert shell.returncode == 0, complained.decode()
        assert b"pending" in said

        def arrivals() -> list[str]:
            return [line for line in howk.printed if "wh_" in line and "attempt 1" in line and "-> 200" in line]

        async def arrived() -> bool:
            return bool(arrivals())

        await until(arrived, "the webhook is seen at the receiver")
        [arrival] = arrivals()
        assert next(word for word in arrival.split() if word.startswith("wh_")) in said.decode()
    finally:
        code = await howk.stop()
    assert code == 0
