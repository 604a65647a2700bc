"""The whole cascade in one process: a prompt becomes key frames, the key frames a clip, the clip a large clip."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from ..config.load import read_yaml
from ..config.stages import StageName
from ..errors import CheckpointError, ConfigError
from ..run_folder import find_stage
from .chunking import Axes, whole
from .contact_sheet import beside
from .frames import check_size
from .interpolation import Interpolator
from .load import META, default_device, dtype_on, load_stage
from .sampler import TextToVideo, check_prompts
from .settings import CascadeSettings, arguments, resolve, run_defaults
from .super_resolution import SuperResolver
from .video_io import write_mp4, write_sheet
from .work import Work

STAGES: tuple[StageName, ...] = get_args(StageName)
Report = Callable[[str, int, int], None]
"""Called after each denoising step as report(stage, step, steps), step from 1, over all clips."""


@dataclass(frozen=True)
class Plan:
    """The sizes of a stage."""

    pixels: tuple[int, int, int]
    """Frames, height and width of its clips."""
    latents: tuple[int, int, int]
    """Frames, rows and columns that are denoised."""
    axes: Axes
    """How they are cut into windows."""

    @property
    def window(self) -> tuple[int, ...]:
        """Frames, rows and columns of the largest window."""
        return tuple(axis.window for axis in self.axes)


class Cascade:
    """The stages one after the other, with tensors between them and the true prompt everywhere."""

    def __init__(
        self,
        base: TextToVideo,
        interpolation: Interpolator | None = None,
        vsr: SuperResolver | None = None,
        *,
        settings: CascadeSettings | None = None,
        device: torch.device | str | None = None,
        offload: bool = False,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            base, interpolation, vsr: the samplers of the stages; a cascade may end early.
            settings: default: the released ones.
            device: where stages run; default: where the base network is.
            offload: keep every stage on the CPU but the one that runs.
            sources: stage -> a name of its weights, by which a stage on disk is known to be of other weights.
        """
        stages = {"base": base, "interpolation": interpolation, "vsr": vsr}
        if vsr is not None and interpolation is None:
            raise ConfigError("the cascade has a vsr stage and no interpolation stage, from which vsr takes its frames")
        self.stages: dict[str, Any] = {name: stage for name, stage in stages.items() if stage is not None}
        self.settings = settings or CascadeSettings()
        self.device = torch.device(device or base.device)
        self.offload = offload
        self.sources = dict(sources or {})
        for stage in self.stages.values():
            stage.to("cpu" if offload else self.device)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        overrides: Iterable[str] = (),
        seed: int | None = None,
        stop_after: str = "vsr",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        offload: bool = False,
    ) -> "Cascade":
        """The cascade in `folder`: base/, interpolation/ and vsr/, each an exported folder, a run's folder or a
        checkpoint-<step> folder.

        Args:
            overrides: settings such as "vsr.guidance_scale=6", over those of the runs.
            seed: of every stage, where `overrides` says nothing else; default 0.
            stop_after: the last stage that is loaded.
            device: default: a GPU where there is one; "meta" loads nothing, for estimates (see memory.py).
            dtype, offload: see `load_stage` and `Cascade`.

        Raises:
            CheckpointError: a stage is missing, or the folder of one holds another.
            ConfigError: settings that are unknown, out of range or of a stage that does not run.
        """
        device = torch.device(device or default_device())
        stages: dict[str, Any] = {}
        defaults: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for stage in _until(stop_after):
            place = Path(folder) / stage
            if not place.is_dir():
                raise CheckpointError(
                    f"--cascade {folder}: no folder {stage}/ in it; wanted {', '.join(STAGES)}, or --stop-after an "
                    "earlier stage"
                )
            checkpoint = find_stage(place)
            home = torch.device("cpu") if offload and device != META else device
            stages[stage], config = load_stage(checkpoint, device=home, dtype=dtype or dtype_on(device))
            if config.stage != stage:
                raise CheckpointError(f"{checkpoint} is of stage {config.stage}, wanted {stage}: move it there")
            defaults[stage] = run_defaults(config, read_yaml(checkpoint / "config.yaml").get("sampling"))
            sources[stage] = _fingerprint(checkpoint)
        settings = resolve(defaults, _of_stages(overrides, stages), seed=seed)
        return cls(**stages, settings=settings, device=device, offload=offload and device != META, sources=sources)

    def plan(self) -> dict[str, Plan]:
        """The sizes of every stage.

        Raises ConfigError naming the setting with which no stage, or not the next one, can go on.
        """
        settings = self.settings
        frames, height, width = settings.base.num_frames, settings.base.height, settings.base.width
        plans: dict[str, Plan] = {}
        for name, stage in self.stages.items():
            stride = stage.autoencoder.stride
            if name == "base":
                wanted = lcm(
                    *(self.stages[n].autoencoder.stride for n in ("base", "interpolation") if n in self.stages)
                )
                with _naming("--set base.height=... and base.width=..."):
                    check_size(height, width, wanted)
                latents = frames, height // stride, width // stride
                axes: Axes = whole(latents)
            elif name == "interpolation":
                frames = (frames - 1) * stage.keyframe_interval + 1
                latents = frames, height // stride, width // stride
                with _naming("--set base.num_frames=..., interpolation.window=... or interpolation.overlap=..."):
                    axes = stage.axes(latents, settings.interpolation.window, settings.interpolation.overlap)
            else:
                vsr = settings.vsr
                latents = frames, height, width
                height, width = height * stride, width * stride
                with _naming(
                    "--set vsr.noise_level=..., vsr.window=..., vsr.overlap=..., vsr.tile=... or vsr.tile_overlap=..."
                ):
                    stage.check_noise_level(vsr.noise_level)
                    axes = stage.axes(latents, vsr.window, vsr.overlap, vsr.tile, vsr.tile_overlap)
            plans[name] = Plan((frames, height, width), latents, axes)
        return plans

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        indices: Sequence[int] | None = None,
        stop_after: str = "vsr",
        work: Work | None = None,
        sequential_guidance: bool = False,
        progress: Report | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """For each prompt its clip of each stage, uint8 (F, H, W, 3), by stage.

        The stages go one after the other over all prompts, one clip at a time.

        Args:
            indices: clip i depends only on its prompt, the settings and indices[i], not on its batch; default 0, 1 ...
            stop_after: the last stage that runs.
            work: keeps the clips on disk rather than in memory, and those it has of equal settings are not made again.
            sequential_guidance: see TextToVideo.

        Raises:
            ConfigError: settings with which a stage cannot sample; before anything is sampled.
        """
        indices = check_prompts(prompts, indices)
        self.plan()
        clips: list[dict[str, np.ndarray]] = [{} for _ in prompts]
        records: list[dict[str, Any]] = [{} for _ in prompts]
        before = None
        for stage in (name for name in _until(stop_after) if name in self.stages):
            settings = getattr(self.settings, stage)
            todo = []
            for row, (index, prompt) in enumerate(zip(indices, prompts, strict=True)):
                records[row] = self._record(stage, prompt, index, records[row])
                known = work.get(index, stage, records[row]) if work else None
                if known is None:
                    todo.append(row)
                else:
                    clips[row][stage] = known
            for done, row in enumerate(todo):
                self.stages[stage].to(self.device)

                def advance(step: int, steps: int, done: int = done, count: int = len(todo), name: str = stage) -> None:
                    if progress:
                        progress(name, done * steps + step, count * steps)

                given: list[np.ndarray] = [] if before is None else [clips[row][before][None]]
                [frames] = self.stages[stage](
                    *given,
                    [prompts[row] + settings.prompt_suffix],
                    indices=[indices[row]],
                    sequential_guidance=sequential_guidance,
                    progress=advance,
                    **arguments(settings),
                )
                clips[row][stage] = work.put(indices[row], stage, records[row], frames) if work else frames
            if self.offload and todo:
                self.stages[stage].to("cpu")
                torch.cuda.empty_cache()  # does nothing without a GPU
            before = stage
        return clips

    def fps(self, stage: str) -> float:
        """The rate at which the clips of a stage play."""
        return self.settings.base.fps if stage == "base" else self.settings.interpolation.fps

    def _record(self, stage: str, prompt: str, index: int, before: Mapping[str, Any]) -> dict[str, Any]:
        """All that decides a clip of a stage."""
        return {
            "stage": stage,
            "prompt": prompt,
            "index": index,
            "settings": getattr(self.settings, stage).model_dump(mode="json", exclude={"fps"}),
            "weights": self.sources.get(stage, ""),
            "before": dict(before),
        }


def generate_cascade(
    cascade: Cascade,
    prompts: Sequence[str],
    out: str | Path,
    *,
    num_per_prompt: int = 1,
    stop_after: str = "vsr",
    sequential_guidance: bool = False,
    overwrite: bool = False,
    progress: Report | None = None,
) -> list[Path]:
    """Sample every prompt through the cascade into `out`; a call that was cut short goes on where it stopped.

    Writes, for clip 00000 and so on, 00000-base.mp4, 00000-interpolation.mp4, 00000-vsr.mp4, and 00000.mp4 with the
    first beside the last; then sheet.png with rows of each. It keeps every stage without loss in work/ (see work.py).

    Args:
        out: created if missing.
        overwrite: whether clips of other prompts that lie in `out` may be replaced. Those of the same prompts are,
            where their settings or weights differ.

    Returns: the videos, prompt by prompt and stage by stage, then the sheet.

    Raises:
        ConfigError: no prompts, settings that cannot be sampled, or clips of other prompts in `out`.
    """
    out = Path(out)
    if num_per_prompt < 1:
        raise ConfigError(f"num_per_prompt (--num): got {num_per_prompt}, wanted 1 or more")
    prompts = [prompt for prompt in prompts for _ in range(num_per_prompt)]
    work = Work(out / "work")
    for index, prompt in enumerate(prompts):
        lying = work.record(index, "base")
        if lying and lying["prompt"] != prompt and not overwrite:
            raise ConfigError(
                f"{out} holds clips of other prompts, as {index:05d} of {lying['prompt']!r}: give another --out "
                "folder, or --overwrite"
            )
    clips = cascade(
        prompts, stop_after=stop_after, work=work, sequential_guidance=sequential_guidance, progress=progress
    )
    paths, rows = [], []
    for index, (prompt, stages) in enumerate(zip(prompts, clips, strict=True)):
        for stage, frames in stages.items():
            paths.append(out / f"{index:05d}-{stage}.mp4")
            write_mp4(paths[-1], frames, cascade.fps(stage))
            rows.append((f"{stage}: {prompt}", frames))
        if len(stages) > 1:
            paths.append(out / f"{index:05d}.mp4")
            write_mp4(paths[-1], beside([stages["base"], frames]), cascade.fps(stage))
    write_sheet(out / "sheet.png", rows)
    return [*paths, out / "sheet.png"]


def _until(stop_after: str) -> tuple[StageName, ...]:
    if stop_after not in STAGES:
        raise ConfigError(f"stop_after: got {stop_after!r}, wanted one of {', '.join(STAGES)}")
    return STAGES[: [*STAGES].index(stop_after) + 1]  # type: ignore[arg-type]


def _of_stages(overrides: Iterable[str], stages: Iterable[str]) -> list[str]:
    """`overrides`, or ConfigError if one of them is of a stage that does not run."""
    overrides = list(overrides)
    for text in overrides:
        stage = text.split(".")[0]
        if stage in STAGES and stage not in stages:
            raise ConfigError(f"--set {text}: stage {stage} does not run; drop it, or --stop-after a later stage")
    return overrides


def _fingerprint(checkpoint: Path) -> str:
    """A name for the weights of a checkpoint: its place, and the sizes and times of its files."""
    files = sorted(checkpoint.glob("unet/*"))
    stats = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    return f"{checkpoint.resolve()} {hashlib.sha256(chr(10).join(stats).encode()).hexdigest()[:16]}"


@contextmanager
def _naming(flags: str) -> Iterator[None]:
    """Errors in the block name these flags."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}; change {flags}") from None
