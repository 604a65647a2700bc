"""The queue of orders and the one thread that draws them, and so owns the device."""

import logging
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import ConfigError, LavieError
from ...inference.cascade import Cascade, CascadeClip
from ...inference.preview import PICTURE
from ...inference.settings import CascadeSettings
from ...inference.start import Draft, GivenFrames, Start
from ...models.lora.choice import LoraChoice
from ...models.prompt_reading import cut_prompts, shortened
from ...models.prompt_syntax import parse_weights
from ..serving.changes import Changes
from ..serving.refusals import told
from .gallery import Gallery
from .order import Order
from .sources import Source
from .uploads import Uploads

log = logging.getLogger("lavie")

MOST_JOBS = 16
"""Jobs that wait or are drawn at a time."""
REMEMBERED = 8
"""Jobs that have ended, which the page still shows."""
OPEN = ("waiting", "loading", "drawing")
"""The states of jobs that have not ended; the others are done, cancelled and failed."""


class FullError(LavieError):
    """The queue takes no more jobs now."""


class Cancelled(Exception):
    """Ends the drawing of a job between two steps."""


@dataclass
class Job:
    """An order on its way."""

    id: str
    order: Order
    start: Start | None
    state: str = "waiting"
    clip: int = 0
    """The number of the clip that is drawn, from 0."""
    done: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Steps done and all steps of each stage of that clip."""
    shown: int = 0
    """How often its picture has changed."""
    picture: bytes | None = None
    """What is drawn so far, a PNG."""
    made: list[str] = field(default_factory=list)
    """The clips of the gallery that came of it."""
    unread: list[str] = field(default_factory=list)
    """The ends of its prompts that the text encoders cut off, shortened."""
    error: str = ""
    cancelled: bool = False
    """Whether it is to end."""
    began: float | None = None
    ended: float | None = None

    def told(self) -> dict[str, Any]:
        """Return what the page shows of it, as JSON values."""
        until = self.ended or time.monotonic()
        return {
            "id": self.id,
            "order": self.order.model_dump(mode="json"),
            "state": "cancelling" if self.cancelled and self.state in OPEN else self.state,
            "clip": self.clip,
            "stages": {stage: list(done) for stage, done in self.done.items()},
            "shown": self.shown if self.picture else 0,
            "made": self.made,
            "unread": self.unread,
            "error": self.error,
            "seconds": round(until - self.began, 1) if self.began else 0,
        }


class Studio:
    """Takes orders, draws them one after the other, and puts the clips into a gallery."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        gallery: Gallery,
        uploads: Uploads,
        loras: Mapping[str, LoraChoice],
        work: Path,
    ) -> None:
        """Start the thread that draws.

        Args:
            sources: by name, at least one.
            gallery: takes the clips.
            uploads: the images that orders may start from.
            loras: those that orders may name.
            work: a folder for the picture of what is being drawn.
        """
        self.sources, self.gallery, self.uploads, self.loras = dict(sources), gallery, uploads, dict(loras)
        self.changes = Changes()
        self._work = work
        self._jobs: dict[str, Job] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._loaded: tuple[Any, Cascade] | None = None
        self._thread = threading.Thread(target=self._run, name="drawing", daemon=True)
        self._thread.start()

    def submit(self, order: Order) -> Job:
        """Queue an order that is sure to be possible; images are decoded here.

        Raises:
            FullError: MOST_JOBS wait or are drawn already.
            ConfigError: it names what is not there, or the source cannot draw so.
        """
        self._require_room()
        start = self._checked(order)
        with self._wake:
            self._require_room()
            job = Job(secrets.token_hex(16), order, start)
            self._jobs[job.id] = job
            self._wake.notify()
        self.changes.tell()
        return job

    def cancel(self, name: str) -> bool:
        """End a job, between two steps if it is being drawn; return whether there is one that had not ended."""
        with self._wake:
            job = self._jobs.get(name)
            if job is None or job.state not in OPEN:
                return False
            job.cancelled = True
            if job.state == "waiting":
                self._end(job, "cancelled")
        self.changes.tell()
        return True

    def job(self, name: str) -> Job | None:
        """Return a job that is open or remembered."""
        return self._jobs.get(name)

    def told(self) -> dict[str, Any]:
        """Return the state of all jobs, oldest first, and of the gallery, as JSON values."""
        with self._wake:
            jobs = list(self._jobs.values())
        return {"jobs": [job.told() for job in jobs], "clips": len(self.gallery)}

    def close(self, patience: float = 10) -> None:
        """End all jobs, and wait some seconds for the step that is being computed."""
        with self._wake:
            self._closing = True
            for job in self._jobs.values():
                job.cancelled = True
            self._wake.notify()
        self.changes.close()
        self._thread.join(patience)

    def _require_room(self) -> None:
        """Raise FullError if the queue is full."""
        count = sum(job.state in OPEN for job in list(self._jobs.values()))
        if count >= MOST_JOBS:
            raise FullError(f"the queue is full: {count} jobs wait or are drawn; wait, or cancel one")

    def _checked(self, order: Order) -> Start | None:
        """Return what an order starts from besides its prompt. Raises ConfigError if it cannot be drawn."""
        source = self.sources.get(order.model)
        if source is None:
            raise ConfigError(f"model: got {order.model!r}, wanted one of {', '.join(self.sources)}")
        if order.stop_after not in source.planned.stages:
            raise ConfigError(f"stop_after: {order.model} has no stage {order.stop_after}")
        running = source.planned.until(order.stop_after)
        if idle := [stage for stage in order.stages if stage not in running]:
            raise ConfigError(f"stages: {idle[0]} does not run; leave it out, or stop after a later stage")
        if unknown := [name for name in order.loras if name not in self.loras]:
            raise ConfigError(f"loras: there is no {unknown[0]!r}: wanted one that --lora names")
        settings = order.settings(source.planned.settings)
        for stage in running:
            own = getattr(settings, stage)
            if own.prompt_syntax == "weights":
                parse_weights(order.prompt + own.prompt_suffix)
                parse_weights(own.negative_prompt)
        source.planned.require([settings])
        start = self._start(order, settings)
        source.base.require(start or Start(), settings.base)
        return start

    def _start(self, order: Order, settings: CascadeSettings) -> Start | None:
        """Return the start of an order with an image."""
        if order.image is None:
            if order.strength is not None:
                raise ConfigError("strength draws over an image: choose one, or leave strength out")
            return None
        base = settings.base
        still = self.uploads.still(order.image, base.height, base.width)
        if order.strength is None:
            return Start(given=GivenFrames(still[None], (0,)))
        return Start(draft=Draft(np.repeat(still[None], base.num_frames, 0), order.strength))

    def _run(self) -> None:
        """Draw jobs, oldest first, until the studio is closed."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._next())
                job = self._next()
                if self._closing or job is None:
                    return
                job.state, job.began = "loading", time.monotonic()
            self.changes.tell()
            try:
                self._draw(job)
                state = "done"
            except Cancelled:
                state = "cancelled"
            except LavieError as error:
                state, job.error = "failed", str(error)
            except OSError as error:  # a full disk, or a folder that is gone
                state, job.error = "failed", told(error)
                log.warning(f"the job {job.order.prompt!r} failed: {job.error}")
            except Exception as error:  # whatever a job does, the next one is to be drawn
                log.exception(f"the job {job.order.prompt!r} failed")
                state, job.error = (
                    "failed",
                    f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                )
                self._loaded = None
                torch.cuda.empty_cache()
            with self._wake:
                self._end(job, state)
            self.changes.tell()

    def _next(self) -> Job | None:
        """Return the job that has waited longest."""
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _end(self, job: Job, state: str) -> None:
        """Note that a job has ended, and forget those that ended long ago; the caller holds the lock."""
        job.state, job.picture, job.start, job.ended = state, None, None, time.monotonic()
        ended = [name for name, other in self._jobs.items() if other.state not in OPEN]
        for name in ended[:-REMEMBERED]:
            del self._jobs[name]

    def _draw(self, job: Job) -> None:
        """Draw the clips of a job. Raises Cancelled when it is to end."""
        order = job.order
        cascade = self._cascade(order)
        stages = cascade.until(order.stop_after)
        for number in range(order.clips):
            settings = order.settings(cascade.settings, number)
            job.clip = number
            job.done = {stage: (0, getattr(settings, stage).num_inference_steps) for stage in stages}
            job.state = "drawing"
            clip = CascadeClip(order.prompt, 0, 0, settings, job.start)
            job.unread = [repr(shortened(cut)) for _, cut in cut_prompts(cascade.texts_read(stages, [clip]))]
            began = time.monotonic()

            def advance(stage: str, step: int, steps: int) -> None:
                """Tell a step, and end here if the job is cancelled."""
                if job.cancelled:
                    raise Cancelled
                job.done[stage] = step, steps
                job.picture = (self._work / PICTURE).read_bytes()
                job.shown += 1
                self.changes.tell()

            if job.cancelled:
                raise Cancelled
            cascade.draw([clip], stop_after=order.stop_after, preview=self._work, progress=advance)
            last = stages[-1]
            entry = self.gallery.add(
                clip.frames[last],
                order=order.of_clip(number),
                settings={stage: getattr(settings, stage).model_dump(mode="json") for stage in stages},
                weights={stage: cascade.sources.get(stage, "") for stage in stages},
                loras=[lora.record() for lora in cascade.loras],
                fps=settings.fps(last),
                seconds=time.monotonic() - began,
            )
            job.made.append(entry.id)

    def _cascade(self, order: Order) -> Cascade:
        """Return the cascade of an order with its LoRAs, which stays loaded until another one is wanted."""
        scales = {name: scale for name, scale in sorted(order.loras.items()) if scale}
        wanted = order.model, scales
        if self._loaded is None or self._loaded[0] != wanted:
            self._loaded = None  # so that memory never holds two
            torch.cuda.empty_cache()  # does nothing without a GPU
            loras = [LoraChoice(self.loras[name].path, scale, scale) for name, scale in scales.items()]
            self._loaded = wanted, self.sources[order.model].load(loras)
        return self._loaded[1]
