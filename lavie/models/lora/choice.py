"""The LoRAs that a command or a cascade is asked for: files with scales, applied to a stage and its text encoder."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...config.model import UNetConfig
from ...errors import ConfigError
from ...files import sha256_of
from ..text_encoder import ClipTextEncoder
from ..unet import VideoUNet
from .attach import LoraReport, load_lora, load_text_lora, merge_lora, require_lora_fit, require_scale
from .read import LoraFile, read_lora

log = logging.getLogger("lavie")


@dataclass(frozen=True)
class LoraChoice:
    """A LoRA file or folder, and how strongly it acts."""

    path: Path
    scale: float = 1.0
    """The scale of the changes of the UNet."""
    text_scale: float = 1.0
    """The scale of the changes of the text encoder."""

    @classmethod
    def parse(cls, text: str, text_scale: float | None = None) -> "LoraChoice":
        """Return what FILE, FILE:SCALE or FILE:SCALE:TEXT_SCALE asks for.

        Args:
            text: as --lora takes it. A colon of the path itself stays in it unless a number follows.
            text_scale: where `text` says none; default: its scale.

        Raises:
            ConfigError: there is no path, or a scale is no number of -100 .. 100.
        """
        if text_scale is not None:
            require_scale(text_scale, "--lora-text-scale")
        path = text
        numbers: list[float] = []
        while len(numbers) < 2 and ":" in path and not Path(path).exists():
            before, _, last = path.rpartition(":")
            try:
                numbers.insert(0, float(last))
            except ValueError:
                break
            path = before
        before, sign, last = path.rpartition(":")
        if before and sign and not Path(path).exists() and Path(before).exists():
            what = f"{last!r} is no number" if len(numbers) < 2 else "three numbers"
            raise ConfigError(f"--lora {text}: {what}: wanted {before}, {before}:SCALE or {before}:SCALE:TEXT_SCALE")
        if not path:
            raise ConfigError(f"--lora {text}: wanted FILE, FILE:SCALE or FILE:SCALE:TEXT_SCALE")
        for number in numbers:
            require_scale(number, f"--lora {text}: a scale")
        scale = numbers[0] if numbers else 1.0
        default = scale if text_scale is None else text_scale
        return cls(Path(path), scale, numbers[1] if len(numbers) == 2 else default)

    def __str__(self) -> str:
        return f"{self.path}:{self.scale:g}:{self.text_scale:g}"

    def record(self) -> dict[str, Any]:
        """Return what identifies it beside samples: the file's name, its hash and the scales."""
        files = [self.path] if self.path.is_file() else sorted(p for p in self.path.rglob("*") if p.is_file())
        hashes = [sha256_of(file)[:16] for file in files]
        return {"lora": self.path.name, "sha256": hashes, "scale": self.scale, "text_scale": self.text_scale}


def read_choices(choices: Iterable[LoraChoice], config: UNetConfig) -> list[tuple[LoraChoice, LoraFile]]:
    """Return the files that are asked for, each of which fits a network of `config`; no network need be loaded.

    Raises:
        CheckpointError: one is no LoRA, or does not fit.
    """
    choices = list(choices)
    if not choices:
        return []
    with torch.device("meta"):
        network = VideoUNet(config)
    files = [(choice, read_lora(choice.path, network)) for choice in choices]
    for _, file in files:
        require_lora_fit(file, network)
    return files


def apply_choices(
    files: Sequence[tuple[LoraChoice, LoraFile]], network: VideoUNet, text_encoder: Any
) -> list[LoraReport]:
    """Merge LoRAs into a network and its text encoder, and return what was done with each file's weights.

    A text encoder without weights takes no text parts, which a warning tells.

    Args:
        files: what `read_choices` returned.
        network: in float32; see `load_lora`.
        text_encoder: of the stage.
    """
    reports = []
    for choice, file in files:
        reports.append(load_lora(network, file, choice.scale))
        if file.text and isinstance(text_encoder, ClipTextEncoder):
            reports.append(load_text_lora(text_encoder, file, choice.text_scale))
        elif file.text:
            told = f"{file.source}: {len(file.text)} weights of its text part are left out"
            log.warning(f"{told}: the text encoder has none")
        for key, reason in file.unread.items():
            log.warning(f"{file.source}: {key} is left out: {reason}")
    for report in reports:
        log.info(str(report))
    merge_lora(network)
    if isinstance(text_encoder, ClipTextEncoder):
        merge_lora(text_encoder.model)
    return reports
