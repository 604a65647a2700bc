"""CLIP from a local folder of transformers, or from one of OpenAI's files: unit embeddings of frames and captions."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...arithmetic import exact_float32
from ...errors import CheckpointError
from ...json_text import parse_json
from ...models.text_encoder import read_tokenizer
from ..finite import require_finite, require_numbers
from .openai_file import read_archive, require_known, to_transformers
from .protocol import DEVIATION, MEAN, FrameProtocol, prepare

BATCH = 32
"""Frames or captions that go through the network at a time."""


class ClipNetwork:
    """CLIP, frozen, in float32."""

    def __init__(self, model: Any, device: torch.device, source: str, mean: Any = MEAN, deviation: Any = DEVIATION):
        """Take transformers' CLIPModel.

        Args:
            model: with weights.
            device: where it runs.
            source: what it was read from.
            mean: of the pixels that it was trained on, in [0, 1].
            deviation: theirs.

        Raises:
            CheckpointError: a weight is NaN or infinite.
        """
        require_finite(sorted(model.state_dict().items()), f"--weights {source}")
        self.source, self.sha256 = source, _identity(model)
        self.side: int = model.config.vision_config.image_size
        self.width: int = model.config.projection_dim
        self.context: int = model.config.text_config.max_position_embeddings
        self.mean, self.deviation = tuple(mean), tuple(deviation)
        self.config = model.config
        self._model, self._device = model.requires_grad_(False).eval().to(device), device

    def frame_protocol(self, frames: int | None = None, fit: str = "crop") -> FrameProtocol:
        """Return the protocol of frames with this network's size and pixels."""
        values = {"side": self.side, "mean": self.mean, "deviation": self.deviation}
        return FrameProtocol.model_validate({"frames": frames, "fit": fit, **values})

    def embed_frames(self, frames: Any, protocol: FrameProtocol) -> Tensor:
        """Return the embeddings of frames uint8 (N, H, W, 3): float32 (N, D) of length 1, on the CPU."""
        parts = [prepare(frames[i : i + BATCH], protocol) for i in range(0, len(frames), BATCH)]
        return torch.cat([self.embed_pixels(part) for part in parts])

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Return the embeddings of prepared pixels (N, 3, side, side): float32 (N, D) of length 1, on the CPU."""
        with torch.inference_mode(), exact_float32():
            pooled = self._model.vision_model(pixel_values=pixels.to(self._device)).pooler_output
            return self._unit(self._model.visual_projection(pooled))

    def embed_tokens(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the embeddings of captions as tokens, with their marks: float32 (n, D) of length 1, on the CPU."""
        found = []
        for first in range(0, len(rows), BATCH):
            batch = rows[first : first + BATCH]
            longest = max(map(len, batch))
            # Attention looks back alone, so what stands behind the end of a caption is not seen.
            ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in batch], device=self._device)
            with torch.inference_mode(), exact_float32():
                pooled = self._model.text_model(input_ids=ids).pooler_output
                found.append(self._unit(self._model.text_projection(pooled)))
        return torch.cat(found)

    def _unit(self, embeddings: Tensor) -> Tensor:
        """Return embeddings with length 1, float32 on the CPU. Raises CheckpointError where they are not finite."""
        return require_numbers(F.normalize(embeddings, dim=-1).float().cpu(), self.source)


def load_clip(weights: Path, device: torch.device) -> ClipNetwork:
    """Return the CLIP of a folder that `CLIPModel.save_pretrained` wrote, or of one of OpenAI's .pt files.

    Raises:
        CheckpointError: it is neither.
    """
    from transformers import CLIPConfig, CLIPModel

    if weights.is_file():
        name = require_known(weights)
        config, state = to_transformers(read_archive(weights), f"--weights {weights}")
        return ClipNetwork(model_of(config, state, str(weights)), device, f"OpenAI {name}")

    # transformers would make a network with random weights of another model's folder, or ask the internet for it.
    try:
        kind = parse_json((weights / "config.json").read_bytes()).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"--weights {weights}: no config.json that can be read: {error}; wanted a CLIP folder of transformers, "
            "or OpenAI's .pt"
        ) from None
    if kind != "clip":
        raise CheckpointError(f"--weights {weights}: config.json says model_type {kind}: wanted clip, with both sides")
    try:
        loaded: Any = CLIPModel.from_pretrained(
            weights,
            config=CLIPConfig.from_pretrained(weights, local_files_only=True),
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:  # damaged files raise what has no class of its own
        raise CheckpointError(f"--weights {weights}: no CLIP that can be read: {error}") from None
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"--weights {weights}: {len(missing)} weights are missing, as {missing[0]}")
    return ClipNetwork(model, device, str(weights), *_pixels(weights))


def model_of(config: dict[str, Any], state: dict[str, Tensor], source: str) -> Any:
    """Return transformers' CLIPModel with the weights of a state dict. Raises CheckpointError if one is missing."""
    from transformers import CLIPConfig, CLIPModel

    model = CLIPModel(CLIPConfig(**config))
    missing = model.load_state_dict(state, strict=False).missing_keys
    if missing := [name for name in missing if not name.endswith("position_ids")]:
        raise CheckpointError(f"{source}: {len(missing)} weights are missing, as {missing[0]}")
    return model


class ClipTokens:
    """CLIP's tokens of captions, with the marks of start and end."""

    def __init__(self, folder: Path, network: ClipNetwork) -> None:
        """Read the tokenizer of a folder, or of its subfolder tokenizer/.

        Raises:
            CheckpointError: there is none, or it is another network's.
        """
        files = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
        if not any((files / name).is_file() for name in ("vocab.json", "tokenizer.json")):
            raise CheckpointError(f"--tokenizer {folder}: no vocab.json and merges.txt, nor tokenizer.json")
        try:
            self._tokenizer = read_tokenizer(str(files))
        except ValueError as error:
            raise CheckpointError(f"--tokenizer {folder}: no tokenizer that can be read: {error}") from None
        text = network.config.text_config
        end = self._tokenizer.eos_token_id
        # In the configs of 2022 the end is 2 by mistake, and transformers then looks for the highest token.
        if len(self._tokenizer) != text.vocab_size or text.eos_token_id not in (2, end):
            raise CheckpointError(
                f"--tokenizer {folder}: it knows {len(self._tokenizer)} tokens and ends texts by {end}, the network "
                f"{text.vocab_size} and {text.eos_token_id}: wanted those of the same model"
            )
        self._most = network.context

    def __call__(self, captions: Sequence[str]) -> tuple[list[list[int]], list[int]]:
        """Return the tokens of captions, cut to what the network reads, and the positions of those that were cut."""
        rows = self._tokenizer(list(captions), verbose=False).input_ids
        long = [i for i, row in enumerate(rows) if len(row) > self._most]
        return [[*row[:-1][: self._most - 1], row[-1]] for row in rows], long


def _pixels(folder: Path) -> tuple[Any, Any]:
    """Return the mean and deviation of a folder's preprocessor_config.json; CLIP's own where it has none."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return MEAN, DEVIATION
    try:
        values = parse_json(path.read_bytes())
        mean, deviation = values.get("image_mean", MEAN), values.get("image_std", DEVIATION)
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"--weights {path}: cannot be read: {error}") from None
    try:
        found = FrameProtocol(mean=mean, deviation=deviation)
    except ValueError:
        raise CheckpointError(
            f"--weights {path}: image_mean {mean} and image_std {deviation}: wanted three numbers each, those of "
            "image_std above 0"
        ) from None
    return found.mean, found.deviation


def _identity(model: Any) -> str:
    """Return a SHA-256 of the weights in float32 and of what no weight tells: one network has one, in whatever file."""
    whole = hashlib.sha256()
    for part in (model.config.vision_config, model.config.text_config):
        whole.update(f"{part.num_attention_heads} {part.hidden_act} {part.layer_norm_eps}\n".encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.endswith("position_ids"):
            whole.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()
