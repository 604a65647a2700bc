"""The captioner `transformers`: a network on the disk that writes text about pictures (AutoModelForImageTextToText)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...config.curate_caption import CaptionConfig
from ...errors import CheckpointError
from .base import Asked, NoCaption


class NetworkCaptioner:
    """Asks a network, which answers with its likeliest words (greedy)."""

    looks, cut_off = True, True

    def __init__(self, folder: Path, config: CaptionConfig) -> None:
        """Load the network and its processor, on the GPU if there is one. Nothing is fetched from anywhere.

        Raises:
            CheckpointError: the folder holds no such network, or one without a processor.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()  # the workers of an engine write over one another
        self.name, self.batch = f"transformers:{folder.resolve().name}", config.batch
        self._prompt, self._tokens = config.prompt, config.max_tokens
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, dtype="auto" if self._device.type == "cuda" else torch.float32
            )
        except Exception as error:  # damaged files raise what has no class of its own
            raise CheckpointError(
                f"caption.captioner transformers:{folder}: no network that writes text about pictures, with its "
                f"processor: {type(error).__name__}: {error}"
            ) from None
        self._model = model.requires_grad_(False).eval().to(self._device)
        tokenizer = getattr(self._processor, "tokenizer", None)
        if tokenizer is None:
            raise CheckpointError(f"caption.captioner transformers:{folder}: its processor has no tokenizer")
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._tokenizer = tokenizer

    def __call__(self, asked: Sequence[Asked]) -> list[str | NoCaption]:
        """Return the network's text for each clip."""
        pictures = [one.pictures for one in asked if one.pictures is not None]
        assert len(pictures) == len(asked)
        inputs = self._inputs(pictures)
        # A network that goes on with its prompt gives that back first.
        prompted = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        with torch.inference_mode():
            found = self._model.generate(
                **inputs,
                do_sample=False,
                num_beams=1,
                max_new_tokens=self._tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
        return list(self._tokenizer.batch_decode(found[:, prompted:], skip_special_tokens=True))

    def _inputs(self, clips: list[np.ndarray]) -> Any:
        """Return what the network reads of clips, each uint8 (n, H, W, 3)."""
        text = self._question(len(clips[0]))
        if text is None:  # such networks describe one picture, and are asked nothing
            found = self._processor(images=[clip[len(clip) // 2] for clip in clips], return_tensors="pt")
        else:
            images = [list(clip) for clip in clips]
            found = self._processor(text=[text] * len(clips), images=images, return_tensors="pt", padding=True)
        floats = {name: value for name, value in found.items() if value.is_floating_point()}
        return found.to(self._device) | {n: v.to(self._device, self._model.dtype) for n, v in floats.items()}

    def _question(self, pictures: int) -> str | None:
        """Return the prompt around so many pictures, in the words of the network; None if it takes none."""
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}] * pictures + [{"type": "text", "text": self._prompt}]
            said = [{"role": "user", "content": content}]
            return self._processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False)
        token = getattr(self._processor, "image_token", None)
        return None if token is None else f"{token * pictures}\n{self._prompt}\n"
