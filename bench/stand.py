"""The test stand: starts howk, a sink and a load client as processes of their own, each on its core, and ends them
whatever happens. Data lives in a directory of its own on a real disk and goes with the stand.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.machine import Cores, Syncs, cores, real_disk, spent

_READY_WITHIN = 60.0
_ENDS_WITHIN = 15.0


class Stand:
    """A context; `options` are those of the command line."""

    def __init__(self, options: argparse.Namespace, *, pin: bool = True) -> None:
        self.options = options
        self.cores: Cores = cores(pin=pin and not options.no_pin)
        self._children: list[subprocess.Popen[str]] = []
        self._syncs: list[Syncs] = []

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="howk-bench-", dir=real_disk(self.options.directory)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.poll() is None:
                child.kill()
        for child in self._children:
            child.communicate()
        for syncs in self._syncs:
            syncs.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, command: list[str], on: frozenset[int], **environ: str) -> "subprocess.Popen[str]":
        """A child of this interpreter, on these cores, whose standard output is read."""
        # Neither the environment's nor a file's settings are part of a measurement.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOWK_")}
        kept["HOWK_CONFIG"] = os.devnull
        return self.run([sys.executable, *command], on, {**kept, **environ})

    def run(
        self, command: list[str], on: frozenset[int], environ: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """A child, on these cores, whose standard output is read."""

        def place() -> None:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, on)

        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            env=environ,
            text=True,
            preexec_fn=place,  # noqa: PLW1509 - nothing else runs in this process
        )
        self._children.append(child)
        return child

    def sink(self, *options: str) -> "Sink":
        """A receiver that answers at once unless told otherwise."""
        return Sink(self.start(["-m", "bench.sink", *options], self.cores.rest))

    def howk(self, data: str = "data", **settings: object) -> "Howk":
        """`howk up`, ready. `settings` are environment names without `HOWK_`."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        environ = {f"HOWK_{name}": str(value) for name, value in settings.items()}
        command = ["-m", "howk", "up", "--port", str(port), "--data-dir", str(self.directory / data)]
        child = self.start(
            [*command, "--log-format", "json"], self.cores.measured, HOWK_LOGGING_LEVEL="warning", **environ
        )
        return Howk(child, port)

    def load(self, port: int, endpoint: str, **options: object) -> "Load":
        """A load client against a door; `options` are those of `bench.load`."""
        shared = self.options
        given = {"size": shared.size, **options}
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not True]
        flags += [f"--{name.replace('_', '-')}" for name, value in given.items() if value is True]
        flags += ["--unsigned"] if shared.unsigned else []
        command = ["-m", "bench.load", "--port", str(port), "--endpoint", endpoint, *flags]
        return Load(self.start(command, self.cores.rest))

    def syncs(self, howk: "Howk") -> Syncs:
        """Begin to count the fsyncs of a howk."""
        syncs = Syncs(howk.pid, self.directory)
        self._syncs.append(syncs)
        return syncs


def line(child: "subprocess.Popen[str]") -> dict[str, Any]:
    """The next JSON line of a child. Raises where it has ended instead."""
    assert child.stdout is not None
    while text := child.stdout.readline():
        if text.startswith("{"):
            return json.loads(text)
    raise SystemExit(f"{' '.join(map(str, child.args))} ended with code {child.wait()}")


class Sink:
    """A running `bench.sink`."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child
        self.port: int = line(child)["port"]
        self.url = f"http://127.0.0.1:{self.port}/hook"

    def counts(self) -> dict[str, Any]:
        """See `bench.sink`."""
        return self._get("/__counts")

    def arrivals(self) -> dict[str, float]:
        """See `bench.sink`."""
        return self._get("/__arrivals")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            return json.load(answer)

    def end(self) -> None:
        self._child.kill()
        self._child.wait()


class Howk:
    """A running `howk up`, not ready yet."""

    def __init__(self, child: "subprocess.Popen[str]", port: int) -> None:
        self._child = child
        self.pid = child.pid
        self.port = port

    def ready(self, within: float = _READY_WITHIN) -> Self:
        """Returns when it is ready."""
        return self._until("/ready", within)

    def serving(self, within: float = _READY_WITHIN) -> Self:
        """Returns when it takes webhooks, though it may not have caught up."""
        return self._until("/health", within)

    def is_ready(self) -> bool:
        """Whether it has caught up."""
        return self._answers("/ready")

    def _until(self, path: str, within: float) -> Self:
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and self._child.poll() is None:
            if self._answers(path):
                return self
            time.sleep(0.05)
        raise SystemExit(f"howk up did not answer {path} in {within:.0f} s")

    def _answers(self, path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                return True
        except OSError:
            return False

    def runs(self) -> bool:
        """Whether the process is still there."""
        return self._child.poll() is None

    def backlog(self) -> dict[str, int]:
        """`howk_backlog` by stream."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        found = [text for text in lines if text.startswith("howk_backlog{")]
        return {text.partition('"')[2].partition('"')[0]: int(float(text.rpartition(" ")[2])) for text in found}

    def kill(self) -> None:
        """End it as a crash would."""
        self._child.kill()
        self._child.wait()

    def stop(self) -> None:
        """End it in order."""
        self._child.send_signal(signal.SIGTERM)
        self._child.wait(_ENDS_WITHIN + 35)


class Load:
    """A running load client. `begin` and `end` return when its measuring does."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self._child = child

    def begin(self) -> None:
        assert line(self._child)["event"] == "begin"

    def end(self) -> None:
        assert line(self._child)["event"] == "end"

    def result(self) -> dict[str, Any]:
        """Its figures, once it is done."""
        return line(self._child)


class Window:
    """What a howk spends between two moments: CPU and fsyncs."""

    def __init__(self, stand: Stand, howk: Howk) -> None:
        self._pid = howk.pid
        self._syncs = stand.syncs(howk)
        self._began = time.monotonic()
        self._before = spent(howk.pid)

    def per(self, count: int) -> dict[str, float | str]:
        """The same for each of `count` things done."""
        used = spent(self._pid).since(self._before)
        took = time.monotonic() - self._began
        synced = self._syncs.end()
        each = max(count, 1)
        found: dict[str, float | str] = {
            "cpu_us": round(used.total / each * 1e6, 1),
            "cpu_us_loop_thread": round(used.loop / each * 1e6, 1),
            "core_share": round(used.total / took, 2),
        }
        if synced is not None:
            found[f"{self._syncs.what.replace(' ', '_')}_per_second"] = round(synced / took)
        return found
