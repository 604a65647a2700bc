"""What a step costs: floating-point operations, the rate of the GPU that they are measured against, and memory."""

import platform
import re
import resource

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..config.data import BucketConfig
from ..config.train import TrainConfig
from ..models.unet import VideoUNet

PEAK_FLOPS = {
    # Hopper and Blackwell: data sheets of HGX B200 and B300, GB200, H100 (SXM, NVL, PCIe), H200, H20.
    **{"GB200": 2500e12, "GB300": 2500e12, "B200": 2250e12, "B300": 2250e12},
    **{"H100 NVL": 835e12, "H200 NVL": 835e12, "H100 PCIe": 756e12},
    **{"GH200": 989e12, "H200": 989e12, "H100": 989e12, "H800": 989e12, "H20": 148e12},
    # Ampere and Ada: data sheets of A100, A30, A40, A10, RTX A6000, L40S, L40, L4, RTX 6000 Ada; A10G: AWS' G5 page.
    **{"A100": 312e12, "A800": 312e12, "A30": 165e12, "A40": 149.7e12, "RTX A6000": 154.8e12},
    **{"A10G": 70e12, "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 6000 Ada": 364.2e12},
    # GeForce: white papers of GA102, AD102 and RTX Blackwell. With sums in float32 these cards reach half of the rate.
    **{"RTX 5090": 209.5e12, "RTX 4090": 165.2e12, "RTX 4080": 97.5e12, "RTX 3090 Ti": 80e12, "RTX 3090": 71e12},
    # Volta and Turing compute no bf16: fp16, data sheets of V100, V100S, T4; white paper of TU102.
    **{"V100S": 130e12, "V100-PCIE": 112e12, "V100": 125e12, "T4": 65e12, "RTX 2080 Ti": 53.8e12},
}
"""Dense FLOP/s in bf16 or fp16 with sums in float32, by words of the device's name; the first that occur there count.

Data sheets often tell the rate with sparsity, which is twice this one.
"""


def forward_flops(config: TrainConfig, size: BucketConfig) -> int:
    """Return the FLOPs of one forward pass of the network on one clip of a size with its images.

    They are counted on the meta device, without memory or arithmetic.
    """
    data, stride = config.data, config.latent_stride
    shape = data.frames_of_row(size), size.height // stride, size.width // stride
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network = VideoUNet(config.model)
        sample = torch.empty(1, config.model.in_channels, *shape)
        text = torch.empty(1, 1 + data.num_images, config.text_encoder.max_length, config.model.cross_attention_dim)
        level = torch.zeros(1, dtype=torch.long) if config.model.num_noise_levels else None
        network(sample, torch.zeros(1), text, noise_level=level, num_images=data.num_images)
    return counter.get_total_flops()


def peak_flops(device: torch.device) -> float | None:
    """Return the rate of a GPU in PEAK_FLOPS; None for any other device."""
    name = device_name(device) if device.type == "cuda" else ""
    for words, flops in PEAK_FLOPS.items():
        if re.search(rf"\b{re.escape(words)}\b", name):
            return flops
    return None


def device_name(device: torch.device) -> str:
    """Return what the vendor calls a GPU, or a CPU with its architecture, as "cpu (x86_64)"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory that this rank held at once, in GiB: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
