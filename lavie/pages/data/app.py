"""The application of the page: the table of samples, the batches of a run, and the list of what is left out."""

import hashlib
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from ...config.base import Strict
from ...config.load import validate
from ...data.order.exclude import keys_of
from ...errors import LavieError
from ..serving.answers import guarded_page
from ..serving.bodies import Refused, read_object
from ..serving.guard import Guard
from .batch import RunBatches
from .clips import FPS, Shown, cut, whole
from .excluded import Excluded
from .table import SHOWN, Query, SampleTable

SEED = 0
"""The seed of the cuts that are shown where no run says another."""
MOST_VISITS = 1_000_000
"""Cuts of a sample that may be asked for."""


class Mark(Strict):
    """What is to become of a sample."""

    model_config = ConfigDict(strict=True)

    key: str
    """Its key."""
    out: bool
    """Whether it is left out."""


class Browsing:
    """What the page shows, and the files that it has made."""

    def __init__(
        self,
        table: SampleTable,
        excluded: Excluded,
        shown: Shown,
        batches: RunBatches | None = None,
        step: int | None = None,
    ) -> None:
        """Take the samples and the list.

        Args:
            table: the samples.
            excluded: the list that marks change.
            shown: where files are made.
            batches: those of the run whose config was given.
            step: the step that the page begins with.
        """
        self.table, self.excluded, self.batches, self.step = table, excluded, batches, step
        self._shown = shown
        # No other user of this machine may guess the address of a clip.
        self.secret = secrets.token_hex(16)
        self._known: set[str] | None = None

    def told(self) -> dict[str, Any]:
        """Return what the page begins with, as JSON values."""
        table = self.table
        ranges = {}
        for name, column in table.columns.items():
            values = column[np.isfinite(column)]
            if len(values):
                ranges[name] = [float(values.min()), float(values.max())]
        batches = self.batches
        return {
            "samples": table.count,
            "total": table.total,
            "videos": len(table.index.videos),
            "columns": ranges,
            "exclude": str(self.excluded.path),
            "excluded": len(self.excluded.keys),
            "names_exclude": self._names_exclude,
            "secret": self.secret,
            "shown": SHOWN,
            "step": self.step,
            "run": batches and {"rows": batches.rows, "steps": batches.config.max_train_steps},
        }

    def find(self, query: Query) -> dict[str, Any]:
        """Return the samples that a query finds, as JSON values."""
        out = self.excluded.keys
        found = self.table.find(query, out)
        samples = [self.table.told(int(number)) for number in found[query.offset : query.offset + SHOWN]]
        return {"found": len(found), "samples": [sample | {"out": sample["key"] in out} for sample in samples]}

    def mark(self, mark: Mark) -> dict[str, Any]:
        """Change the list, and return how many it has and why training would refuse it, as JSON values.

        Raises:
            Refused: no sample has the key.
            ConfigError: the list cannot be written.
        """
        if self._known is None:
            self._known = set(self.table.keys)
        if mark.key not in self._known:
            raise Refused(404, f"no sample has the key {mark.key!r}")
        self.excluded.mark(mark.key, mark.out)
        return {"excluded": len(self.excluded.keys), "refusal": self._refusal()}

    def _refusal(self) -> str:
        """Return what training says to the list as it is; nothing if it takes it."""
        try:
            if self._names_exclude:
                assert self.batches is not None
                self.batches.renew()
            else:
                keys_of(self.excluded.keys, self.table.index, "these shards")
        except LavieError as error:
            return f"Training would refuse this list: {error}"
        return ""

    @property
    def _names_exclude(self) -> bool:
        """Whether the run whose config was given reads the list."""
        return self.batches is not None and self.batches.config.data.exclude == str(self.excluded.path)

    def sample(self, number: int, visit: int, ending: str) -> Path:
        """Return a file that shows a sample: a cut of it as .mp4, or one whole frame as .png."""
        if number >= self.table.count or visit >= MOST_VISITS:
            raise Refused(404, "there is no such sample")
        sample = self.table.index[number]
        if ending == "png":
            return self._shown.file(f"s{number}.png", lambda: cut(sample, whole(sample, 1), SEED, 0))
        data = self.batches.size_of(sample) if self.batches else whole(sample)
        seed = self.batches.config.seed if self.batches else SEED
        return self._shown.file(f"s{number}-{visit}.mp4", lambda: cut(sample, data, seed, visit))

    def row(self, step: int, place: int) -> dict[str, Any]:
        """Return a row of a batch as JSON values, and make the files that show it."""
        if self.batches is None:
            raise Refused(404, "a run's batches need --config")
        row = self.batches.row(step, place)
        data = self.batches.size(step)
        frames, fps = row["pixels"].numpy(), data.fps or FPS
        count = len(frames) - data.num_images
        parts = ([frames[:count]] if count else []) + [frames[i : i + 1] for i in range(count, len(frames))]
        # Marks put other samples into a row, which are other files.
        of_keys = hashlib.sha256("\n".join(row["keys"]).encode()).hexdigest()[:12]
        stem = f"r{step}-{place}-{of_keys}"
        files = [self._made(f"{stem}-{number}", part, fps) for number, part in enumerate(parts)]
        low = row.get("low_res")
        shown_low = None if low is None else self._made(f"{stem}-low", low.numpy(), fps)
        out = self.excluded.keys
        parts_told = [
            {"key": key, "caption": caption, "file": file, "out": key in out}
            for key, caption, file in zip(row["keys"], row["captions"], files, strict=True)
        ]
        return {
            "position": row["position"],
            "parts": parts_told,
            "low": shown_low,
            "spares": [f"{dropped['key']}: {dropped['reason']}" for dropped in row["dropped"]],
        }

    def _made(self, stem: str, frames: np.ndarray, fps: float) -> str:
        """Make a file that shows frames uint8 (F, H, W, 3), and return its name."""
        ending = "mp4" if len(frames) > 1 else "png"
        return self._shown.file(f"{stem}.{ending}", lambda: (frames, fps)).name

    def made(self, name: str) -> Path | None:
        """Return a file that `row` has made; None if there is none of this name now."""
        return self._shown.known(name) if name.startswith("r") else None


def make_app(browsing: Browsing, *, port: int, token: str) -> Guard:
    """Return the application behind its guard.

    Args:
        browsing: what is shown.
        port: at which it is served.
        token: what the page must know.
    """

    async def page(request: Request) -> Response:
        """What the page begins with."""
        return JSONResponse(browsing.told())

    async def find(request: Request) -> Response:
        """The samples that are looked for."""
        query = validate(Query, await read_object(request), "what is looked for")
        return JSONResponse(await run_in_threadpool(browsing.find, query))

    async def mark(request: Request) -> Response:
        """A sample that is left out, or taken in again."""
        wanted = validate(Mark, await read_object(request), "the mark")
        return JSONResponse(await run_in_threadpool(browsing.mark, wanted))

    async def row(request: Request) -> Response:
        """A row of a step."""
        step, place = (_number(request.query_params.get(name, "")) for name in ("step", "row"))
        return JSONResponse(await run_in_threadpool(browsing.row, step, place))

    async def sample(request: Request) -> Response:
        """A file that shows a sample."""
        _require_secret(request, browsing)
        stem, _, ending = request.path_params["name"].partition(".")
        number, _, visit = stem.partition("-")
        if ending not in ("mp4", "png"):
            raise Refused(404, "there is no such file")
        return FileResponse(await run_in_threadpool(browsing.sample, _number(number), _number(visit or "0"), ending))

    async def made(request: Request) -> Response:
        """A file that shows a part of a row."""
        _require_secret(request, browsing)
        path = browsing.made(request.path_params["name"])
        if path is None:
            raise Refused(404, "there is no such file any more: show the batch again")
        return FileResponse(path)

    return guarded_page(
        __package__,
        [
            Route("/api/page", page),
            Route("/api/find", find, methods=["POST"]),
            Route("/api/mark", mark, methods=["POST"]),
            Route("/api/row", row),
            Route("/samples/{secret}/{name}", sample),
            Route("/rows/{secret}/{name}", made),
        ],
        port=port,
        token=token,
    )


def _number(text: str) -> int:
    """Return a whole number of a request. Raises Refused if it is none."""
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise Refused(404, f"got {text[:20]!r}, wanted a whole number")
    return int(text)


def _require_secret(request: Request, browsing: Browsing) -> None:
    """Raise Refused unless the address has the page's secret."""
    if not secrets.compare_digest(request.path_params["secret"].encode(), browsing.secret.encode()):
        raise Refused(404, "there is no such file")
