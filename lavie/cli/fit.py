"""What `lavie generate` says of memory before it samples: each stage's peak, and the limit that --fit sets."""

from typing import TYPE_CHECKING

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..inference.cascade import Cascade


def on_gpu() -> bool:
    """Return whether the stages will run on a GPU, whose memory ends without swapping."""
    from ..inference.load import default_device

    return default_device().type == "cuda"


def fit_limit(fit: str | None) -> float:
    """Return the bytes that a stage may take: those that --fit says, else those that are free on the device.

    Raises:
        ConfigError: --fit is neither a positive number nor "free".
    """
    from ..inference.load import default_device
    from ..inference.memory import device_memory
    from ..models.live_bytes import GIB

    if fit is None or fit == "free":
        return device_memory(default_device()).free
    try:
        gigabytes = float(fit)
    except ValueError:
        gigabytes = 0
    if not 0 < gigabytes < float("inf"):
        raise ConfigError(f"--fit {fit}: wanted a number of GiB, as 22 for a GPU of 24 GB, or free")
    return gigabytes * GIB


def print_estimate(
    cascade: "Cascade", offload: bool, sequential_guidance: bool, limit: float, *, to_stderr: bool
) -> None:
    """Print the sizes and the peak of every stage; ConfigError if one takes more than `limit` bytes."""
    from ..inference.load import default_device
    from ..inference.memory import MARGIN, device_memory, peaks, require_fit
    from ..models.live_bytes import GIB

    estimates = peaks(cascade, offload=offload, sequential_guidance=sequential_guidance)
    for name, peak in estimates.items():
        windows, rows, columns = (axis.count for axis in peak.sizes.axes)
        parts = [f"{count} {part}" for count, part in ((windows, "windows"), (rows * columns, "tiles")) if count > 1]
        cut = f"up to {' of '.join(parts)} of" if parts else "at once,"
        typer.echo(
            f"{name}: {' x '.join(map(str, peak.sizes.pixels))} pixels; {cut} {' x '.join(map(str, peak.sizes.window))}"
            " latents\n"
            f"  weights {peak.weights / GIB:.2f} GiB; activations of the network {peak.network / GIB:.2f} GiB, of the "
            f"autoencoder {peak.autoencoder / GIB:.2f} GiB; clips {peak.clips / GIB:.2f} GiB\n"
            f"  peak, with a margin of {MARGIN - 1:.0%}: {peak.total / GIB:.2f} GiB",
            err=to_stderr,
        )
    memory = device_memory(default_device())
    typer.echo(f"device: {memory.name}, {memory.free / GIB:.2f} of {memory.total / GIB:.2f} GiB free", err=to_stderr)
    require_fit(cascade, estimates, limit, offload=offload, sequential_guidance=sequential_guidance)
