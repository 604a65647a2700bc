"""The captioner `vllm`: a network on the disk, run by vLLM, which serves many clips side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...config.curate_caption import CaptionConfig
from ...errors import CheckpointError, ConfigError
from .base import Asked, NoCaption

AT_A_TIME = 128
"""Clips that vLLM gets at a time; it makes batches of them itself."""


class VllmCaptioner:
    """Asks a network through vLLM, which answers with its likeliest words (greedy)."""

    looks, cut_off, batch = True, True, AT_A_TIME

    def __init__(self, folder: Path, config: CaptionConfig) -> None:
        """Load the network. Nothing is fetched from anywhere.

        Raises:
            ConfigError: vLLM is not installed.
            CheckpointError: it cannot load the folder.
        """
        try:
            from vllm import LLM, SamplingParams
        except ImportError:
            raise ConfigError(
                f"caption.captioner vllm:{folder} needs vLLM, which no extra of lavie has, for it pins its own torch: "
                "pip install vllm in an environment of its own; or transformers:PATH"
            ) from None
        self.name, self._prompt = f"vllm:{folder.resolve().name}", config.prompt
        try:
            self._llm: Any = LLM(model=str(folder), limit_mm_per_prompt={"image": config.frames}, seed=0)
        except Exception as error:  # whatever it raises
            raise CheckpointError(f"caption.captioner vllm:{folder}: {type(error).__name__}: {error}") from error
        self._sampling = SamplingParams(temperature=0.0, max_tokens=config.max_tokens)

    def __call__(self, asked: Sequence[Asked]) -> list[str | NoCaption]:
        """Return the network's text for each clip."""
        found = self._llm.chat([self._question(one) for one in asked], self._sampling, use_tqdm=False)
        return [one.outputs[0].text for one in found]

    def _question(self, one: Asked) -> list[dict[str, Any]]:
        """Return the conversation about one clip."""
        assert one.pictures is not None
        pictures = [{"type": "image_pil", "image_pil": Image.fromarray(picture)} for picture in one.pictures]
        return [{"role": "user", "content": [*pictures, {"type": "text", "text": self._prompt}]}]
