"""What a run's adapters do to samples: the same prompts and noise with and without them, side by side.

Likeness is for the eye; motion is measured too, since adapters of still images may cost it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config.train import TrainConfig
from ..errors import ConfigError
from ..files import replacing
from ..models.lora.trained import has_adapters
from ..run_folder import find_stage
from .contact_sheet import Panel
from .load import load_pipeline
from .sampler import Progress
from .settings import BaseSettings, arguments
from .text_to_video import TextToVideo
from .video_io import write_sheet

SHEET, NUMBERS = "compare.png", "compare.json"
COLUMNS = 6
"""Frames shown of each clip."""


class Pair(NamedTuple):
    """A prompt's clips, uint8 (F, H, W, 3), of the same noise."""

    prompt: str
    without: np.ndarray
    """By the base alone."""
    adapted: np.ndarray
    """With the adapters."""


def load_both(run: str | Path) -> tuple[TextToVideo, TextToVideo, TrainConfig]:
    """Return the samplers of a run of adapters without and with them, and its config.

    Raises:
        ConfigError: the run trains no adapters.
    """
    folder = find_stage(run)
    if not has_adapters(folder):
        raise ConfigError(f"RUN {run} holds no adapters: wanted a run with trainable: lora")
    without, _ = load_pipeline(folder, adapters=False)
    adapted, config = load_pipeline(folder)
    return without, adapted, config


def draw_pairs(
    samplers: tuple[TextToVideo, TextToVideo],
    prompts: Sequence[str],
    settings: BaseSettings,
    *,
    progress: Progress | None = None,
) -> list[Pair]:
    """Return both clips of each prompt, whose noise is decided by the number of the prompt.

    Args:
        samplers: without and with adapters.
        prompts: as they are.
        settings: of the clips.
        progress: called after every denoising step as progress(step, steps), over all clips.
    """
    pairs = []
    for index, prompt in enumerate(prompts):
        clips = []
        for which, sampler in enumerate(samplers):

            def advance(step: int, steps: int, done: int = 2 * index + which) -> None:
                """Tell the progress over all clips."""
                if progress:
                    progress(done * steps + step, 2 * len(prompts) * steps)

            [frames] = sampler([prompt], indices=[index], progress=advance, **arguments(settings))
            clips.append(frames)
        pairs.append(Pair(prompt, *clips))
    return pairs


def motion(frames: np.ndarray) -> float:
    """Return the mean absolute difference of neighbouring frames, 0 to 255, of a clip uint8 (F, H, W, 3)."""
    if len(frames) < 2:
        return 0.0
    return float(np.abs(np.diff(frames.astype(np.int16), axis=0)).mean())


def motion_ratio(pairs: Sequence[Pair]) -> float | None:
    """Return how much clips with adapters move beside those without: the ratio of the means; None if nothing moves."""
    before = sum(motion(pair.without) for pair in pairs)
    return sum(motion(pair.adapted) for pair in pairs) / before if before else None


def compare(
    run: str | Path, out: str | Path, prompts: Sequence[str] = (), *, seed: int = 0, progress: Progress | None = None
) -> dict[str, Any]:
    """Write SHEET and NUMBERS of a run of adapters into a folder, and return the numbers.

    Args:
        run: the run, or one of its checkpoints.
        out: created if missing.
        prompts: default: those of its validation.
        seed: of the initial noise.
        progress: as for `draw_pairs`.

    Raises:
        ConfigError: there are no prompts, or no adapters.
    """
    without, adapted, config = load_both(run)
    prompts = tuple(prompts) or config.validation_prompts
    if not prompts:
        raise ConfigError("--prompt is missing, and the run has no validation_prompts: wanted one prompt or more")
    pairs = draw_pairs((without, adapted), prompts, BaseSettings.of(config, seed=seed), progress=progress)
    numbers = {
        "motion_ratio": motion_ratio(pairs),
        "prompts": [
            {"prompt": pair.prompt, "motion_without": motion(pair.without), "motion_with": motion(pair.adapted)}
            for pair in pairs
        ],
    }
    write_pairs(Path(out), pairs, numbers)
    return numbers


def write_pairs(out: Path, pairs: Sequence[Pair], numbers: dict[str, Any]) -> None:
    """Write the sheet of all pairs, without beside with adapters, and numbers about them."""
    out.mkdir(parents=True, exist_ok=True)
    panels = []
    for pair in pairs:
        panels += [Panel(f"without: {pair.prompt}", pair.without), Panel(f"with: {pair.prompt}", pair.adapted)]
    write_sheet(out / SHEET, panels, across=2, columns=COLUMNS)
    with replacing(out / NUMBERS) as file:
        file.write_text(json.dumps(numbers, indent=2) + "\n")
