"""The bodies of requests: read up to a limit, as JSON or into a file."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...json_text import parse_json, require_unicode

if TYPE_CHECKING:
    from starlette.requests import Request

JSON_BYTES = 1 << 16
"""Bytes of a request's JSON, at most."""


class Refused(Exception):
    """A request that is answered by a status and one line of text."""

    def __init__(self, status: int, text: str) -> None:
        """Take the status of HTTP and the line."""
        super().__init__(text)
        self.status = status


async def read_object(request: "Request") -> dict[str, Any]:
    """Return the JSON object that a request holds.

    Raises:
        Refused: it is none, or longer than JSON_BYTES.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "wanted application/json")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise Refused(413, f"the request is longer than {JSON_BYTES} bytes")
    try:
        found = require_unicode(parse_json(body))
    except ValueError as error:
        raise Refused(400, f"no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(400, "wanted a JSON object")
    return found


async def read_into(request: "Request", path: Path, largest: int) -> int:
    """Write the body of a request to a new file, and return its bytes. The file is removed if the body does not come.

    Args:
        request: the request.
        path: of the file.
        largest: bytes, at most.

    Raises:
        Refused: the body is empty, or too long.
        ClientDisconnect: the browser went away before its end.
    """
    limit = f"{largest >> 20} MB"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > largest:
        raise Refused(413, f"the file has {int(announced) / (1 << 20):.1f} MB: wanted at most {limit}")
    written = 0
    try:
        with path.open("xb") as file:
            async for chunk in request.stream():
                written += len(chunk)
                if written > largest:
                    raise Refused(413, f"the file has more than {limit}, which is the most")
                file.write(chunk)
        if not written:
            raise Refused(400, "the file is empty")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return written
