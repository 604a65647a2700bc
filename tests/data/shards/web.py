"""A web server on this machine for tests of remote shards: it serves ranges and listings, and fails on request."""

import email.utils
import re
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[BaseHTTPRequestHandler], bool]
"""Answers a request and returns True, or returns False to leave the request to the server."""


class Web:
    """A server of a folder.

    Attributes:
        url: where the folder is served.
        port: the port of the server.
        requests: the method, path and Range header of each request so far.
        fault: may answer a request before the server does.
        ranges: whether the server knows ranges.
        stamps: whether the server tells versions of files.
    """

    def __init__(self, folder: Path) -> None:
        """Start a server in a thread of this process."""
        self.folder = folder
        self.requests: list[tuple[str, str, str | None]] = []
        self.fault: Fault = lambda handler: False
        self.ranges = self.stamps = True
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                web.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, client: None  # clients may leave in the middle of an answer
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request: by the fault, or with a listing of a folder, a file, or status 404."""
        self.requests.append((handler.command, handler.path, handler.headers.get("Range")))
        if self.fault(handler):
            return
        path = self.folder / handler.path.strip("/")
        if path.is_dir():
            links = "".join(f'<a href="{p.name}">{p.name}</a>\n' for p in path.iterdir())
            send(handler, 200, f'<a href="?C=N;O=D">Name</a> <a href="../">Up</a>\n{links}'.encode(), type="text/html")
        elif not path.is_file():
            send(handler, 404, b"nothing here")
        else:
            self._send_file(handler, path)

    def _send_file(self, handler: BaseHTTPRequestHandler, path: Path) -> None:
        """Send a file, or the range of it that the request names."""
        data, status_on_disk = path.read_bytes(), path.stat()
        headers = {
            "ETag": f'"{status_on_disk.st_mtime_ns}"',
            "Last-Modified": email.utils.formatdate(status_on_disk.st_mtime),
        }
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", "")) if self.ranges else None
        status = 200
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        send(handler, status, data, **(headers if self.stamps else {}))


def send(handler: BaseHTTPRequestHandler, status: int, data: bytes, cut: int = 0, **headers: str) -> None:
    """Send an answer with headers, without the last `cut` bytes of its data; `type` stands for Content-Type."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header("Content-Type" if name == "type" else name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(data[: len(data) - cut])
    if cut:
        handler.close_connection = True


def first_times(count: int, fault: Fault, ending: str = ".tar") -> Fault:
    """Return a fault that acts on the first `count` requests for each range of each path with this ending."""
    seen: dict[tuple[str, str | None], int] = {}

    def answer(handler: BaseHTTPRequestHandler) -> bool:
        key = handler.path, handler.headers.get("Range")
        seen[key] = seen.get(key, 0) + 1
        return handler.path.endswith(ending) and handler.command == "GET" and seen[key] <= count and fault(handler)

    return answer


def refuse(status: int) -> Fault:
    """Return a fault that answers with an HTTP status."""

    def answer(handler: BaseHTTPRequestHandler) -> bool:
        send(handler, status, b"no")
        return True

    return answer


def delay(seconds: float) -> Fault:
    """Return a fault that delays the server's answer."""

    def answer(handler: BaseHTTPRequestHandler) -> bool:
        time.sleep(seconds)
        return False

    return answer


def cut(handler: BaseHTTPRequestHandler) -> bool:
    """Answer with a body of which the second half never comes: a fault."""
    send(handler, 206, bytes(1000), cut=500)
    return True
