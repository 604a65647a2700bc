"""What a run says of itself: metrics.jsonl, TensorBoard, and progress on the screen. Rank 0 only."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.flop_counter import FlopCounterMode

from ..config.data import BucketConfig
from ..config.train import TrainConfig
from ..files import replacing
from ..models.unet import VideoUNet
from ..run_folder import METRICS

PEAK_BF16_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s by a part of the device's name (vendor data sheets, SXM)."""


class Metrics:
    """One record a step to output_dir/metrics.jsonl (append) and TensorBoard; a bar or plain lines to the screen."""

    def __init__(self, config: TrainConfig, start_step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path = Path(config.output_dir) / METRICS
        self._drop_after(start_step)
        self.file = self.path.open("a")
        self.writer = SummaryWriter(str(Path(config.output_dir) / "tensorboard"), purge_step=start_step + 1)
        self.total, self.first = config.max_train_steps, start_step
        console = Console()
        self.every = max(1, config.max_train_steps // 20)
        self.progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task("train", total=self.total, completed=start_step, status="")
        self.progress.start()

    def log(self, record: dict[str, Any]) -> None:
        """`record` has "step" (counted from 1); numbers, text or None by name. TensorBoard takes the numbers."""
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        for name, value in record.items():
            if name != "step" and isinstance(value, (int, float)):
                self.writer.add_scalar(name, value, record["step"])
        if "loss" in record:
            self._show(record)

    def close(self) -> None:
        """Flush everything and give the screen back."""
        self.progress.stop()
        self.writer.close()
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def _show(self, record: dict[str, Any]) -> None:
        status = (
            "loss {loss:.4f} (video {loss_video:.4f}, images {loss_image:.4f})  {samples_per_s:.1f} samples/s".format(
                **record
            )
        )
        self.progress.update(self.task, completed=record["step"], status=status)
        plain = not self.progress.console.is_terminal
        if plain and (record["step"] % self.every == 0 or record["step"] in (self.first + 1, self.total)):
            print(f"step {record['step']}/{self.total}  {status}", flush=True)

    def _drop_after(self, step: int) -> None:
        """A resumed run writes the steps after its checkpoint again."""
        if self.path.exists():
            *lines, last = self.path.read_text().split("\n")  # `last` is empty, or cut short by a crash
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            with replacing(self.path) as partial:  # a job that ends here keeps its records
                partial.write_text("".join(line + "\n" for line in kept))


def forward_flops(config: TrainConfig, size: BucketConfig) -> int:
    """FLOPs of one forward pass of the network on one clip of a size with its images, counted on the meta device."""
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
    """Dense bf16 FLOP/s of a GPU that we know, else None."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in PEAK_BF16_FLOPS.items() if part in name), None)


def peak_memory_gib(device: torch.device) -> float:
    """The most memory this rank held at once, in GiB: of the GPU, or of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
