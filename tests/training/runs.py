"""Small training runs, what they record, and the same run in plain PyTorch."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from lavie.config.train import TrainConfig
from lavie.data.order.plan import DataPlan
from lavie.errors import CheckpointError, ConfigError, TrainingError

STEPS = 12
"""The steps of a run, unless a test asks for others."""
MODEL = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (16, 32),
    "cross_attention": (True, False),
    "layers_per_block": 1,
    "num_attention_heads": 1,
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
    "rotary_dim": 8,
}
"""The network of a run, unless a test asks for another."""
NO_DATA = DataPlan([0], 1, 0, [], [], {}, [], [])
"""The plan of a run that takes no data."""


def make_config(folder: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a small run of stage base: clips of 4 frames of 32 x 32 with 2 images, latents of 3 channels of 8 x 8.

    Args:
        folder: holds the dataset train/.
        output: the run's output_dir.
        changes: keys of the config with other values; those in `data` are merged one by one.
    """
    values: dict[str, Any] = {
        "output_dir": str(output),
        "model": MODEL,
        "autoencoder": {"type": "patch", "patch_size": 4, "coefficients": 1, "scaling_factor": 0.25},
        "text_encoder": {"type": "hash", "max_length": 6},
        "data": {
            "train": str(folder / "train"),
            "num_frames": 4,
            "num_images": 2,
            "height": 32,
            "width": 32,
            "frame_stride": 1,
            "num_workers": 0,
        },
        "max_train_steps": STEPS,
        "train_batch_size": 2,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 3,
        "ema_decay": 0.9,
        "max_grad_norm": 0.5,
    }
    values["data"] |= changes.pop("data", {})
    return TrainConfig.model_validate(values | changes)


def deepspeed_json(folder: Path, stage: int) -> Path:
    """Write DeepSpeed's settings for a ZeRO stage into a folder, and return the path of the file."""
    path = folder / f"zero{stage}.json"
    # Nothing stays resident between uses: the hardest case for whatever reads the weights of stage 3.
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    path.write_text(json.dumps({"zero_optimization": zero, "zero_allow_untested_optimizer": True}))
    return path


def train(config: TrainConfig, settings: Path, sample_with: Any = None) -> tuple[list[dict], dict[str, str]]:
    """Train a run on this rank, and return rank 0's records and the hashes of the last checkpoint's weights.

    Args:
        config: the run.
        settings: the file of DeepSpeed's settings.
        sample_with: draws the validation prompts, as Trainer's `sample`.
    """
    from lavie.training.trainer import Trainer

    Trainer(config, settings, sample_with).fit()
    return records(config), weight_hashes(config, config.max_train_steps)


def fails(config: TrainConfig, settings: Path) -> str:
    """Return the message of the error that building or running the trainer ends with on this rank; "" without one."""
    from lavie.training.trainer import Trainer

    try:
        Trainer(config, settings).fit()
    except (CheckpointError, ConfigError, TrainingError) as error:
        return str(error)
    return ""


def records(config: TrainConfig) -> list[dict]:
    """Return the records in a run's metrics.jsonl, those of validation among them."""
    return [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]


def losses(config: TrainConfig) -> list[float]:
    """Return the training loss of each recorded step of a run."""
    return [r["loss"] for r in records(config) if "loss" in r]


def weights(config: TrainConfig, step: int) -> dict[str, torch.Tensor]:
    """Return the network's weights in the checkpoint of a step, by name."""
    return load_file(Path(config.output_dir) / f"checkpoint-{step}" / "unet" / "diffusion_pytorch_model.safetensors")


def weight_hashes(config: TrainConfig, step: int) -> dict[str, str]:
    """Return the SHA-256 of each weight's bytes in the checkpoint of a step, by name."""
    return {name: hashlib.sha256(w.numpy().tobytes()).hexdigest() for name, w in weights(config, step).items()}


def plain_pytorch(config: TrainConfig) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train a run in one process without DeepSpeed, by torch's AdamW on the whole global batch.

    Returns:
        The losses of all steps, and the average of the weights, which is kept in float64, by plain names.
    """
    from lavie.data.feed.loader import build_loader
    from lavie.data.feed.share import Share
    from lavie.diffusion.schedule import NoiseSchedule
    from lavie.models.autoencoder import build_autoencoder
    from lavie.models.lora.adapter import draw_dropout, plain_name
    from lavie.models.text_encoder import build_text_encoder
    from lavie.training.objective import Objective
    from lavie.training.trainer import build_network

    # The parts of the run, as the trainer builds them.
    torch.set_num_threads(1)
    autoencoder = build_autoencoder(config.autoencoder, None)
    text_encoder = build_text_encoder(config.text_encoder, config.model.cross_attention_dim, None)
    network = build_network(config)
    objective = Objective(
        config, autoencoder, text_encoder, NoiseSchedule.from_config(config), torch.device("cpu"), torch.float32
    )
    optimizer = torch.optim.AdamW(
        network.parameters(),
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
    )
    share = Share(seed=config.seed, train_batch_size=config.train_batch_size)
    batches = build_loader(config.data, config.data.train, share)
    parameters = {plain_name(name): p for name, p in network.named_parameters()}
    average = {name: p.detach().double() for name, p in parameters.items()}

    # Steps are counted from 0 here, and from 1 in the decay of EMA.
    values = []
    assert config.lr_scheduler == "constant"
    for index in range(config.max_train_steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1, (index + 1) / max(1, config.lr_warmup_steps))
        draw_dropout(network, config.seed, index + 1)
        loss = objective.loss(network, objective.training_inputs(next(batches)))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        decay = min(config.ema_decay, (2 + index) / (11 + index))
        average = {n: decay * average[n] + (1 - decay) * p.detach().double() for n, p in parameters.items()}
        values.append(loss.total.item())
    return values, average


def make_vsr_config(folder: Path, output: Path, **changes: Any) -> TrainConfig:
    """Return a small run of stage vsr, on patches of 16 x 16; arguments as for `make_config`."""
    model = {
        "in_channels": 51,
        "out_channels": 48,
        "block_out_channels": (32, 32),
        "cross_attention": (False, True),
        "only_cross_attention": (True, False),
        "layers_per_block": 1,
        "num_attention_heads": 1,
        "cross_attention_dim": 16,
        "norm_num_groups": 4,
        "linear_projection": True,
        "num_noise_levels": 100,
        "temporal_convolutions": True,
    }
    data = {"num_images": 0, "height": 16, "width": 16, "crop": "patch", "moving_images": 0.5}
    autoencoder = {"type": "patch", "patch_size": 4}
    return make_config(folder, output, stage="vsr", model=model, data=data, autoencoder=autoencoder, **changes)


def draw_nothing(network: Any, objective: Any, folder: Path) -> None:
    """Stand for the sampling of validation prompts: leave a file named after this rank in the folder."""
    from lavie.distributed import rank

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{rank()}").touch()
