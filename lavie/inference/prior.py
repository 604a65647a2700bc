"""Samples that a network draws itself, to be trained on beside a new subject: what it knew of its kind stays.

Prior preservation (Ruiz et al., 2023, DreamBooth): the samples keep a caption such as "a dog", while those of the
subject have "a sks dog".
"""

from collections.abc import Sequence
from pathlib import Path

from ..config.train import TrainConfig
from .sampler import Progress
from .settings import BaseSettings, arguments
from .text_to_video import TextToVideo
from .video_io import write_mp4, write_png


def draw_prior(
    sampler: TextToVideo,
    config: TrainConfig,
    prompts: Sequence[str],
    count: int,
    out: str | Path,
    *,
    images: bool,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Draw samples with their captions into a folder, as `lavie data pack` takes them: 00000.png, 00000.txt and so on.

    A sample depends on its number, its prompt and the seed only. Those that lie in the folder are not drawn again.

    Args:
        sampler: of the network whose knowledge is to stay.
        config: of its run, which says how it is sampled.
        prompts: go round; each is the caption of its samples, and is read as captions are in training.
        count: of samples.
        out: created if missing.
        images: whether images are drawn; else clips, as mp4.
        seed: of the initial noise.
        progress: called after every denoising step as progress(step, steps), over all samples.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    settings = BaseSettings.of(config, seed=seed, prompt_syntax="plain", **({"num_frames": 1} if images else {}))
    for index in range(count):
        prompt, file = prompts[index % len(prompts)], out / f"{index:05d}{'.png' if images else '.mp4'}"
        if file.exists() and file.with_suffix(".txt").exists():
            continue

        def advance(step: int, steps: int, done: int = index) -> None:
            """Tell the progress over all samples."""
            if progress:
                progress(done * steps + step, count * steps)

        [frames] = sampler([prompt], indices=[index], progress=advance, **arguments(settings))
        if images:
            write_png(file, frames[0])
        else:
            write_mp4(file, frames, settings.fps, min_side=1)
        file.with_suffix(".txt").write_text(prompt + "\n", encoding="utf-8")
