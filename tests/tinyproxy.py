"""A real forward proxy for tests: tinyproxy, on a port and a configuration of its own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

_DEADLINE = 20.0
_ATTEMPTS = 5


class TinyProxy(NamedTuple):
    """Where it listens, and where it writes what it was asked."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """The targets of CONNECT, in order."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [line.rpartition("CONNECT ")[2].split(" ")[0] for line in lines if ": CONNECT " in line]


@contextmanager
def tinyproxy(folder: Path, *rules: str) -> Iterator[TinyProxy]:
    """Running for the length of a block; `rules` are further lines of its configuration."""
    program = shutil.which("tinyproxy")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("tinyproxy has to be there in CI")
        pytest.skip("tinyproxy is not installed")
    folder.mkdir(exist_ok=True)
    proxy, process = _started(program, folder, rules)
    try:
        yield proxy
    finally:
        process.terminate()
        process.wait(_DEADLINE)


def _started(program: str, folder: Path, rules: tuple[str, ...]) -> tuple[TinyProxy, "subprocess.Popen[bytes]"]:
    for _ in range(_ATTEMPTS):
        proxy = TinyProxy(_free_port(), folder / "tinyproxy.log")
        lines = (f"Port {proxy.port}", "Listen 127.0.0.1", f'LogFile "{proxy.log}"', "LogLevel Connect", "Timeout 60")
        (folder / "tinyproxy.conf").write_text("\n".join([*lines, *rules, ""]))
        command = [program, "-d", "-c", str(folder / "tinyproxy.conf")]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if _listens(proxy.port, process):
            return proxy, process
    raise AssertionError(f"tinyproxy does not start: {proxy.log.read_text() if proxy.log.exists() else 'no log'}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _listens(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """False when it has ended instead: another program took the port meanwhile."""
    last = time.monotonic() + _DEADLINE
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            assert time.monotonic() < last, "tinyproxy does not listen"
            time.sleep(0.01)
        else:
            return True
    return False
