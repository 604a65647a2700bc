"""The whole cascade in one process: a prompt becomes key frames, the key frames a clip, the clip a large clip."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import lcm
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config.stages import STAGES, StageName
from ..errors import CheckpointError, ConfigError
from ..models.lora.choice import LoraChoice
from ..models.prompt_reading import Read, warn_of_uncalled, warn_of_unread
from ..models.textual_inversion import teach
from ..run_folder import LORA, NETWORK, find_stage
from .finite import naming_clip
from .interpolation import Interpolator
from .latents import check_size
from .load import META, default_device, dtype_on, load_stage
from .preview import PreviewFile
from .sampler import Sampler, StageSizes, check_prompts
from .settings import CascadeSettings, StageSettings, arguments, resolve, run_defaults
from .start import Start
from .super_resolution import SuperResolver
from .text_to_video import TextToVideo
from .work import Work

StageProgress = Callable[[str, int, int], None]
"""Called after each denoising step as progress(stage, step, steps), step from 1, over all clips of a stage."""


@dataclass
class CascadeClip:
    """One clip on its way through the cascade."""

    prompt: str
    index: int
    """The number that, with the seed, decides its noise."""
    number: int
    """The number under which work/ keeps it."""
    settings: CascadeSettings
    """Those of each stage."""
    start: Start | None = None
    """What the first stage starts from besides the prompt."""
    record: dict[str, Any] = field(default_factory=dict)
    """All that decided the frames of the stage that it has reached."""
    frames: dict[str, np.ndarray] = field(default_factory=dict)
    """By stage: uint8 (F, H, W, 3)."""

    def texts(self, stage: str) -> list[str]:
        """Return what a stage draws: the prompt, or in the first stage those of segments that stand in its place."""
        segments = self.start.segments if self.start and stage == "base" else ()
        return list(segments) or [self.prompt]


class Cascade:
    """The stages of the cascade one after the other: each gets the tensors of the one before, and the true prompt."""

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
        loras: Sequence[LoraChoice] = (),
    ) -> None:
        """Join the samplers of the stages.

        Args:
            base, interpolation, vsr: the samplers of the stages; a cascade may end early.
            settings: default: the released ones.
            device: where stages run; default: where the base network is.
            offload: keep every stage on the CPU but the one that runs.
            sources: stage -> a name of its weights, by which frames on disk are known to be of other weights.
            loras: those that are merged into the networks, to be named beside clips.
        """
        stages = {"base": base, "interpolation": interpolation, "vsr": vsr}
        if vsr is not None and interpolation is None:
            raise ConfigError("the cascade has a vsr stage and no interpolation stage, from which vsr takes its frames")

        # A cascade may end early: a stage that was not given is no stage of it.
        self.stages: dict[str, Any] = {name: stage for name, stage in stages.items() if stage is not None}
        self.settings = settings or CascadeSettings()
        self.device = torch.device(device or base.device)
        self.offload = offload
        self.sources = dict(sources or {})
        self.loras = tuple(loras)

        # With offload, a stage comes to the device only while it runs.
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
        loras: Iterable[str | LoraChoice] = (),
        embeddings: Sequence[str] = (),
    ) -> "Cascade":
        """Load the cascade in `folder`: base/, interpolation/ and vsr/.

        Each of them is an exported folder, a run's folder or a checkpoint-<step> folder.

        Args:
            overrides: settings such as "vsr.guidance_scale=6", over those of the runs.
            seed: of every stage, where `overrides` says nothing else; default 0.
            stop_after: the last stage that is loaded.
            device: default: a GPU where there is one; "meta" loads nothing, for estimates (see memory.py).
            dtype, offload: see `load_stage` and `Cascade`.
            loras: such as "style.safetensors:0.8", or "style.safetensors:0.8:1" with a scale for the text encoder;
                merged into every stage but super-resolution, whose network is no Stable Diffusion 1.x.
            embeddings: files of textual inversion, each FILE or NAME=FILE, for every stage whose text encoder is as
                wide as their vectors.

        Raises:
            CheckpointError: a stage is missing, the folder of one holds another, a LoRA does not fit, or an embedding
                fits no stage.
            ConfigError: settings that are unknown, out of range or of a stage that does not run.
        """
        device = torch.device(device or default_device())
        chosen = [lora if isinstance(lora, LoraChoice) else LoraChoice.parse(lora) for lora in loras]
        stages: dict[str, Any] = {}
        defaults: dict[str, Any] = {}
        sources: dict[str, str] = {}

        # Each stage brings the settings of its own run as its defaults.
        for stage in stages_until(stop_after):
            stage_folder = Path(folder) / stage
            if not stage_folder.is_dir():
                raise CheckpointError(
                    f"--cascade {folder}: no folder {stage}/ in it; wanted {', '.join(STAGES)}, or --stop-after an "
                    "earlier stage"
                )

            # An offloaded stage waits on the CPU, in the dtype of the device that it will run on.
            checkpoint = find_stage(stage_folder)
            home = torch.device("cpu") if offload and device != META else device
            stages[stage], config = load_stage(
                checkpoint,
                device=home,
                dtype=dtype or dtype_on(device),
                runs_on=default_device() if device == META else device,
                loras=chosen if takes_loras(stage) else (),
            )
            if config.stage != stage:
                raise CheckpointError(f"{checkpoint} is of stage {config.stage}, wanted {stage}: move it there")
            defaults[stage] = run_defaults(config)
            sources[stage] = fingerprint(checkpoint, chosen if takes_loras(stage) else ())
        encoders = {name: sampler.text_encoder for name, sampler in stages.items()}
        for name, words in teach(embeddings, encoders, tell=device != META).items():
            sources[name] += f" with {words}"

        # Overrides come last, when the stages that run are known: a setting of any other stage is refused.
        settings = resolve(defaults, of_stages(overrides, stages), seed=seed)
        return cls(
            **stages,
            settings=settings,
            device=device,
            offload=offload and device != META,
            sources=sources,
            loras=chosen,
        )

    def require(self, all_settings: Iterable[CascadeSettings]) -> None:
        """Check, without computing anything, that every stage can sample with each of some settings.

        Settings that come again are looked at once.

        Raises:
            ConfigError: names the setting, and the stage whose steps or layers they are.
        """
        checked: list[CascadeSettings] = []
        for settings in all_settings:
            if settings in checked:
                continue
            checked.append(settings)
            self.sizes(settings)
            for name, sampler in self.stages.items():
                try:
                    sampler.require_steps(getattr(settings, name))
                except ConfigError as error:
                    raise ConfigError(f"stage {name}: {error}") from None

    def require_clips(self, clips: Sequence[CascadeClip]) -> None:
        """Check, without computing anything, that each of some clips can be drawn.

        Raises:
            ConfigError: there are none, or a stage cannot sample with the settings or the start of one.
        """
        if not clips:
            raise ConfigError("got no prompts: wanted at least 1")
        self.require(clip.settings for clip in clips)
        for clip in clips:
            self.stages["base"].require(clip.start or Start(), clip.settings.base)

    def sizes(self, settings: CascadeSettings | None = None) -> dict[str, StageSizes]:
        """Return the sizes of every stage's clip, with the cascade's settings or others.

        Raises:
            ConfigError: names the settings with which no stage, or not the next one, can go on.
        """
        settings = settings or self.settings
        base = settings.base
        # The stages before super-resolution share one frame size, which both their autoencoders must divide.
        strides = [
            sampler.autoencoder.stride
            for name, sampler in self.stages.items()
            if STAGES[name].condition != "low_resolution"
        ]
        with _naming(TextToVideo.size_flags):
            check_size(base.height, base.width, lcm(*strides))
        pixels = base.num_frames, base.height, base.width
        sizes: dict[str, StageSizes] = {}
        for name, sampler in self.stages.items():
            with _naming(sampler.size_flags):
                sizes[name] = sampler.sizes(pixels, getattr(settings, name))
            pixels = sizes[name].pixels
        return sizes

    def __call__(
        self,
        prompts: Sequence[str],
        *,
        starts: Sequence[Start] | None = None,
        indices: Sequence[int] | None = None,
        stop_after: str = "vsr",
        work: Work | None = None,
        sequential_guidance: bool = False,
        progress: StageProgress | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """Return for each prompt its clip of each stage, uint8 (F, H, W, 3), by stage.

        The stages go one after the other over all prompts, one clip at a time.

        Args:
            starts: what each clip starts from besides its prompt; default: nothing.
            indices: clip i depends only on its prompt, the settings and indices[i], not on its batch; default 0, 1 ...
            stop_after: the last stage that runs.
            work: keeps the clips on disk rather than in memory, and those it has of equal settings are not made again.
            sequential_guidance: see `Denoising`.
            progress: called after each denoising step, over the clips of a stage that are not on disk yet.

        Raises:
            ConfigError: settings with which a stage cannot sample; before anything is sampled.
        """
        indices = check_prompts(prompts, indices)
        if starts is not None and len(starts) != len(prompts):
            raise ConfigError(f"got {len(prompts)} prompts and {len(starts)} starts: wanted one for each")
        own: Sequence[Start | None] = starts or [None] * len(prompts)
        clips = [
            CascadeClip(prompt, i, i, self.settings, start)
            for i, prompt, start in zip(indices, prompts, own, strict=True)
        ]
        self.draw(clips, stop_after=stop_after, work=work, sequential_guidance=sequential_guidance, progress=progress)
        return [clip.frames for clip in clips]

    def draw(
        self,
        clips: Sequence[CascadeClip],
        *,
        stop_after: str = "vsr",
        work: Work | None = None,
        sequential_guidance: bool = False,
        preview: Path | None = None,
        progress: StageProgress | None = None,
    ) -> None:
        """Draw clips that may have settings of their own, into their `frames`; else as a call does.

        Args:
            clips: of distinct numbers.
            preview: a folder in which a picture shows each step of the clip that is being drawn (see preview.py).
            stop_after, work, sequential_guidance, progress: as for a call.

        Raises:
            ConfigError: no clips, or settings or a start with which a stage cannot sample; before anything is sampled.
            NotFiniteError: a stage draws NaN or infinity; what was finished stays in `work`.
        """
        self.require_clips(clips)
        stages = self.until(stop_after)
        read = self.texts_read(stages, clips)
        warn_of_unread(read)
        warn_of_uncalled(read)
        previous = None
        for stage in stages:
            # A clip that is on disk, made of exactly the same, is not made again.
            missing = []
            for clip in clips:
                clip.record = self._record(stage, clip)
                kept = work.get(clip.number, stage, clip.record) if work else None
                if kept is None:
                    missing.append(clip)
                else:
                    clip.frames[stage] = kept

            sampler: Sampler = self.stages[stage]
            picture = PreviewFile(preview, sampler.preview()) if preview and missing else None
            for done, clip in enumerate(missing):
                sampler.to(self.device)

                def advance(
                    step: int, steps: int, done: int = done, count: int = len(missing), name: str = stage
                ) -> None:
                    """Tell the progress over all missing clips of the stage."""
                    if progress:
                        progress(name, done * steps + step, count * steps)

                with naming_clip(f"clip {clip.number:05d}, stage {stage} ({clip.prompt!r})"):
                    frames = self._sample(stage, clip, previous, sequential_guidance, picture, advance)
                clip.frames[stage] = work.put(clip.number, stage, clip.record, frames) if work else frames

            if picture:
                picture.remove()
            if self.offload and missing:
                sampler.to("cpu")
                torch.cuda.empty_cache()  # does nothing without a GPU
            previous = stage

    def records(self, clip: CascadeClip, *, stop_after: str = "vsr") -> dict[str, dict[str, Any]]:
        """Return what would decide the frames of a clip, by stage, as work/ records it."""
        records: dict[str, dict[str, Any]] = {}
        clip = replace(clip, record={})
        for stage in self.until(stop_after):
            clip.record = self._record(stage, clip)
            records[stage] = clip.record
        return records

    def until(self, stop_after: str) -> list[str]:
        """Return the stages of this cascade that run; ConfigError if there is no stage of that name."""
        return [name for name in stages_until(stop_after) if name in self.stages]

    def texts_read(self, stages: Iterable[str], clips: Sequence[CascadeClip]) -> list[Read]:
        """Return what the stages' text encoders read for some clips: prompts with their suffixes, and negative ones."""
        read: list[Read] = []
        for stage in stages:
            encoder = getattr(self.stages[stage], "text_encoder", None)
            for clip in clips:
                settings: StageSettings = getattr(clip.settings, stage)
                texts = [text + settings.prompt_suffix for text in clip.texts(stage)]
                read += [(encoder, text, settings.reading) for text in (*texts, settings.negative_prompt)]
        return read

    def _sample(
        self,
        stage: str,
        clip: CascadeClip,
        previous: str | None,
        sequential_guidance: bool,
        picture: PreviewFile | None,
        progress: Callable[[int, int], None],
    ) -> np.ndarray:
        """Return the clip's frames of a stage, made from those of the `previous` one unless it is the first."""
        settings: StageSettings = getattr(clip.settings, stage)
        shown = {"watch": picture} if picture else {}
        given = [] if previous is None else [clip.frames[previous][None]]
        options = arguments(settings)
        if previous is None and clip.start is not None:
            texts = [text + settings.prompt_suffix for text in clip.start.segments]
            options["start"] = replace(clip.start, segments=texts)
        [frames] = self.stages[stage](
            *given,
            [clip.prompt + settings.prompt_suffix],
            indices=[clip.index],
            sequential_guidance=sequential_guidance,
            progress=progress,
            **shown,
            **options,
        )
        return frames

    def _record(self, stage: str, clip: CascadeClip) -> dict[str, Any]:
        """Return all that decides a clip's frames of a stage as JSON values, with the record of the stage before."""
        record: dict[str, Any] = {
            "stage": stage,
            "prompt": clip.prompt,
            "index": clip.index,
            "settings": getattr(clip.settings, stage).model_dump(mode="json", exclude={"fps"}),
            "weights": self.sources.get(stage, ""),
            "before": clip.record,
        }
        return record if clip.start is None or clip.record else record | {"start": clip.start.record()}


def stages_until(stop_after: str) -> list[StageName]:
    """Return the stages that run, or raise ConfigError if there is no stage of that name."""
    if stop_after not in STAGES:
        raise ConfigError(f"stop_after: got {stop_after!r}, wanted one of {', '.join(STAGES)}")
    names = [stage.name for stage in STAGES.values()]
    return names[: names.index(STAGES[stop_after].name) + 1]


def of_stages(overrides: Iterable[str], stages: Iterable[str]) -> list[str]:
    """Return `overrides`, or raise ConfigError if one of them is of a stage that does not run."""
    overrides = list(overrides)
    for text in overrides:
        stage = text.split(".")[0]
        if stage in STAGES and stage not in stages:
            raise ConfigError(f"--set {text}: stage {stage} does not run; drop it, or --stop-after a later stage")
    return overrides


def takes_loras(stage: StageName) -> bool:
    """Return whether a stage's network has the layers that LoRAs of Stable Diffusion 1.x change."""
    return STAGES[stage].condition != "low_resolution"


def fingerprint(checkpoint: Path, loras: Sequence[LoraChoice] = ()) -> str:
    """Return a name for the weights of a checkpoint: its path, and a hash of its files' sizes and times.

    The contents and scales of LoRAs that are merged into them are part of it.
    """
    files = sorted([*checkpoint.glob(f"{NETWORK}/*"), *checkpoint.glob(f"{LORA}/*")])
    stats = [f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    name = f"{checkpoint.resolve()} {hashlib.sha256(chr(10).join(stats).encode()).hexdigest()[:16]}"
    return f"{name} {json.dumps([lora.record() for lora in loras])}" if loras else name


@contextmanager
def _naming(flags: str) -> Iterator[None]:
    """Add to a ConfigError of the block the flags that would cure it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{error}; change {flags}") from None
