"""`lavie score`: what a network trained on the rendered set draws for prompts it never saw, judged by its pixels."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

from ..data.prepare.synthetic import COLOURS, HELD_OUT, SHAPES, clip_caption, image_caption
from ..evaluation.judge import Verdict, judge_clip, judge_image
from ..evaluation.score_base import report
from ..evaluation.score_base import score as accuracies
from ..evaluation.score_stages import compare
from ..inference.base import SampleSettings
from ..inference.load import load_stage
from ..inference.sampler import TextToVideo
from ..inference.video_io import replacing, write_sheet

BATCH = 12
"""Prompts drawn at once."""
PAIRS = 12
"""Held-out clips on which a later stage is compared."""


def score(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint-<step> folder, or a run's output_dir (its newest).")],
    out: Annotated[Path, typer.Option(help="Where the contact sheets and score.json go.")],
    num: Annotated[int, typer.Option(min=1, help="Clips per held-out prompt.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of the initial noise.")] = 0,
) -> None:
    """Judge a run on held-out data.

    base, trained on the rendered set: colour and direction of clips, colour of images, beside chance. The later stages:
    PSNR against the true clips, beside doing without a network.
    """
    pipeline, config = load_stage(checkpoint)
    if config.stage != "base":
        return compare(pipeline, config, out, PAIRS, seed)
    assert isinstance(pipeline, TextToVideo)
    settings = SampleSettings.of(config)
    clips = [(clip_caption(c, s, f"moving {d}"), Verdict(c, d)) for _ in range(num) for c, s, d in HELD_OUT]
    images = [(image_caption(c, s), Verdict(c, None)) for c in COLOURS for s in SHAPES]
    out.mkdir(parents=True, exist_ok=True)
    result = {}
    for name, cases, num_frames in (("clips", clips, settings.num_frames), ("images", images, 1)):
        prompts, truths = zip(*cases, strict=True)
        batches = [range(i, min(i + BATCH, len(prompts))) for i in range(0, len(prompts), BATCH)]
        drawn = [
            frames
            for batch in track(batches, description=f"drawing {name}", transient=True)
            for frames in pipeline(
                [prompts[i] for i in batch],
                indices=list(batch),
                num_frames=num_frames,
                height=settings.height,
                width=settings.width,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                scheduler=settings.scheduler,
                seed=seed,
            )
        ]
        verdicts = [Verdict(judge_image(d[0]), None) if num_frames == 1 else judge_clip(d) for d in drawn]
        report(prompts, verdicts, truths)
        result[name] = accuracies(verdicts, truths)
        write_sheet(out / f"{name}.png", list(zip(prompts, drawn, strict=True))[:18])
    with replacing(out / "score.json") as file:
        file.write_text(json.dumps(result, indent=2) + "\n")
    for name, parts in result.items():
        for what, part in parts.items():
            if part["count"]:
                share = f"{part['accuracy']:.0%} ({part['right']}/{part['count']})"
                typer.echo(f"{name}: {what} {share}, chance {part['chance']:.0%}")
