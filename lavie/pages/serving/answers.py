"""What the applications of all pages share: their own files, and one line of text for what they refuse."""

import errno
import logging
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ...errors import LavieError
from .bodies import Refused
from .guard import Guard
from .refusals import told

log = logging.getLogger("lavie")

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""The media types of a page's files."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where no more can be written."""
OWN = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
"""The files of a page's own package, by path."""
SHARED = ("common.css", "common.js", "icon.svg")
"""The files that all pages share."""


def guarded_page(package: str, routes: Sequence[Route], *, port: int, token: str, lifespan: Any = None) -> Guard:
    """Return the application of a page behind its guard.

    Args:
        package: where the page's own files lie.
        routes: all others than those to files.
        port: at which it is served.
        token: what the page must know.
        lifespan: what runs around the application, as Starlette takes it.
    """
    files_of_page = [_static(path, package, name) for path, name in OWN.items()]
    files_of_all = [_static(f"/{name}", __package__, name) for name in SHARED]
    app = Starlette(
        routes=[*files_of_page, *files_of_all, *routes], exception_handlers=dict(HANDLERS), lifespan=lifespan
    )
    app.router.redirect_slashes = False
    return Guard(app, port=port, token=token)


def _static(path: str, package: str, name: str) -> Route:
    """Return the route to one file."""
    content, media_type = (files(package) / name).read_bytes(), TYPES[name.partition(".")[2]]

    async def answer(request: Request) -> Response:
        """The file."""
        return Response(content, media_type=media_type)

    return Route(path, answer)


async def refused(request: Request, error: Exception) -> Response:
    """Say why a request is refused."""
    status = error.status if isinstance(error, Refused) else 400
    return _line(str(error), status)


async def faulty(request: Request, error: Exception) -> Response:
    """Say what is wrong with what was asked."""
    return _line(str(error), 400)


async def unwritten(request: Request, error: Exception) -> Response:
    """Say what the system refused: a disk is full (507), or a folder is gone."""
    assert isinstance(error, OSError)
    log.warning(f"{request.url.path}: {told(error)}")
    return _line(told(error), 507 if error.errno in FULL else 500)


def _line(text: str, status: int) -> Response:
    """Return a text as an answer. Names of files may hold what is no Unicode."""
    return PlainTextResponse(text.encode("utf-8", "backslashreplace"), status)


async def gone(request: Request, error: Exception) -> Response:
    """Note that a browser went away in the middle of its request, of which nothing is kept."""
    log.warning(f"{request.url.path}: the browser went away in the middle of its request: nothing of it is kept")
    return PlainTextResponse("", 400)


HANDLERS: Mapping[Any, Any] = {Refused: refused, LavieError: faulty, OSError: unwritten, ClientDisconnect: gone}
"""How errors are answered, for `Starlette(exception_handlers=...)`."""
