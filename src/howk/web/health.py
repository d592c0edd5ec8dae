"""The door of a process that takes no webhooks: health, readiness and metrics of the application behind it, and for
everything else an answer that says where it is."""

from collections.abc import Mapping
from typing import Any

from howk.web.app import App, Receive, Send
from howk.web.problems import Problem

_OPEN = ("/health", "/healthz", "/ready", "/metrics")


class HealthDoor:
    """The ASGI application; `roles` names what runs behind it."""

    def __init__(self, app: App, roles: str) -> None:
        self._app = app
        self._roles = roles

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN or scope["path"].startswith("/health/"):
            await self._app(scope, receive, send)
            return
        detail = f"this is {self._roles}, which serves health and metrics only: the role api takes webhooks"
        body = Problem(404, "not_found", detail).body()
        headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})
