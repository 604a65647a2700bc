"""A server on this machine that shows a study and gathers the raters' answers in one file."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ...evaluation.human.answers import COLUMNS, check_row, read_answers, to_csv
from ...evaluation.human.key import ANSWERS, PAGE, Key, read_key
from ...json_text import parse_json
from ..serving.guard import HOST
from ..serving.listen import address_of, listen, require_pages, run

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST = 1 << 20
"""Bytes of a request: the answers of a whole study, several times over."""
MOST = 10_000
"""Rows of a request."""


class Gathering:
    """The answers of a study as they come in, and which places have been taken."""

    def __init__(self, study: Path, key: Key) -> None:
        """Go on with the answers that lie in the study's folder.

        Raises:
            DataError: what lies there are no answers of this study.
        """
        self.key, self.path = key, study / ANSWERS
        self._taken: Counter[int] = Counter()
        if self.path.exists() and self.path.read_bytes().count(b"\n") > 1:
            found = read_answers([self.path], key).found
            raters = {(answer.rater, key.trials[answer.trial].place) for answer in found}
            self._taken.update(place for _, place in raters)

    def next_place(self) -> int:
        """Return the place that has been taken least often, and count it as taken."""
        place = min(range(self.key.design.raters), key=lambda number: (self._taken[number], number))
        self._taken[place] += 1
        return place

    def append(self, rows: Sequence[Any]) -> None:
        """Write rows to the end of the file, all or none. Raises ValueError if one is no answer of this study."""
        for row in rows:
            if not isinstance(row, list) or not all(isinstance(part, str) for part in row):
                raise ValueError("wanted rows of text")
            check_row(row, self.key)
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a", encoding="utf-8") as file:
            file.write(to_csv([COLUMNS, *rows] if new else rows))
            file.flush()
            os.fsync(file.fileno())


def make_app(study: Path) -> "Starlette":
    """Return the application: the page, its clips, and the places for raters and answers.

    Only requests to this machine by name are answered, so that no other site that a rater's browser shows can reach the
    study under a name of its own; answers come as JSON, which other sites may not send.

    Raises:
        ConfigError: the extra `pages` is missing.
        DataError: the folder holds no study.
    """
    require_pages("lavie eval human serve")
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    key = read_key(study)
    if not (study / PAGE).is_dir():
        raise DataError(f"{study / PAGE}: missing: make the study again")
    gathering = Gathering(study, key)

    async def place(request: "Request") -> "Response":
        """A place for a new rater."""
        return JSONResponse(
            {"study": key.study, "place": gathering.next_place()}, headers={"Cache-Control": "no-store"}
        )

    async def known(request: "Request") -> "Response":
        """The study, for a rater who comes back."""
        return JSONResponse({"study": key.study}, headers={"Cache-Control": "no-store"})

    async def answers(request: "Request") -> "Response":
        """Answers of a rater."""
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return PlainTextResponse("wanted JSON", 415)
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > LARGEST:
                return PlainTextResponse("too long", 413)
        try:
            rows = _parse(body)
            gathering.append(rows)
        except ValueError as error:
            return PlainTextResponse(f"no answers of this study: {error}", 400)
        return JSONResponse({"taken": len(rows)})

    return Starlette(
        routes=[
            Route("/place", place),
            Route("/study", known),
            Route("/answers", answers, methods=["POST"]),
            Mount("/", StaticFiles(directory=study / PAGE, html=True)),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def _parse(body: bytes) -> list[Any]:
    """Return the rows of a request. Raises ValueError if it holds none."""
    rows = parse_json(body)
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST:
        raise ValueError(f"wanted 1 to {MOST} rows")
    return rows


def serve(study: Path, port: int, tell: Callable[[str], None]) -> None:
    """Serve a study on 127.0.0.1 until ^C.

    Args:
        study: its folder.
        port: 0 for any that is free.
        tell: called with the address once it can be opened.

    Raises:
        ConfigError, DataError: as `make_app` says; or the port is taken.
    """
    app = make_app(study)
    listening = listen(port)
    tell(address_of(listening))
    run(app, listening)
