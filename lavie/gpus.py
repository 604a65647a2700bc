"""GPUs that the driver shows and PyTorch does not, which would make of a run on GPUs a silent one on the CPU."""

import os
import subprocess
from pathlib import Path

import torch

from .errors import ConfigError

DEVICES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/version")
"""Where the driver tells its version, in its first line: "NVRM version: ... x86_64 Kernel Module  580.65.06  ..."."""
PATIENCE = 30.0
"""Seconds for nvidia-smi, which wakes sleeping GPUs first."""


def require_visible_gpus() -> None:
    """Check that PyTorch sees the GPUs of this machine, unless somebody has hidden them or asked for the CPU.

    CUDA_VISIBLE_DEVICES= hides them, and DS_ACCELERATOR=cpu asks for the CPU.

    Raises:
        ConfigError: it sees none, and the driver shows some.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    if hidden or os.environ.get("DS_ACCELERATOR") == "cpu" or torch.cuda.is_available():
        return
    if not (gpus := driver_gpus()):
        return
    built = torch.version.cuda
    why = (
        f"it is built for CUDA {built}, which needs a newer driver, or one that works"
        if built
        else "it is built without CUDA (torch.version.cuda is None)"
    )
    more = f" and {len(gpus) - 1} more" if gpus[1:] else ""
    raise ConfigError(
        f"the driver ({driver_version()}) shows {gpus[0]}{more}, and PyTorch {torch.__version__} sees no GPU: {why}. "
        "Install a driver for its CUDA, or a PyTorch for the driver's (nvidia-smi prints the highest CUDA that it "
        "knows); CUDA_VISIBLE_DEVICES= in front of the command runs on the CPU"
    )


def driver_gpus() -> list[str]:
    """Return what the driver calls the GPUs that this process may use: lines of `nvidia-smi -L`, or device files."""
    try:
        told = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired):  # not installed, as in slim images, or stuck
        return [str(path) for path in sorted(DEVICES.glob("nvidia[0-9]*")) if _opens(path)]
    return [line.partition(" (UUID")[0] for line in told.stdout.splitlines() if line.startswith("GPU ")]


def driver_version() -> str:
    """Return the version of the driver, as "580.65.06", or "of unknown version"."""
    try:
        words = DRIVER.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return "of unknown version"
    return next((word for word in words if word[0].isdigit() and "." in word), "of unknown version")


def _opens(path: Path) -> bool:
    """Return whether a device file can be opened; a container or a job without GPUs may see those of its node."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True
