"""The encoders that make a cache's entries out of pixels and captions, and the device that they run on."""

import torch
from torch import Tensor

from ..config.train import TrainConfig
from ..errors import ConfigError
from ..gpus import require_visible_gpus
from ..launcher import launched_rank
from ..models.autoencoder import build_autoencoder
from ..models.text_encoder import build_text_encoder
from ..pixels import to_float
from .precision import training_dtype


def encoding_device(asked: str | None = None) -> torch.device:
    """Return the device that was asked for; else the GPU of this rank's place on its node, or the CPU.

    Raises:
        ConfigError: there is no such device here; or there are GPUs, and PyTorch sees none.
    """
    if asked is not None:
        try:
            return torch.empty(0, device=asked).device
        except (RuntimeError, AssertionError) as error:  # the latter where PyTorch was built without the device
            raise ConfigError(f"--device {asked}: {str(error).splitlines()[0]}") from None
    require_visible_gpus()
    if not torch.cuda.is_available():
        return torch.device("cpu")
    launched = launched_rank()
    if launched.local_rank is not None:
        return torch.device("cuda", launched.local_rank)
    return torch.device("cuda", launched.rank % torch.cuda.device_count())


class EntryEncoders:
    """The autoencoder and the text encoder of a run.

    Attributes:
        dtype: the dtype of the entries.
        runs_in: the name of the dtype that the autoencoder runs in, which is that of training.
    """

    def __init__(self, config: TrainConfig, device: torch.device, dtype: torch.dtype) -> None:
        """Build the encoders of `config` on a device, for entries of a dtype."""
        pretrained, encoder_dtype = config.pretrained_model_name_or_path, training_dtype(config)
        autoencoder = build_autoencoder(config.autoencoder, pretrained, config.latent_stride)
        text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, pretrained)
        self._autoencoder, self._text_encoder = autoencoder.to(device, encoder_dtype), text_encoder.to(device)
        self._device, self.dtype = device, dtype
        self.runs_in = str(encoder_dtype).removeprefix("torch.")

    @torch.no_grad()
    def encode(self, pixels: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """Return n entries on the CPU: mean and, where latents are uncertain, std (n, F, C, h, w); text (n, 1, L, D).

        Args:
            pixels: uint8 (n, F, H, W, 3), RGB.
            captions: n captions.
        """
        rows = pixels.shape[:2]
        mean, std = self._autoencoder.posterior(to_float(pixels.to(self._device).flatten(0, 1)))
        entries = {"mean": mean.unflatten(0, rows), "text": self._text_encoder(captions)[:, None]}
        if std is not None:
            entries["std"] = std.unflatten(0, rows)
        return {name: entry.to("cpu", self.dtype) for name, entry in entries.items()}
