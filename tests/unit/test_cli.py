"""The command line as a user meets it: what it prints, where, and its exit codes, against a server that answers
as told.
"""

import json
import os
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner, Result

from howk._version import __version__
from howk.cli.main import cli

ACCEPTED = {"webhook_id": "wh_1", "status": "pending"}


class Request(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Answer(NamedTuple):
    status: int
    body: object
    headers: dict[str, str]


class Server:
    """Gives the answers it was told, in order, the last one again and again."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.answers: list[Answer] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests.append(Request(self.command, self.path, dict(self.headers.items()), body))
                answer = server.answers.pop(0) if len(server.answers) > 1 else server.answers[0]
                text = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST  # noqa: N815 - what http.server calls

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Says nothing."""

        self.listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listening.server_address[1]}"

    def answer(self, status: int, body: object, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers.append(Answer(status, body, named))


@pytest.fixture
def server() -> Iterator[Server]:
    stub = Server()
    thread = threading.Thread(target=stub.listening.serve_forever, args=(0.01,))
    thread.start()
    yield stub
    stub.listening.shutdown()
    thread.join()
    stub.listening.server_close()


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("HOWK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def howk(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="howk", input=stdin)


def send(server: Server, *arguments: str, stdin: bytes | None = None) -> Result:
    return howk("send", "http://receiver/hook", *arguments, "--url", server.url, stdin=stdin)


def rows(text: str) -> dict[str, str]:
    """A table of names and values, as printed."""
    pairs = [line.split(maxsplit=1) for line in text.splitlines()]
    return {name: value.rstrip() for name, value in pairs}


def test_the_version_is_one_line() -> None:
    done = howk("--version")
    assert (done.exit_code, done.stdout) == (0, f"howk {__version__}\n")


@pytest.mark.parametrize("arguments", [("version", "--json"), ("--json", "version")])
def test_json_is_asked_for_before_or_after_the_command(arguments: Sequence[str]) -> None:
    done = howk(*arguments)
    assert json.loads(done.stdout)["version"] == __version__


def test_the_help_names_every_command() -> None:
    done = howk("--help")
    assert done.exit_code == 0
    for name in cli.list_commands(click.Context(cli)):
        assert f"\n  {name} " in done.stdout


def test_an_unknown_command_is_misuse() -> None:
    assert howk("sned").exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_the_script_that_completes_howk(shell: str) -> None:
    done = howk("completion", shell)
    assert done.exit_code == 0
    assert f"_HOWK_COMPLETE={shell}_complete" in done.stdout
    assert json.loads(howk("completion", shell, "--json").stdout)["script"] == done.stdout.removesuffix("\n")
    assert howk("completion", "tcsh").exit_code == 2


def test_a_shell_is_offered_commands_and_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_HOWK_COMPLETE", "bash_complete")
    for words, offered in (("howk rec", ["receiver", "reconciler"]), ("howk config view --ch", ["--changed"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        done = howk()
        assert sorted(line.partition(",")[2] for line in done.stdout.splitlines()) == offered


@pytest.mark.e2e
def test_the_version_loads_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from howk.cli.main import main\n"
        "try:\n    main(['--version'])\n"
        "except SystemExit:\n    print(*sorted(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "howk.cli.main" in loaded
    assert not {"asyncio", "msgspec", "rich", "uvicorn", "yaml", "cryptography"} & set(loaded)


def test_a_sent_webhook_is_shown_with_its_id_and_status(server: Server) -> None:
    server.answer(202, ACCEPTED)
    done = send(server, '{"a": 1}')
    assert done.exit_code == 0
    assert rows(done.stdout) == ACCEPTED
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/webhooks/default/enqueue")
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {"endpoint": "http://receiver/hook", "payload": {"a": 1}}


def test_json_output_is_one_document(server: Server) -> None:
    server.answer(202, ACCEPTED)
    assert json.loads(send(server, "1", "--json").stdout) == ACCEPTED


@pytest.mark.parametrize(
    "payload",
    [
        '{"b":1.0,  "a": 1e5, "b": "\\u00fc ü",\n "n": 12345678901234567890}',
        "9" * 5000,
        " [1 ,2]\t",
        "null",
    ],
)
def test_a_json_payload_is_passed_on_byte_for_byte(server: Server, payload: str) -> None:
    server.answer(202, ACCEPTED)
    assert send(server, payload).exit_code == 0
    assert server.requests[0].body.endswith(b'"payload": ' + payload.encode() + b"}")


def test_every_option_of_send_is_in_the_request(server: Server) -> None:
    server.answer(202, ACCEPTED)
    done = send(
        server,
        *("1", "--config-id", "shop:eu/1", "--header", "X-A: b:c", "--header", "X-D:"),
        *("--secret", "s", "--max-attempts", "3", "--api-key", "hk_1"),
    )
    assert done.exit_code == 0, done.stderr
    [request] = server.requests
    assert request.path == "/webhooks/shop:eu%2F1/enqueue"
    assert request.headers["Authorization"] == "Bearer hk_1"
    assert json.loads(request.body) == {
        "endpoint": "http://receiver/hook",
        "headers": {"X-A": "b:c", "X-D": ""},
        "signing_secret": "s",
        "max_attempts": 3,
        "payload": 1,
    }


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([], {}),
        (["--secret", ""], {}),
        (["--secret", "a", "--secret", "b"], {"signing": {"secrets": ["a", "b"]}}),
        (
            ["--secret", "a", "--signing-profile", "harborhook"],
            {"signing": {"profile": "harborhook", "secrets": ["a"]}},
        ),
        (["--ed25519-key", "whsk_x"], {"signing": {"ed25519_key": "whsk_x"}}),
    ],
)
def test_signing_options_become_the_field_signing(
    server: Server, options: Sequence[str], fields: Mapping[str, object]
) -> None:
    server.answer(202, ACCEPTED)
    assert send(server, "1", *options).exit_code == 0
    assert json.loads(server.requests[0].body) == {"endpoint": "http://receiver/hook", "payload": 1, **fields}


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ('{"a": 1,\n nope}', "line 2, column 2"),
        ("", "line 1, column 1"),
        ("[NaN]", "NaN is no JSON value"),
        ("{} {}", "line 1, column 4"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_a_payload_that_is_not_json_is_misuse_and_is_not_sent(server: Server, payload: str, said: str) -> None:
    done = send(server, payload)
    assert done.exit_code == 2
    assert said in done.stderr
    assert server.requests == []


def test_a_file_of_json_is_passed_on_byte_for_byte(server: Server, tmp_path: Path) -> None:
    server.answer(202, ACCEPTED)
    (tmp_path / "a.json").write_bytes(b'{ "a" :1}\n')
    assert send(server, "--file", "a.json").exit_code == 0
    assert server.requests[0].body.endswith(b'"payload": { "a" :1}\n}')


def test_other_content_from_standard_input_goes_as_base64(server: Server) -> None:
    server.answer(202, ACCEPTED)
    done = send(server, "--file", "-", "--content-type", "text/csv", stdin=b"\xff;\x00")
    assert done.exit_code == 0, done.stderr
    fields = json.loads(server.requests[0].body)
    assert (b64decode(fields["payload_base64"]), fields["content_type"]) == (b"\xff;\x00", "text/csv")
    assert "payload" not in fields


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either as JSON after the URL or with --file"),
        (["1", "--file", "x"], "either as JSON after the URL or with --file"),
        (["--file", "absent"], "cannot read absent: No such file"),
        (["1", "--header", "no colon"], "must be like 'X-Name: value'"),
        (["1", "--header", "A: b", "--header", "a: c"], "--header a is given twice"),
        (["1", "--max-attempts", "0"], "--max-attempts"),
        (["1", "--api-key", "@absent"], "cannot read absent"),
        (["1", "--api-key", "a\nb"], "holds characters that no key has"),
    ],
)
def test_misuse_of_send_is_said_before_anything_is_sent(server: Server, arguments: Sequence[str], said: str) -> None:
    done = send(server, *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert server.requests == []


def test_an_api_key_is_read_from_a_file(server: Server, tmp_path: Path) -> None:
    server.answer(202, ACCEPTED)
    (tmp_path / "key").write_text("hk_2\n")
    send(server, "1", "--api-key", "@key")
    assert server.requests[0].headers["Authorization"] == "Bearer hk_2"


def test_waiting_ends_with_the_delivery(server: Server) -> None:
    server.answer(202, ACCEPTED)
    server.answer(404, {"detail": "not yet"})
    server.answer(200, {"webhook_id": "wh_1", "state": "delivering"})
    server.answer(200, {"webhook_id": "wh_1", "state": "delivered", "attempts": 1})
    done = send(server, "1", "--wait", "30")
    assert done.exit_code == 0, done.stderr
    assert rows(done.stdout) == {"webhook_id": "wh_1", "state": "delivered", "attempts": "1"}
    assert [request.path for request in server.requests[1:]] == ["/webhooks/wh_1/status"] * 3


@pytest.mark.parametrize("state", ["dead", "cancelled"])
def test_waiting_for_a_delivery_that_is_given_up_is_a_failure(server: Server, state: str) -> None:
    server.answer(202, ACCEPTED)
    server.answer(200, {"webhook_id": "wh_1", "state": state})
    done = send(server, "1", "--wait", "30", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["state"] == state


def test_waiting_in_vain_is_a_failure_that_says_where_it_stands(server: Server) -> None:
    server.answer(202, ACCEPTED)
    server.answer(200, {"webhook_id": "wh_1", "state": "failed"})
    done = send(server, "1", "--wait", "0")
    assert done.exit_code == 1
    assert "wh_1 is still failed after 0 s" in done.stderr


def test_a_status_is_a_table_without_markup_or_control_sequences(server: Server) -> None:
    last_error = "[red]x[/red] \x1b[2J\n" + "long " * 40
    server.answer(200, {"webhook_id": "wh_1", "state": "failed", "last_error": last_error, "delivered_at": None})
    done = howk("delivery", "status", "wh_1", "--url", server.url)
    assert done.exit_code == 0
    assert rows(done.stdout) == {
        "webhook_id": "wh_1",
        "state": "failed",
        "last_error": ("[red]x[/red] \\x1b[2J\\n" + "long " * 40).rstrip(),
        "delivered_at": "-",
    }


def test_an_unknown_delivery_is_a_failure_that_names_it(server: Server) -> None:
    server.answer(404, {"detail": "not found"})
    done = howk("delivery", "status", "../wh_1", "--url", server.url)
    assert done.exit_code == 1
    assert "no delivery ../wh_1 is known" in done.stderr
    assert server.requests[0].path == "/webhooks/..%2Fwh_1/status"


def test_a_problem_is_told_with_its_fields(server: Server) -> None:
    problem = {
        "title": "Unprocessable",
        "detail": "the request can't be taken",
        "errors": [{"field": "endpoint", "message": "must be\x1b http or https"}],
    }
    server.answer(422, problem)
    done = send(server, "1")
    assert done.exit_code == 1
    assert done.stderr == ("Error: the request can't be taken\n  endpoint: must be\\x1b http or https\n")


def test_a_full_howk_says_when_to_try_again(server: Server) -> None:
    server.answer(429, {"detail": "the log is full"}, Retry_After="7")
    assert "try again in 7 s" in send(server, "1").stderr


def test_a_key_that_is_missing_is_said_how_to_give(server: Server) -> None:
    server.answer(401, {"detail": "a key is needed"})
    assert "--api-key" in send(server, "1").stderr


@pytest.mark.parametrize("body", [b"<html>", b"", b"[1]", b"\xff"])
def test_an_answer_that_is_not_howks_is_told_apart(server: Server, body: bytes) -> None:
    server.answer(200, body)
    done = howk("delivery", "status", "wh_1", "--url", server.url)
    assert done.exit_code == 1
    assert "not from howk's API" in done.stderr


@pytest.mark.parametrize("status", [302, 502])
def test_a_failure_without_a_problem_document_has_its_status(server: Server, status: int) -> None:
    server.answer(status, b"<html>", Location="/elsewhere")
    assert f"howk answered {status}" in send(server, "1").stderr
    assert len(server.requests) == 1


def test_a_refused_connection_says_how_to_start_howk() -> None:
    done = howk("send", "http://receiver", "1", "--url", "http://127.0.0.1:1")
    assert done.exit_code == 1
    assert done.stderr == "Error: nothing answers at http://127.0.0.1:1: start it with `howk up`\n"


def test_a_proxy_of_the_environment_is_not_used_for_loopback(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    server.answer(202, ACCEPTED)
    assert send(server, "1").exit_code == 0


def test_a_proxy_of_the_environment_is_used_for_other_hosts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.answer(202, ACCEPTED)
    assert howk("send", "http://receiver", "1", "--url", "http://howk.test").exit_code == 0
    assert server.requests[0].path == "http://howk.test/webhooks/default/enqueue"


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8080", "ftp://a", "file:///etc/passwd", "http://", "http://[", "http://a:b", "http://a@b"]
)
def test_a_url_that_is_none_is_misuse(url: str) -> None:
    done = howk("send", "http://receiver", "1", "--url", url)
    assert done.exit_code == 2
    assert "--url must be like http://127.0.0.1:8080" in done.stderr


def test_without_a_url_the_settings_say_where_howk_is(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_API_HOST", "0.0.0.0")
    monkeypatch.setenv("HOWK_API_PORT", server.url.rpartition(":")[2])
    server.answer(202, ACCEPTED)
    assert howk("send", "http://receiver", "1").exit_code == 0


def test_without_a_url_broken_settings_are_misuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_API_PORT", "many")
    done = howk("send", "http://receiver", "1")
    assert done.exit_code == 2
    assert "api.port (env HOWK_API_PORT)" in done.stderr
    assert "--url" in done.stderr


def test_without_a_url_a_free_port_cannot_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOWK_API_PORT", "0")
    assert "say where it answers with --url" in howk("send", "http://receiver", "1").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "many"], "api.port (flag)"),
        (["--host", "not a host"], "api.host (flag)"),
        (["--log-format", "xml"], "logging.format (flag)"),
        (["--config", "absent.yaml"], "must be the path of a file that exists"),
    ],
)
def test_a_bad_setting_stops_the_start_with_its_name(arguments: Sequence[str], said: str) -> None:
    done = howk("up", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
