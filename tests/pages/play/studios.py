"""A studio whose cascade is a counter: it draws in no time, step by step, as a test lets it."""

import threading
from types import SimpleNamespace

import numpy as np

from lavie.errors import ConfigError
from lavie.inference.preview import PICTURE
from lavie.inference.settings import CascadeSettings
from lavie.inference.video_io import write_png
from lavie.pages.play.gallery import Gallery
from lavie.pages.play.studio import Studio
from lavie.pages.play.uploads import Uploads

STEPS = 4
PATIENCE = 60


class Counter:
    """Stands for a cascade: the frames of a clip are its seed."""

    def __init__(self):
        base = {"num_inference_steps": STEPS, "num_frames": 2, "height": 16, "width": 24}
        self.settings = CascadeSettings(base=base)
        self.stages = {"base": SimpleNamespace(require=self._require, takes_frames=True)}
        self.sources, self.loras = {"base": "weights of a counter"}, ()
        self.may_step = threading.Event()
        self.may_step.set()
        self.stepped = threading.Event()
        self.drawn = []
        self.encoder = None
        self.fault = None

    def _require(self, start, settings):
        if settings.guidance_scale == 99:
            raise ConfigError("guidance_scale: too much")

    def until(self, stop_after):
        return ["base"]

    def sizes(self):
        return {"base": SimpleNamespace(pixels=(2, 16, 24))}

    def texts_read(self, stages, clips):
        return [(self.encoder, clip.prompt, clip.settings.base.reading) for clip in clips]

    def require(self, settings):
        """Take all settings."""

    def draw(self, clips, *, stop_after, preview, progress):
        """Count the steps of a clip."""
        [clip] = clips
        steps = clip.settings.base.num_inference_steps
        if self.fault:
            raise self.fault
        for step in range(1, steps + 1):
            write_png(preview / PICTURE, np.full((2, 2, 3), step % 256, np.uint8))
            progress("base", step, steps)
            self.stepped.set()
            assert self.may_step.wait(PATIENCE)
        self.drawn.append(clip)
        clip.frames["base"] = np.full((2, 16, 24, 3), clip.settings.base.seed % 256, np.uint8)


class Source(SimpleNamespace):
    """Stands for a source of the page."""

    @property
    def base(self):
        return self.planned.stages["base"]

    def load(self, loras):
        self.loads.append(list(loras))
        return self.planned

    def told(self):
        return {"name": self.name}


def read_still(path, height, width):
    """Stands for the guarded decoder: takes files that begin with "image"."""
    if not path.read_bytes().startswith(b"image"):
        raise ConfigError(f"the image {path}: no image that can be decoded")
    return np.full((height, width, 3), 9, np.uint8)


def some_studio(folder, loras=None):
    """Return a studio in a folder, and its counter."""
    counter = Counter()
    source = Source(name="one", planned=counter, loads=[], folder=folder)
    (folder / "work").mkdir(exist_ok=True)
    uploads = Uploads(folder / "gallery/images", read_still)
    studio = Studio({"one": source}, Gallery(folder / "gallery"), uploads, loras or {}, folder / "work")
    return studio, counter


def asked(**changes):
    """Return an order as the page sends it."""
    return {"model": "one", "prompt": "a fox", "seed": 5, **changes}


def wait(condition):
    """Wait until a condition holds; AssertionError after a minute."""
    waited = threading.Event()
    for _ in range(PATIENCE * 200):
        if condition():
            return
        waited.wait(0.005)
    raise AssertionError("it never came true")
