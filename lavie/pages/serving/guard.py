"""The guard in front of a page on this machine: it lets in what the page itself asks, and nothing from other sites.

Any site that a browser shows can send requests to 127.0.0.1. Three things keep it out:

1. Host: the address that the page was opened at. A site whose own name leads to 127.0.0.1 (DNS rebinding) has another.
2. Origin, of requests that change something: the page's own. Forms and scripts of other sites have theirs, or "null".
3. A token, of all requests below /api/: it is printed when the server starts, and no other site or user knows it.
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HOST = "127.0.0.1"
"""The address at which pages are served."""
NAMES = (HOST, "localhost")
"""The names by which a page may be opened."""
TOKEN_HEADER = "x-lavie-token"
"""The header that has the token. An EventSource can set none: it has the token as `token=` in its query."""
GUARDED = "/api/"
"""What the paths begin with that need the token."""
LONGEST = 4096
"""Bytes of a path with its query, at most."""
HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "media-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
"""What every response has; the cache-control only where the response has none of its own."""


class Guard:
    """An ASGI application around another: it refuses what it does not let in, and gives every response HEADERS."""

    def __init__(self, app: App, *, port: int, token: str) -> None:
        """Guard an application.

        Args:
            app: answers what is let in.
            port: the page's own.
            token: what requests below GUARDED must have.
        """
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it in one line of text."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":  # a websocket, which no page here has: what sends nothing is closed
            return None

        async def send_guarded(message: Message) -> None:
            """Send a part of a response, the first with HEADERS."""
            if message["type"] == "http.response.start":
                own = [(name.lower(), value) for name, value in message.get("headers", [])]
                there = {name for name, _ in own}
                own += [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in there]
                message = {**message, "headers": own}
            await send(message)

        refused = self._refusal(scope)
        if not refused:
            return await self._app(scope, receive, send_guarded)
        status, why = refused
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
        await send_guarded({"type": "http.response.start", "status": status, "headers": headers})
        await send_guarded({"type": "http.response.body", "body": why.encode()})

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Return with which status and words a request is refused; None if it is let in."""
        if len(scope["path"]) + len(scope["query_string"]) > LONGEST:
            return 414, "the address is too long"
        host = _only(scope, "host")
        if host is None or host.lower() not in self._hosts:
            return 421, "this page is shown at the address that was printed when it was started, and at no other"
        method = scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            return 405, "wanted GET or POST"
        if method == "POST" and _only(scope, "origin") != f"http://{host.lower()}":
            return 403, "the request comes from another page"
        if method == "POST" or scope["path"].startswith(GUARDED):
            token = _only(scope, TOKEN_HEADER)
            if token is None and method != "POST":
                token = _in_query(scope)
            if token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
                return 403, "the page is of an earlier start: open the address that was printed when it was started"
        return None


def _only(scope: Scope, name: str) -> str | None:
    """Return the value of a header; None if it is missing or stands there more than once."""
    found = [value for key, value in scope["headers"] if key.lower() == name.encode()]
    return found[0].decode("latin-1") if len(found) == 1 else None


def _in_query(scope: Scope) -> str | None:
    """Return the token of a query; None if there is none, or more than one."""
    found = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
    return found[0] if len(found) == 1 else None
