"""What a step costs: floating-point operations, the rate of the GPU that they are measured against, and memory."""

import resource

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..config.data import BucketConfig
from ..config.train import TrainConfig
from ..models.unet import VideoUNet

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by a part of the device's name (vendor data sheets, SXM)."""


def forward_flops(config: TrainConfig, size: BucketConfig) -> int:
    """Return the FLOPs of one forward pass of the network on one clip of a size with its images.

    They are counted on the meta device, without memory or arithmetic.
    """
    data, stride = config.data, config.latent_stride
    shape = size.num_frames + data.num_images, size.height // stride, size.width // stride
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = VideoUNet(config.model)
        sample = torch.empty(1, config.model.in_channels, *shape)
        text = torch.empty(1, 1 + data.num_images, config.text_encoder.max_length, config.model.cross_attention_dim)
        level = torch.zeros(1, dtype=torch.long) if config.model.num_noise_levels else None
        network(sample, torch.zeros(1), text, noise_level=level, num_images=data.num_images)
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Return the dense bf16 FLOP/s of a GPU in PEAK_BF16_FLOPS; None for any other device."""
    if device.type != "cuda":
        return None
    device_name = torch.cuda.get_device_name(device)
    for model, flops in PEAK_BF16_FLOPS.items():
        if model in device_name:
            return flops
    return None


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory that this rank held at once, in GiB: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
