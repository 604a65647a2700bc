"""Folders of small clips as models leave them, for the tests of studies."""

from pathlib import Path

import numpy as np

from lavie.data.prepare.synthetic import render_clip
from lavie.inference.video_io import write_mp4
from lavie.seeds import numpy_generator

PROMPTS = ("a red circle moving left", 'a "blue" square </script> moving right')


def write_models(root: Path, names=("secretA", "secretB"), frames=3, fps=12.0, size=64) -> list[Path]:
    """Write a clip of each prompt for each model, and prompts.txt; return the models' folders."""
    folders = []
    for number, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True)
        for clip, colour in enumerate(("red", "blue")):
            rng = numpy_generator(number, "clip", clip)
            pixels = render_clip(colour, "circle", "moving left", rng=rng, frames=frames, size=size)
            write_mp4(folder / f"{clip:05d}.mp4", pixels, fps)
        folders.append(folder)
    (root / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    return folders


def steps(frames: np.ndarray) -> np.ndarray:
    """The mean change of levels from each frame to the next."""
    return np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3))
