"""Requests to an ASGI application in this process, byte for byte as a server would pass them on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

PORT, TOKEN = 8766, "a-token"
HOST = f"127.0.0.1:{PORT}"
OURS = {"host": HOST, "origin": f"http://{HOST}", "x-lavie-token": TOKEN, "content-type": "application/json"}
"""The headers that the page itself sends."""


@dataclass(frozen=True)
class Reply:
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(app, method="GET", target="/", headers=OURS, body=b"", parts=None, cut=False) -> Reply:
    """Return the answer to one request.

    Args:
        app: the application.
        method: of HTTP.
        target: path and query, with escapes, as they stand in the request.
        headers: a mapping, or pairs where a name comes twice.
        body: of the request.
        parts: the body in several messages, in place of `body`.
        cut: whether the browser goes away after them.
    """
    pairs = headers.items() if isinstance(headers, dict) else headers
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", PORT),
    }
    return asyncio.run(_ask(app, scope, [body] if parts is None else parts, cut))


async def _ask(app, scope, parts: Sequence[bytes], cut: bool) -> Reply:
    waiting = [
        {"type": "http.request", "body": part, "more_body": cut or i < len(parts) - 1} for i, part in enumerate(parts)
    ]
    sent = []

    async def receive():
        """Give the next part of the request; then the browser is gone, or says nothing more."""
        if waiting:
            return waiting.pop(0)
        if not cut:
            await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(message):
        """Keep a part of the response."""
        sent.append(message)

    await app(scope, receive, send)
    start = sent[0]
    headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Reply(start["status"], headers, b"".join(message.get("body", b"") for message in sent[1:]))
