"""What turns frames into features for the consistency of subject and background: a local DINO, and a local CLIP.

The path of the pixels is VBench's: torch's resizing of float frames, which does not smooth where it shrinks.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...arithmetic import exact_float32
from ...config.base import Positive, Strict
from ...errors import CheckpointError, DataError
from ...json_text import parse_json
from ..clip_network.network import load_clip
from ..clip_network.protocol import DEVIATION, MEAN
from ..finite import require_finite, require_numbers

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of the pixels that DINO was trained on, red, green, blue, in [0, 1]."""
DINO_B16 = {
    "model_type": "vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "image_size": 224,
    "hidden_act": "gelu",
}
"""The shape of DINO ViT-B/16, by which VBench's network is told from others, as far as a config tells."""
CLIP_B32 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 32,
    "image_size": 224,
    "hidden_act": "quick_gelu",
}
"""The shape of the image side of OpenAI's CLIP ViT-B/32. Most CLIPs of others have another activation."""
DINO_EPSILON = 1e-6
"""The epsilon of the normalisation in DINO's own code; configs of its converted weights have another."""
DINO_OFFSET = 0.1
"""Patches that DINO's own code adds to the grid to which it interpolates the positions, against rounding."""
BATCH = 16
"""Frames that go through a network at a time."""


class FramePath(Strict):
    """How frames reach a network."""

    short_side: int = 224
    """The shorter side becomes so many pixels, the other keeps the aspect (rounded down)."""
    resampling: Literal["bilinear", "bicubic"]
    """On float32, without smoothing or rounding."""
    crop: int | None = None
    """The side of the square that is cut out of the middle; null for none."""
    mean: tuple[float, float, float]
    deviation: tuple[Positive, Positive, Positive]


class FrameEncoder(Protocol):
    """A network that gives each frame a row of features."""

    name: str
    """What it is, in the JSON of a result."""
    sha256: str
    """The hash of its weights."""
    path: FramePath
    """How frames reach it."""
    is_vbenchs: bool
    """Whether it is the network that VBench has, as far as can be told."""

    def __call__(self, frames: np.ndarray) -> Tensor:
        """Return the features of frames uint8 (F, H, W, 3): float32 (F, D) of length 1, on the CPU."""
        ...


def prepare(frames: np.ndarray, path: FramePath) -> Tensor:
    """Return frames uint8 (F, H, W, 3) as a network takes them: float32 (F, 3, h, w)."""
    x = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2).float()
    height, width = x.shape[-2:]
    short = min(height, width)
    size = int(path.short_side * height / short), int(path.short_side * width / short)
    if size != (height, width):
        x = F.interpolate(x, size, mode=path.resampling, align_corners=False)
    if path.crop is not None:
        # Python's rounding of a half to the even number is what torchvision's crop has.
        top, left = round((size[0] - path.crop) / 2.0), round((size[1] - path.crop) / 2.0)
        x = x[..., top : top + path.crop, left : left + path.crop]
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (path.mean, path.deviation))
    return x.div_(255).sub_(mean).div_(deviation)


class Dino:
    """A ViT or DINOv2 of transformers: the feature of a frame is its class token, after the last normalisation."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Load a folder that `save_pretrained` wrote, such as facebook/dino-vitb16.

        Raises:
            CheckpointError: it is none, or weights are missing in it.
        """
        config = _json(folder, "config.json")
        kind = config.get("model_type")
        if kind not in ("vit", "dinov2"):
            raise CheckpointError(f"--dino {folder}: model_type {kind}: wanted vit (DINO) or dinov2")
        pixels = _json(folder, "preprocessor_config.json") if (folder / "preprocessor_config.json").is_file() else {}
        mean, deviation = (pixels.get(key, IMAGENET[i]) for i, key in enumerate(("image_mean", "image_std")))
        try:
            self.path = FramePath.model_validate({"resampling": "bilinear", "mean": mean, "deviation": deviation})
        except ValueError:
            raise CheckpointError(
                f"--dino {folder}: preprocessor_config.json: image_mean {mean} and image_std {deviation}: wanted three "
                "numbers each, those of image_std above 0"
            ) from None
        # A config leaves out what its class has by default, which is this shape.
        shaped = all(config.get(key, value) == value for key, value in DINO_B16.items())
        self.is_vbenchs = shaped and (self.path.mean, self.path.deviation) == IMAGENET
        self.name = f"{kind} ({config.get('hidden_size', 768)}, patch {config.get('patch_size', 16)})"
        self._source = f"--dino {folder}"
        self._model, self._device = _load(folder, kind).requires_grad_(False).eval().to(device), device
        self.sha256 = _identity(self._model)

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(F, H, W, 3) -> (F, D)."""
        found = []
        for first in range(0, len(frames), BATCH):
            pixels = prepare(frames[first : first + BATCH], self.path).to(self._device)
            options = {"interpolate_pos_encoding": True} if self._model.config.model_type == "vit" else {}
            with torch.inference_mode(), exact_float32():
                hidden = self._model(pixel_values=pixels, **options).last_hidden_state
            found.append(require_numbers(F.normalize(hidden[:, 0].float(), dim=-1).cpu(), self._source))
        return torch.cat(found)


class ClipFrames:
    """The image side of CLIP: the feature of a frame is its embedding."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Load a CLIP folder of transformers, or one of OpenAI's .pt files.

        Raises:
            CheckpointError: it is neither.
        """
        try:
            self._network = load_clip(weights, device)
        except CheckpointError as error:
            # The loader names the option of the commands that know one network only.
            raise CheckpointError(str(error).replace("--weights", "--clip", 1)) from None
        shape = self._network.config.vision_config
        shaped = all(getattr(shape, key) == value for key, value in CLIP_B32.items())
        self.path = FramePath(
            short_side=self._network.side,
            resampling="bicubic",
            crop=self._network.side,
            mean=self._network.mean,
            deviation=self._network.deviation,
        )
        self.is_vbenchs = shaped and (self.path.mean, self.path.deviation) == (MEAN, DEVIATION)
        self.name = f"clip ({shape.hidden_size}, patch {shape.patch_size})"
        self.sha256 = self._network.sha256

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(F, H, W, 3) -> (F, D)."""
        parts = [prepare(frames[first : first + BATCH], self.path) for first in range(0, len(frames), BATCH)]
        return torch.cat([self._network.embed_pixels(part) for part in parts])


def _load(folder: Path, kind: str) -> Any:
    """Return the network of a folder in float32. Raises CheckpointError if a weight is missing."""
    from transformers import Dinov2Model, ViTModel

    model_class: Any = ViTModel if kind == "vit" else Dinov2Model
    options: dict[str, Any] = {"add_pooling_layer": False} if kind == "vit" else {}
    try:
        if kind == "vit":
            options["config"] = model_class.config_class.from_pretrained(folder, local_files_only=True)
            options["config"].layer_norm_eps = DINO_EPSILON
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32, **options
        )
    except Exception as error:  # damaged files raise what has no class of its own
        raise CheckpointError(f"--dino {folder}: no weights that can be read: {error}") from None
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"--dino {folder}: {len(missing)} weights are missing, as {missing[0]}")
    require_finite(sorted(model.state_dict().items()), f"--dino {folder}")
    if kind == "vit":
        embeddings = model.embeddings
        embeddings.interpolate_pos_encoding = lambda x, height, width: _positions(embeddings, height, width)
    return model


def _positions(embeddings: Any, height: int, width: int) -> Tensor:
    """Return the positions of a ViT for pictures of another size, (1, 1 + patches, D), as DINO's own code has them.

    Transformers interpolates to the same grid, but reads it by up to a tenth of a patch elsewhere.
    """
    table, patch = embeddings.position_embeddings, embeddings.patch_size
    rows, columns = height // patch, width // patch
    side = int((table.shape[1] - 1) ** 0.5)
    if (rows * columns, height) == (side * side, width):
        return table
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = ((rows + DINO_OFFSET) / side, (columns + DINO_OFFSET) / side)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


def _json(folder: Path, name: str) -> dict[str, Any]:
    """Return the object in a file of a folder. Raises CheckpointError if there is none."""
    try:
        content = parse_json((folder / name).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"--dino {folder}: {name} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"--dino {folder}: {name}: wanted an object")
    return content


def _identity(model: nn.Module) -> str:
    """Return a SHA-256 of a network's weights in float32, whatever files they lay in.

    Names do not count: transformers renames the parts of its networks from version to version.
    """
    parts = []
    for value in model.state_dict().values():
        content = value.detach().float().cpu().contiguous().numpy().tobytes()
        parts.append(hashlib.sha256(f"{tuple(value.shape)}\n".encode() + content).digest())
    return hashlib.sha256(b"".join(sorted(parts))).hexdigest()


def consistency(features: Tensor) -> float:
    """Return VBench's consistency of a clip, from features (F, D) of length 1, two frames or more.

    The mean over all frames but the first of half the cosine with the frame before and half that with the first, where
    a negative cosine counts as 0. A frozen clip has 1.

    Raises:
        DataError: there is one frame only.
    """
    if len(features) < 2:
        raise DataError(f"{len(features)} frames: wanted 2 or more")
    before = (features[1:] * features[:-1]).sum(dim=1).clamp_min(0)
    first = (features[1:] * features[:1]).sum(dim=1).clamp_min(0)
    return float(((before + first) / 2).double().mean())
