"""What the page draws with: cascades, runs and exported folders that the command line names, each under a name."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...config.stages import STAGES
from ...errors import CheckpointError, ConfigError
from ...inference.cascade import Cascade, fingerprint
from ...inference.load import META, default_device, load_stage
from ...inference.settings import resolve, run_defaults
from ...inference.text_to_video import TextToVideo
from ...models.lora.choice import LoraChoice
from ...run_folder import find_stage


@dataclass(frozen=True)
class Source:
    """A cascade, or a base network alone, as it is planned before any weights are read."""

    name: str
    folder: Path
    planned: Cascade
    """On the meta device: its stages, sizes and settings."""

    @property
    def base(self) -> TextToVideo:
        """The first stage, on the meta device."""
        return self.planned.stages["base"]

    def load(self, loras: Sequence[LoraChoice] = ()) -> Cascade:
        """Return the cascade with its weights, on a GPU where there is one.

        Args:
            loras: merged into the weights.

        Raises:
            CheckpointError: what lies in the folder is damaged, or a LoRA does not fit.
        """
        return load_cascade(self.folder, default_device(), loras)

    def told(self) -> dict[str, Any]:
        """Return what the page shows of it, as JSON values."""
        stages = {}
        for name in self.planned.stages:
            settings = getattr(self.planned.settings, name)
            stages[name] = {
                "num_inference_steps": settings.num_inference_steps,
                "guidance_scale": settings.guidance_scale,
                "negative_prompt": settings.negative_prompt,
                "size": list(self.planned.sizes()[name].pixels),
            }
        return {
            "name": self.name,
            "folder": str(self.folder),
            "stages": stages,
            "takes_frames": self.base.takes_frames,
            "seed": self.planned.settings.base.seed,
        }


def load_cascade(folder: Path, device: torch.device, loras: Sequence[LoraChoice] = ()) -> Cascade:
    """Return the cascade in a folder, as far as it goes; of a folder of one stage, that stage alone.

    Args:
        folder: with base/, and perhaps interpolation/ and vsr/; or a run, a checkpoint or an export of stage base.
        device: "meta" reads no weights.
        loras: merged into the weights.

    Raises:
        CheckpointError: it is none of these, or something in it is missing.
        ConfigError: it is of another stage than base.
    """
    if (folder / "base").is_dir():
        stop = "base"
        for stage in STAGES.values():
            if not (folder / stage.name).is_dir():
                break
            stop = stage.name
        return Cascade.from_pretrained(folder, stop_after=stop, device=device, loras=loras)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder: wanted a cascade, a run, or an exported folder")
    checkpoint = find_stage(folder)
    sampler, config = load_stage(checkpoint, device=device, loras=loras)
    if not isinstance(sampler, TextToVideo):
        raise ConfigError(
            f"{folder} is of stage {config.stage}, which draws nothing from a prompt alone: wanted a run of stage base,"
            " or a folder with base/, interpolation/ and vsr/"
        )
    settings = resolve({"base": run_defaults(config)}, seed=config.seed)
    sources = {"base": fingerprint(checkpoint, loras)}
    return Cascade(sampler, settings=settings, device=device, sources=sources, loras=loras)


def find_sources(words: Sequence[str]) -> dict[str, Source]:
    """Return cascades by name, each given as FOLDER, whose own name it then has, or NAME=FOLDER.

    Raises:
        ConfigError: two are of one name; or as `load_cascade` does.
        CheckpointError: as `load_cascade` does.
    """
    found: dict[str, Source] = {}
    for word in words:
        name, equals, folder = word.partition("=")
        if not equals or Path(word).exists():
            name, folder = Path(word).resolve().name, word
        if not name.strip() or not name.isprintable() or name in found:
            raise ConfigError(f"{word!r}: wanted a name that no other one has, of letters on one line: NAME=FOLDER")
        found[name] = Source(name, Path(folder), load_cascade(Path(folder), META))
    return found


def find_loras(words: Sequence[str]) -> dict[str, LoraChoice]:
    """Return the LoRAs that the page offers, by name: each FILE, or FILE:SCALE with the scale to begin with.

    Raises:
        ConfigError: there is no such file, two are of one name, or a scale is no number.
    """
    found: dict[str, LoraChoice] = {}
    for word in words:
        choice = LoraChoice.parse(word)
        if not choice.path.exists():
            raise ConfigError(f"--lora {word}: no such file or folder")
        if choice.path.stem in found:
            raise ConfigError(f"--lora {word}: another LoRA has this name: rename one of them")
        found[choice.path.stem] = choice
    return found
