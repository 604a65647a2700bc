"""Measure seconds and memory of every stage at full size, with random weights, so that nothing is downloaded.

    python -m lavie.bench.cascade [--stage base] [--frames 16] [--height 320] [--width 512] [--steps 50] ...

Each stage runs alone in a process of its own, on random frames of the size that the stage before would give it, as
`lavie generate --offload` would run it; super-resolution on the first 16 of them (--vsr-frames), for it takes minutes.
The table stands beside the paper's numbers, and a row per stage is appended to a CSV file. A stage that fails is named
in the end, after the others.
"""

import csv
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from .. import __version__
from ..config.stages import STAGES
from ..console import make_console
from ..diffusion.schedule import NoiseSchedule
from ..errors import LavieError
from ..inference.cascade import Cascade
from ..inference.load import META, SAMPLERS, default_device, dtype_on
from ..inference.memory import peaks
from ..inference.sampler import ClipSize, Sampler
from ..inference.settings import arguments, resolve
from ..models.autoencoder import KLAutoencoder
from ..models.live_bytes import GIB
from ..models.text_encoder import ClipTextEncoder
from ..models.unet import VideoUNet

RESULTS = Path(__file__).with_name("results.csv")
PAPER = {"base": (10, 13), "interpolation": (180, 40), "vsr": (360, 42)}
"""Seconds and GB of each stage in the paper (section 5.2), on a GPU that it does not name."""
GPU_SIZE, CPU_SIZE = (16, 320, 512, 50), (2, 64, 64, 2)
"""Key frames, height, width and denoising steps: the paper's, and one that a CPU finishes in minutes."""
VSR_FRAMES = 16
"""Frames that super-resolution is given by default: it goes through a clip by windows, and all 61 take many minutes."""


@dataclass(frozen=True)
class Measurement:
    """The measurement of one stage: a line of the results file."""

    date: str
    """Day of the measurement, YYYY-MM-DD."""
    device: str
    """The GPU's name, or the CPU's architecture and number of threads."""
    lavie: str
    torch: str
    dtype: str
    stage: str
    frames: int
    """Frames of the stage's clip."""
    height: int
    """Rows of pixels of the stage's clip."""
    width: int
    """Columns of pixels of the stage's clip."""
    steps: int
    """Denoising steps."""
    guidance: float
    seconds: float
    """From prompt and frames to frames, decoding included; weights were in place."""
    seconds_per_step: float
    """Seconds per denoising step, the mean after the first one."""
    peak_gib: float
    """GPU: the most memory allocated; CPU: resident memory of the process above that at its start, at most."""
    estimated_gib: float
    """Peak by the estimate of `lavie generate --dry-run --offload`."""


def random_sampler(stage: str, device: torch.device, dtype: torch.dtype) -> Sampler:
    """Return a stage at full size: its network and the encoders that it is used with, without trained weights."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    kind = STAGES[stage]
    # The encoders of Stable Diffusion's x4 upscaler, or those of Stable Diffusion 1.4: an autoencoder of one level less
    # and OpenCLIP ViT-H/14 without its last layer, or CLIP ViT-L/14.
    large = kind.condition == "low_resolution"
    widths = (128, 256, 512) if large else (128, 256, 512, 512)
    text = CLIPTextConfig(
        hidden_size=1024 if large else 768,
        intermediate_size=4096 if large else 3072,
        num_hidden_layers=23 if large else 12,
        num_attention_heads=16 if large else 12,
        hidden_act="gelu" if large else "quick_gelu",
    )
    with device:
        network = VideoUNet(kind.network).to(dtype).eval()
        vae: Any = AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=2,
            latent_channels=4,
        )
        encoder = CLIPTextModel(text).eval()
    # As load_stage has it, an autoencoder that overflows in 16 bits stays in float32.
    autoencoder = KLAutoencoder(vae.eval(), 0.08333 if large else 0.18215, 8).to(
        torch.float32 if kind.autoencoder_float32 else dtype
    )
    return SAMPLERS[stage](
        network,
        autoencoder,
        ClipTextEncoder(encoder, _no_tokens, 77),
        NoiseSchedule(kind.prediction_type),
    )


def _no_tokens(captions: list[str], *, max_length: int, **_: Any) -> SimpleNamespace:
    """Stand in for a tokenizer: every caption is empty."""
    return SimpleNamespace(input_ids=torch.zeros(len(captions), max_length, dtype=torch.long))


def measure(stage: str, given: ClipSize, settings: dict[str, Any], device: str) -> tuple[float, float, int]:
    """Sample one clip, and return the seconds that took, the seconds per step, and the peak bytes of memory.

    Args:
        given: frames, height and width that the stage starts from; unused by the first one.
        settings: arguments of the sampler.
        device: its name, for the call comes from another process.
    """
    target = torch.device(device)
    resident_before = _resident()
    sampler: Any = random_sampler(stage, target, dtype_on(target))
    noise = np.random.default_rng(0)
    frames = [] if STAGES[stage].draws_from_prompt else [noise.integers(0, 256, (1, *given, 3), np.uint8)]
    if target.type == "cuda":
        torch.cuda.reset_peak_memory_stats(target)
    times = [time.perf_counter()]

    def tick(*_: int) -> None:
        """Note the time at which a step is done."""
        if target.type == "cuda":
            torch.cuda.synchronize(target)
        times.append(time.perf_counter())

    sampler(*frames, ["a prompt"], progress=tick, **settings)
    seconds = time.perf_counter() - times[0]
    peak = torch.cuda.max_memory_allocated(target) if target.type == "cuda" else _resident() - resident_before
    return seconds, (times[-1] - times[1]) / max(len(times) - 2, 1), peak


def _resident() -> int:
    """Return the most bytes that this process has held in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bench(
    stages: list[str],
    size: tuple[int, int, int, int],
    guidance: float | None,
    device: torch.device,
    failures: dict[str, str],
    vsr_frames: int = VSR_FRAMES,
) -> Iterator[Measurement]:
    """Yield a measurement of each stage in turn: one clip sampled with random weights, in a process of its own.

    Args:
        stages: the names of the stages to measure.
        size: key frames, height and width of the base stage's clip, and the denoising steps of every stage.
        guidance: scale of all stages; None takes each stage's default.
        device: where the stages sample.
        failures: filled in by this function. A stage whose sampling raises an error, such as out of memory, yields no
            measurement; it gets an entry with the error's text, under its name.
        vsr_frames: the most frames that super-resolution samples, to bound its time and memory.

    Raises:
        ConfigError: the cascade cannot sample at this size; raised when the first measurement is asked for.
    """
    # Sizes and estimates come first, on tensors without data: a size that cannot be is refused before any work.
    frames, height, width, steps = size
    overrides = [f"base.height={height}", f"base.width={width}"]
    overrides += [f"{name}.num_inference_steps={steps}" for name in STAGES]
    overrides += [f"{name}.guidance_scale={guidance}" for name in STAGES if guidance is not None]
    settings = resolve({}, [*overrides, f"base.num_frames={frames}"])
    dtype = dtype_on(device)
    parts: dict[str, Any] = {name: random_sampler(name, META, dtype) for name in STAGES}
    cascade = Cascade(**parts, settings=settings, device=META)
    estimates, sizes = peaks(cascade, offload=True), cascade.sizes()
    given = {"base": (0, 0, 0), "interpolation": (frames, height, width), "vsr": sizes["interpolation"].pixels}
    if "vsr" in stages and vsr_frames < given["vsr"][0]:
        # A cascade whose interpolation adds nothing: super-resolution gets as many frames as there are key frames.
        parts["interpolation"].keyframe_interval = 1
        short = Cascade(**parts, settings=resolve({}, [*overrides, f"base.num_frames={vsr_frames}"]), device=META)
        estimates["vsr"], sizes["vsr"] = peaks(short, offload=True)["vsr"], short.sizes()["vsr"]
        given["vsr"] = (vsr_frames, *given["vsr"][1:])

    # Each stage has a process of its own, so that its peak of memory is not another's.
    for stage in stages:
        stage_settings = getattr(settings, stage)
        try:
            with multiprocessing.get_context("spawn").Pool(1) as process:
                seconds, per_step, peak = process.apply(
                    measure, (stage, given[stage], arguments(stage_settings), str(device))
                )
        except Exception as error:  # out of memory, above all
            failures[stage] = f"{type(error).__name__}: {error}"
            continue
        yield Measurement(
            date=date.today().isoformat(),
            device=torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else f"{platform.machine()} CPU, threads: {torch.get_num_threads()}",
            lavie=__version__,
            torch=torch.__version__,
            dtype=str(dtype).removeprefix("torch."),
            stage=stage,
            frames=sizes[stage].pixels[0],
            height=sizes[stage].pixels[1],
            width=sizes[stage].pixels[2],
            steps=steps,
            guidance=stage_settings.guidance_scale,
            seconds=round(seconds, 2),
            seconds_per_step=round(per_step, 3),
            peak_gib=round(peak / GIB, 2),
            estimated_gib=round(estimates[stage].total / GIB, 2),
        )


def append(rows: list[Measurement], path: Path) -> None:
    """Add rows to a CSV file, with a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Measurement.__dataclass_fields__), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(map(asdict, rows))


def table(rows: list[Measurement]) -> Table:
    """Return a table of the rows beside the paper's numbers, which are of the paper's sizes."""
    columns = ["stage", "clip", "steps", "s", "s/step", "paper: s", "GiB", "dry run", "paper: GB"]
    result = Table(*columns, title=f"{rows[0].device}, {rows[0].dtype}, torch {rows[0].torch}")
    for row in rows:
        seconds, memory = PAPER[row.stage]
        clip = f"{row.frames} x {row.height} x {row.width}"
        values = [row.steps, row.seconds, row.seconds_per_step, seconds, row.peak_gib, row.estimated_gib, memory]
        result.add_row(row.stage, clip, *map(str, values))
    return result


def main(
    stage: Annotated[list[str] | None, typer.Option(help="base, interpolation or vsr; default: all three.")] = None,
    frames: Annotated[int | None, typer.Option(min=2, help="Key frames; default: 16 on a GPU, 2 on a CPU.")] = None,
    height: Annotated[int | None, typer.Option(help="Of the base clip; default: 320 on a GPU, 64 on a CPU.")] = None,
    width: Annotated[int | None, typer.Option(help="Of the base clip; default: 512 on a GPU, 64 on a CPU.")] = None,
    steps: Annotated[int | None, typer.Option(help="Of denoising; default: 50 on a GPU, 2 on a CPU.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Of all stages; 1 is one network call a step.")] = None,
    vsr_frames: Annotated[int, typer.Option(min=2, help="The most that super-resolution is given.")] = VSR_FRAMES,
    results: Annotated[Path, typer.Option(help="The CSV file that rows are appended to.")] = RESULTS,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only sizes and memory; nothing is sampled.")] = False,
) -> None:
    """Time the full-size cascade with random weights, and weigh its memory, on the GPU or else on the CPU."""
    # Sizes that were not given are those of the device: a CPU takes hours for the paper's.
    device = default_device()
    defaults = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    asked = (frames, height, width, steps)
    first, second, third, fourth = (b if a is None else a for a, b in zip(asked, defaults, strict=True))
    unknown = set(stage or []) - set(STAGES)
    if unknown:
        raise typer.BadParameter(f"--stage: got {', '.join(sorted(unknown))}, wanted {', '.join(STAGES)}")

    # Each row is written as soon as it is measured, so that an interrupted call keeps what it has.
    rows: list[Measurement] = []
    failures: dict[str, str] = {}
    try:
        size = (first, second, third, fourth)
        stages = [] if dry_run else stage or [*STAGES]
        for row in bench(stages, size, guidance, device, failures, vsr_frames):
            append([row], results)
            rows.append(row)
    except LavieError as error:
        raise typer.BadParameter(str(error)) from None

    # Failures come after the table, and decide the exit code.
    if rows:
        make_console().print(table(rows))
    if failures:
        raise SystemExit("\n".join(f"stage {name} failed: {reason}" for name, reason in failures.items()))


if __name__ == "__main__":
    typer.run(main)
