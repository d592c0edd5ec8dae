"""`howk ping`, `health` and `doctor` as a user meets them, over real directories and ports."""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from click.testing import CliRunner, Result
from tests.support import opened

from howk.cli.main import cli

ALIVE = (200, {"status": "ok", "version": "9.9"})


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HOWK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def howk(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="howk")


@contextmanager
def answering(answers: dict[str, tuple[int, object]]) -> Iterator[str]:
    """A server with these answers by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {"detail": "there is no route"}))
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_ping_shows_the_version_and_the_latency() -> None:
    with answering({"/health": ALIVE}) as url:
        found = json.loads(howk("ping", "--url", url, "--json").stdout)
    assert (found["url"], found["version"]) == (url, "9.9")
    assert found["latency_ms"] > 0


@pytest.mark.parametrize("command", ["ping", "health"])
def test_a_howk_that_does_not_answer_is_a_failure_that_says_how_to_start_it(command: str) -> None:
    done = howk(command, "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert "start it with `howk up`" in done.stderr


@pytest.mark.parametrize(
    ("answers", "code", "checks"),
    [
        ({"/health": ALIVE, "/ready": (200, {"status": "ready"})}, 0, {"alive": True, "ready": True}),
        ({"/health": ALIVE, "/ready": (503, {"detail": "rebuilding"})}, 1, {"alive": True, "ready": False}),
        (
            {"/health": ALIVE, "/ready": (200, {}), "/health/dependencies": (200, {"log": {"ok": True}})},
            0,
            {"alive": True, "ready": True, "dependencies": True},
        ),
        (
            {"/health": ALIVE, "/ready": (200, {}), "/health/dependencies": (503, {"detail": "kafka is away"})},
            1,
            {"alive": True, "ready": True, "dependencies": False},
        ),
    ],
)
def test_health_is_what_each_route_says(
    answers: dict[str, tuple[int, object]], code: int, checks: dict[str, bool]
) -> None:
    with answering(answers) as url:
        done, table = howk("health", "--url", url, "--json"), howk("health", "--url", url)
    assert (done.exit_code, table.exit_code) == (code, code)
    found = json.loads(done.stdout)
    assert found["ready"] == (code == 0)
    assert {check["check"]: check["ok"] for check in found["checks"]} == checks
    for _, body in answers.values():
        assert not isinstance(body, dict) or str(body.get("detail", "")) in table.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def doctor(data: Path, monkeypatch: pytest.MonkeyPatch, port: int = 0) -> tuple[int, dict[str, str], dict[str, str]]:
    """The exit code, and the level and the finding of each check."""
    monkeypatch.setenv("HOWK_API_PORT", str(port or free_port()))
    done = howk("doctor", "--data-dir", str(data), "--resolve", "localhost", "--json")
    checks = json.loads(done.stdout)["checks"]
    levels = {check["name"]: check["level"] for check in checks}
    return done.exit_code, levels, {check["name"]: check["found"] for check in checks}


def bytes_in(folder: Path) -> dict[str, bytes]:
    """The files that hold something; SQLite's index of a write-ahead log is scratch."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith("-shm")}


async def a_cut_off_run(folder: Path, copy: Path) -> None:
    """A directory as a killed process leaves it."""
    async with opened(folder) as corridor:
        for _ in range(3):
            await corridor.send("http://127.0.0.1:9/")
        shutil.copytree(folder, copy)
    copy.chmod(0o700)


async def test_a_directory_that_is_not_there_is_well_and_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, levels, found = doctor(tmp_path / "a" / "b", monkeypatch)
    assert code == 0
    assert "will be made" in found["data directory"]
    assert levels["log"] == levels["encryption key"] == "ok"
    assert not (tmp_path / "a").exists()


async def test_a_directory_that_is_held_names_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "data"):
        code, _, found = doctor(tmp_path / "data", monkeypatch)
    assert code == 0
    assert found["lock"] == f"process {os.getpid()} has the data directory"


async def test_a_run_that_was_closed_and_one_that_was_cut_off_are_well_and_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_cut_off_run(tmp_path / "data", tmp_path / "cut")
    for folder, said in (("data", "closed it whole"), ("cut", "was cut off")):
        before = bytes_in(tmp_path / folder)
        code, _, found = doctor(tmp_path / folder, monkeypatch)
        assert code == 0, found
        assert said in found["log"]
        assert bytes_in(tmp_path / folder) == before
    async with opened(tmp_path / "cut") as corridor:
        assert (await corridor.engines.log.bounds("howk.pending")).popitem()[1] == (0, 3)


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["log.db-wal"], "log.db-wal is missing"),
        (["log.db", "log.db-wal"], "log.db and log.db-wal is missing"),
    ],
)
async def test_a_log_that_the_engine_would_refuse_fails_and_stays_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Sequence[str], said: str
) -> None:
    await a_cut_off_run(tmp_path / "data", tmp_path / "cut")
    for name in gone:
        (tmp_path / "cut" / name).unlink()
    for _ in range(2):
        code, levels, found = doctor(tmp_path / "cut", monkeypatch)
        assert (code, levels["log"]) == (1, "fail")
        assert said in found["log"]


async def test_a_damaged_log_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "data"):
        pass
    (tmp_path / "data" / "log.db").write_bytes(b"\xa5garbage" * 4096)
    code, levels, found = doctor(tmp_path / "data", monkeypatch)
    assert (code, levels["log"]) == (1, "fail")
    assert "can't be opened" in found["log"]


async def test_another_key_than_the_one_that_sealed_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "data"):
        pass
    monkeypatch.setenv("HOWK_SECURITY_ENCRYPTION_KEY", "11" * 32)
    code, levels, found = doctor(tmp_path / "data", monkeypatch)
    assert (code, levels["encryption key"]) == (1, "fail")
    assert "11" * 32 not in found["encryption key"]
    monkeypatch.delenv("HOWK_SECURITY_ENCRYPTION_KEY")
    (tmp_path / "data" / "secret.key").unlink()
    assert doctor(tmp_path / "data", monkeypatch)[1]["encryption key"] == "fail"
    assert not (tmp_path / "data" / "secret.key").exists()


async def test_a_directory_that_others_may_open_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path / "data"):
        pass
    (tmp_path / "data").chmod(0o755)
    code, levels, _ = doctor(tmp_path / "data", monkeypatch)
    assert (code, levels["data directory"]) == (0, "warn")


def test_a_file_in_the_place_of_the_directory_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").write_text("a file")
    for data in (tmp_path / "data", tmp_path / "data" / "below"):
        code, levels, _ = doctor(data, monkeypatch)
        assert (code, levels["data directory"]) == (1, "fail")


async def test_a_log_without_a_note_of_its_last_run_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "data"):
        pass
    (tmp_path / "data" / "run.json").unlink()
    code, _, found = doctor(tmp_path / "data", monkeypatch)
    assert (code, found["log"]) == (0, "it does not say how its last run ended")
    (tmp_path / "data" / "run.json").write_text("{")
    code, levels, _ = doctor(tmp_path / "data", monkeypatch)
    assert (code, levels["log"]) == (1, "fail")


def test_a_port_says_who_answers_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for answer, level in ((ALIVE, "warn"), ((200, [1]), "fail"), ((404, {}), "fail")):
        with answering({"/health": answer}) as url:
            port = int(url.rpartition(":")[2])
            _, levels, _ = doctor(tmp_path / "data", monkeypatch, port)
        assert levels[f"port {port}"] == level


def test_settings_that_cannot_be_read_are_the_first_thing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_API_HOST", "0.0.0.0")
    done = howk("doctor", "--resolve", "localhost")
    assert done.exit_code == 1
    assert "fail: settings: put that right" in done.stdout
    monkeypatch.setenv("HOWK_API_PORT", "many")
    done = howk("doctor", "--resolve", "localhost")
    assert done.exit_code == 1
    assert "api.port" in done.stdout


def test_a_name_that_does_not_resolve_is_a_warning() -> None:
    checks = json.loads(howk("doctor", "--resolve", "no such name", "--json").stdout)["checks"]
    assert {check["name"]: check["level"] for check in checks}["names"] == "warn"


@contextmanager
def proxying(answer: bytes) -> Iterator[tuple[int, list[bytes]]]:
    """Something that says this to whatever it is asked; its port, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(65_536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1], asked
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "level", "said"),
    [
        (b"HTTP/1.1 200 Connection established\r\n\r\n", "ok", "it opens a tunnel to localhost:443"),
        (b"HTTP/1.1 403 No\r\n\r\n", "warn", "with HTTP 403"),
        (b"HTTP/1.1 407 No\r\n\r\n", "fail", "refuses the credentials"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "fail", "its answer is not HTTP/1.1"),
        (b"", "fail", "it closes the connection"),
    ],
)
def test_the_proxy_is_asked_for_a_tunnel_and_its_answer_judged(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, level: str, said: str
) -> None:
    with proxying(answer) as (port, asked):
        monkeypatch.setenv("HOWK_DELIVERY_PROXY", f"http://me:hunter2@127.0.0.1:{port}")
        done = howk("doctor", "--resolve", "localhost", "--json")
    (check,) = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "forward proxy"]
    assert check["level"] == level
    assert said in check["found"]
    assert asked[0].startswith(b"CONNECT ")
    assert b"\r\nProxy-Authorization: Basic " in asked[0]
    assert "hunter2" not in done.output


def test_a_proxy_that_is_not_there_fails_and_without_one_none_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> dict[str, str]:
        checks = json.loads(howk("doctor", "--resolve", "localhost", "--json").stdout)["checks"]
        return {check["name"]: check["found"] for check in checks}

    assert "forward proxy" not in found()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HOWK_DELIVERY_PROXY", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert found()["forward proxy"] == "no tunnel can be asked of it: connection refused"


def test_a_name_that_does_not_resolve_leaves_the_proxy_to_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying(b"") as (port, _):
        monkeypatch.setenv("HOWK_DELIVERY_PROXY", f"http://127.0.0.1:{port}")
        done = howk("doctor", "--resolve", "no such name", "--json")
    levels = {check["name"]: check["level"] for check in json.loads(done.stdout)["checks"]}
    assert (levels["names"], levels["forward proxy"]) == ("warn", "ok")


def test_a_proxy_that_can_not_be_used_is_refused_by_the_check_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_DELIVERY_PROXY", "https://me:hunter2@proxy:3128")
    done = howk("config", "check")
    assert done.exit_code == 2
    assert "delivery.proxy" in done.output
    assert "over TLS is not supported" in done.output
    assert "hunter2" not in done.output
