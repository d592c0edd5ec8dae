"""`howk up`: everything in one process. Flags become settings; the runtime does the rest."""

import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import click

from howk.cli.starting import place_options, settings_from

_RECEIVER_PORT = 9000


@click.command()
@click.option("--host", help="Address to listen on (api.host).")
@click.option("--port", help="Port to listen on, 0 for any free one (api.port).")
@place_options
@click.option("--receiver", is_flag=True, help="Start a test receiver beside it, to send a first webhook to.")
def up(
    *,
    host: str | None,
    port: str | None,
    data_dir: str | None,
    config: str | None,
    log_format: str | None,
    receiver: bool,
) -> None:
    """Run howk: take webhooks in and deliver them."""
    loaded = settings_from(
        {
            "api.host": host,
            "api.port": port,
            "data_dir": data_dir,
            "config": config,
            "logging.format": log_format,
        }
    )
    # Loaded here, so that the list of commands does not load the server.
    from howk.runtime.service import run

    trial = _Trial(receiver=receiver)
    try:
        raise SystemExit(run(loaded, trial.announce))
    finally:
        trial.close()


class _Trial:
    """What a newcomer sees at the start: a command to paste, and a receiver for it to reach."""

    def __init__(self, *, receiver: bool) -> None:
        self._wanted = receiver
        self._process: subprocess.Popen[bytes] | None = None

    def announce(self, url: str) -> None:
        """Print the commands; start the receiver where one was asked for."""
        howk = _own_command()
        port = _free_port() if self._wanted else _RECEIVER_PORT
        if self._wanted:
            command = [sys.executable, "-m", "howk", "receiver", "--port", str(port)]
            self._process = subprocess.Popen(command, start_new_session=True)  # noqa: S603 - our own interpreter
        beside = "" if self._wanted else f"  {howk} receiver\n"
        click.echo(
            f"\nhowk listens on {url}\nSend a first webhook from another terminal:\n\n"
            f'{beside}  {howk} send --url {url} http://127.0.0.1:{port}/ \'{{"hello": "world"}}\'\n'
        )

    def close(self) -> None:
        """End the receiver."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def _own_command() -> str:
    """How the reader's shell finds this program."""
    found = shutil.which("howk")
    own = Path(sys.argv[0]).absolute()
    if own.name != "howk":
        return f"{shlex.quote(sys.executable)} -m howk"
    return "howk" if found and Path(found).absolute() == own else shlex.quote(str(own))


def _free_port() -> int:
    """The usual port of a test receiver, or another one where that is taken."""
    for port in (_RECEIVER_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    return _RECEIVER_PORT
