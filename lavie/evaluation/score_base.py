"""The score of the first stage: how many of the judge's verdicts on its samples are right, beside guessing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config.train import TrainConfig
from ..data.prepare.synthetic import COLOURS, DIRECTIONS, HELD_OUT, SHAPES, clip_caption, image_caption, render_clip
from ..files import replacing
from ..inference.contact_sheet import Panel
from ..inference.settings import BaseSettings, arguments
from ..inference.text_to_video import TextToVideo
from ..inference.video_io import write_sheet
from ..seeds import numpy_generator
from .judge import Verdict, judge_clip, judge_image
from .rendered import require_rendered
from .track import Track, untracked

BATCH = 12
"""Prompts drawn at once."""
SHOWN = 18
"""Samples in a contact sheet."""
TILE = 72
"""Least pixels of a frame's shorter side in the contact sheet of clips, which has two clips and their true ones in a
row."""
CHANCE = {
    "colour": 1 / len(COLOURS),
    "direction": 1 / len(DIRECTIONS),
    "both": 1 / (len(COLOURS) * len(DIRECTIONS)),
}
"""The accuracy of naming one of all colours and directions blindly."""


@dataclass(frozen=True)
class JudgedSet:
    """Samples of one kind, by what was asked for and what is seen; lists of one length."""

    prompts: Sequence[str]
    verdicts: Sequence[Verdict]
    truths: Sequence[Verdict]

    @property
    def accuracies(self) -> dict[str, Any]:
        """The accuracies of the verdicts; see `accuracies`."""
        return accuracies(self.verdicts, self.truths)


def score_base(
    sampler: TextToVideo,
    config: TrainConfig,
    out: Path,
    *,
    num_per_prompt: int,
    seed: int,
    track: Track = untracked,
) -> Iterator[tuple[str, JudgedSet]]:
    """Judge what a network trained on the rendered set draws for prompts that it never saw.

    Yields ("clips", samples), then ("images", samples), each when it is drawn. Writes clips.png and images.png into
    `out`, with captions in red where the judge sees something else than was asked for, and score.json after both.

    Args:
        sampler, config: from `load_stage`. Samples are drawn as the run's validation samples are, but against the empty
            negative prompt.
        out: created if missing.
        num_per_prompt: clips per held-out prompt. Images: one of each colour and shape.
        seed: of the initial noise.
        track: shows the progress over batches of prompts.

    Raises:
        ConfigError: the run was trained on other captions than those of the rendered set.
    """
    require_rendered(config)

    # Every case is a prompt with what the judge should see: an image has no direction.
    clips = [(clip_caption(c, s, f"moving {d}"), Verdict(c, d)) for _ in range(num_per_prompt) for c, s, d in HELD_OUT]
    images = [(image_caption(c, s), Verdict(c, None)) for c in COLOURS for s in SHAPES]

    # The empty negative prompt for every run, so that the scores of runs with different ones compare.
    settings = BaseSettings.of(config, seed=seed, negative_prompt="", prompt_syntax="plain")
    out.mkdir(parents=True, exist_ok=True)
    scores = {}

    # One kind of samples after the other: the caller can show the first verdicts while the second kind is drawn.
    for name, cases, num_frames in (("clips", clips, settings.num_frames), ("images", images, 1)):
        prompts, truths = zip(*cases, strict=True)
        drawn = _draw(
            sampler, prompts, settings.model_copy(update={"num_frames": num_frames}), track, f"drawing {name}"
        )
        verdicts = [Verdict(judge_image(d[0]), None) if num_frames == 1 else judge_clip(d) for d in drawn]
        panels = [_panel(number, case, drawn[number], verdicts[number]) for number, case in enumerate(cases[:SHOWN])]
        if num_frames == 1:
            write_sheet(out / f"{name}.png", panels)
        else:
            write_sheet(out / f"{name}.png", panels, across=2, tile=TILE)
        samples = JudgedSet(prompts, verdicts, truths)
        scores[name] = samples.accuracies
        yield name, samples

    # The file appears only when both kinds are judged, so that a score that was cut short leaves none.
    with replacing(out / "score.json") as file:
        file.write_text(json.dumps(scores, indent=2) + "\n")


def _draw(
    sampler: TextToVideo, prompts: Sequence[str], settings: BaseSettings, track: Track, what: str
) -> list[np.ndarray]:
    """Return a clip uint8 (F, H, W, 3) for each prompt, whose noise is decided by the number of the prompt."""
    batches = [range(start, min(start + BATCH, len(prompts))) for start in range(0, len(prompts), BATCH)]
    drawn: list[np.ndarray] = []
    for batch in track(batches, what):
        drawn += [*sampler([prompts[i] for i in batch], indices=list(batch), **arguments(settings))]
    return drawn


def _panel(number: int, case: tuple[str, Verdict], frames: np.ndarray, verdict: Verdict) -> Panel:
    """Return a sample under its prompt and what the judge sees instead, a clip beside a rendered one of its caption.

    Args:
        number: decides what the caption leaves open in the rendered clip.
        case: the prompt, and what the judge should see.
        frames: the sample, uint8 (F, H, W, 3).
        verdict: what the judge sees.
    """
    prompt, wanted = case
    pairs = zip(verdict, wanted, ("no colour", "no motion"), strict=True)
    wrong = [seen or nothing for seen, asked, nothing in pairs if asked and seen != asked]
    caption = f"{prompt}: the judge sees {', '.join(wrong)}" if wrong else prompt
    truth = None
    if len(frames) > 1:
        colour, shape, motion = prompt.removeprefix("a ").split(" ", 2)
        rng = numpy_generator(0, "true clip of a score", number)
        truth = render_clip(colour, shape, motion, rng=rng, frames=len(frames), size=min(frames.shape[1:3]))
    return Panel(caption, frames, wrong=bool(wrong), truth=truth)


def accuracies(verdicts: Sequence[Verdict], truths: Sequence[Verdict]) -> dict[str, Any]:
    """Return the accuracies of verdicts against what was asked for.

    A truth of None was not asked for and does not count (an image has no direction); a verdict of None is wrong.

    Returns:
        for "colour", "direction" and "both" a dict of right (int), count (int), accuracy (0 .. 1, None without a
        count) and chance.

    Raises:
        ValueError: the lists differ in length.
    """
    result = {}
    for name, chance in CHANCE.items():
        fields = ("colour", "direction") if name == "both" else (name,)
        pairs = [
            ([getattr(verdict, f) for f in fields], [getattr(truth, f) for f in fields])
            for verdict, truth in zip(verdicts, truths, strict=True)
        ]
        asked = [(seen, wanted) for seen, wanted in pairs if None not in wanted]
        right = sum(seen == wanted for seen, wanted in asked)
        accuracy = right / len(asked) if asked else None
        result[name] = {"right": right, "count": len(asked), "accuracy": accuracy, "chance": chance}
    return result
