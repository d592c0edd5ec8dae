"""The little HTTP client the commands use: requests to howk's API go out, decoded JSON comes back. Every failure
becomes a `Failure` whose text says what happened and what to do; nothing here knows a command.
"""

from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

import click
from msgspec import DecodeError, json

from howk._version import __version__
from howk.cli.options import Misuse
from howk.cli.output import plain

TIMEOUT = 30.0


class Failure(click.ClickException):
    """howk said no, or did not answer. `status` is 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """howk's API at one URL."""

    def __init__(self, url: str, api_key: str = "", timeout: float = TIMEOUT) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._loopback = _is_loopback(urlsplit(url).hostname or "")
        self._headers = {"User-Agent": f"howk/{__version__}", "Accept": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        # Built by hand: the ready-made opener would also read files, follow redirects (as GET), and raise for
        # the answers that are read here.
        self._opener = OpenerDirector()
        self._opener.add_handler(HTTPHandler())
        self._opener.add_handler(HTTPSHandler())
        if not self._loopback:
            self._opener.add_handler(ProxyHandler())

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return dict(self._headers)

    def get(self, path: str) -> dict[str, object]:
        """The JSON object at `path`. Raises `Failure`."""
        return self._ask(Request(self.url + path, headers=self._headers))  # noqa: S310 - http(s) only, see connect

    def post(self, path: str, body: bytes = b"") -> dict[str, object]:
        """POST a JSON text, or nothing, and read the answer. Raises `Failure`."""
        headers = self._headers | {"Content-Type": "application/json"}
        return self._ask(Request(self.url + path, data=body, headers=headers, method="POST"))  # noqa: S310

    def _ask(self, request: Request) -> dict[str, object]:
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                status: int = answer.status
                wait: str = answer.headers.get("Retry-After", "")
                body: bytes = answer.read()
        except URLError as error:
            raise Failure(self._unreachable(error.reason)) from error
        except (OSError, HTTPException) as error:
            raise Failure(self._unreachable(error)) from error
        if not 200 <= status < 300:
            raise Failure(_problem(status, wait, body), status)
        return self._read(body)

    def _read(self, body: bytes) -> dict[str, object]:
        try:
            return json.decode(body, type=dict[str, object])
        except DecodeError as error:
            raise Failure(f"what {self.url} answers is not from howk's API: look at --url") from error

    def _unreachable(self, reason: object) -> str:
        if isinstance(reason, ConnectionRefusedError):
            next_step = "start it with `howk up`" if self._loopback else "is howk running there?"
            return f"nothing answers at {self.url}: {next_step}"
        if isinstance(reason, TimeoutError):
            return f"{self.url} did not answer within {self._timeout:g} s"
        return f"cannot reach {self.url}: {plain(str(reason))}"


def connect(url: str, api_key: str) -> Client:
    """A client from the values of `server_options`; without a URL, where the settings put the API."""
    url = url or _url_of_settings()
    if not _is_base(url):
        raise Misuse(f"--url must be like http://127.0.0.1:8080, not {plain(url)}")
    if api_key.startswith("@"):
        try:
            api_key = Path(api_key[1:]).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Misuse(f"--api-key: cannot read {plain(api_key[1:])}: {error}") from error
    if not (api_key.isascii() and api_key.isprintable()):
        raise Misuse("--api-key holds characters that no key has")
    return Client(url, api_key)


def _is_base(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and url.isascii() and "@" not in parts.netloc


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _url_of_settings() -> str:
    # Loaded here: with --url the settings of this machine do not matter, nor whether they are right.
    from howk.runtime.loading import SettingsError, load_from_process

    try:
        api = load_from_process().settings.api
    except SettingsError as error:
        raise Misuse(f"{error}\nPut that right, or say where howk answers with --url.") from error
    if api.port == 0:
        raise Misuse("api.port is 0, so howk takes any free port: say where it answers with --url")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(api.host, api.host)  # noqa: S104 - read, not bound
    return f"http://[{host}]:{api.port}" if ":" in host else f"http://{host}:{api.port}"


def _problem(status: int, wait: str, body: bytes) -> str:
    """What a problem document (RFC 9457) says, a line for each field that is wrong."""
    try:
        problem = json.decode(body, type=dict[str, Any])
    except DecodeError:
        problem = {}
    lines = [plain(problem.get("detail") or problem.get("title") or f"howk answered {status}")]
    errors = problem.get("errors")
    for each in cast("list[Any]", errors) if isinstance(errors, list) else []:
        if isinstance(each, dict):
            entry = cast("dict[str, Any]", each)
            lines.append(f"  {plain(entry.get('field'))}: {plain(entry.get('message'))}")
    if wait:
        lines.append(f"try again in {plain(wait)} s")
    if status == 401:
        lines.append("give a key with --api-key")
    return "\n".join(lines)
