"""What the machine allows at this hour, measured before and after a row: HTTP between two C programs, `wrk` and nginx
with a core each, and durable commits of plain SQLite. A goal is a share of such a limit, as it was when the goals were
set, so that a machine that is slower or busy says nothing of howk.
"""

import re
import shutil
import socket
import time
from statistics import mean

from bench.reference import commits
from bench.row import Limit
from bench.stand import Stand

_SECONDS = 2.0
_STARTS_WITHIN = 5.0
_NGINX = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{ listen 127.0.0.1:{port}; location / {{ return 204; }} }}
}}
"""
_POST = """
wrk.method = "POST"
wrk.body = string.rep("x", {size})
wrk.headers["Content-Type"] = "application/json"
"""


class Limits:
    """To be taken once before what is measured and once after it."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._http: list[float] = []
        self._commits: list[float] = []

    def take(self) -> None:
        """Measure both, in some seconds."""
        if (rate := _requests(self._stand)) is not None:
            self._http.append(rate)
        self._commits.append(commits(self._stand.directory / "limit.db", 500, _SECONDS))
        for file in self._stand.directory.glob("limit.db*"):
            file.unlink()

    def http(self) -> Limit | None:
        """Requests a second, None without the programs."""
        return Limit("wrk against nginx, requests/s", mean(self._http), 152_000) if self._http else None

    def disk(self) -> Limit:
        """Rows a second, 500 of 800 bytes a commit."""
        return Limit("SQLite rows/s, 500 a durable commit", mean(self._commits), 160_000)


def _requests(stand: Stand) -> float | None:
    """Answers a second, None where nginx or wrk is not installed."""
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    wrk = shutil.which("wrk")
    if nginx is None or wrk is None:
        return None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    configuration = stand.directory / "nginx.conf"
    configuration.write_text(_NGINX.format(directory=stand.directory, port=port))
    script = stand.directory / "post.lua"
    script.write_text(_POST.format(size=stand.options.size))
    server = stand.run([nginx, "-p", str(stand.directory), "-c", str(configuration)], stand.cores.measured)
    try:
        _wait_for(port)
        client = [wrk, "-t1", "-c64", f"-d{_SECONDS:g}s", "-s", str(script), f"http://127.0.0.1:{port}/"]
        output = stand.run(client, stand.cores.rest).stdout
        said = output.read() if output else ""
    finally:
        server.kill()
        server.wait()
    found = re.search(r"Requests/sec:\s*([\d.]+)", said)
    return float(found[1]) if found else None


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
