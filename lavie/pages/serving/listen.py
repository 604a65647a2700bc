"""Serving an application on 127.0.0.1 until ^C."""

import socket
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from .guard import HOST

if TYPE_CHECKING:
    from .guard import App


def require_pages(command: str) -> None:
    """Raise ConfigError, which names the command, if the packages of the extra `pages` are missing."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ConfigError(f"{command} needs starlette and uvicorn: pip install 'lavie[pages]'") from None


def listen(port: int) -> socket.socket:
    """Return a socket that listens on 127.0.0.1.

    Args:
        port: 0 for any that is free.

    Raises:
        ConfigError: the port is taken, or may not be used.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror}: give another one, or 0 for any that is free") from None


def address_of(listening: socket.socket) -> str:
    """Return the address of a listening socket as a browser takes it."""
    return f"http://{HOST}:{listening.getsockname()[1]}/"


def run(app: "App | Any", listening: socket.socket, ending: Callable[[], None] | None = None) -> None:
    """Serve an application on a socket until ^C or SIGTERM, which then act as they would without a server.

    Args:
        app: an ASGI application.
        listening: closed in the end.
        ending: called when the server is told to end, before it waits for open responses: streams end by it.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """A server that tells of its end."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Take a signal."""
            if ending:
                ending()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5, server_header=False)
    with listening:
        Server(config).run(sockets=[listening])
