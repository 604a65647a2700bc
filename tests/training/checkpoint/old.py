"""Checkpoints of the layout before, made by DeepSpeed, beside those that the Saver writes of the same engine."""

import json
from pathlib import Path

import torch

from lavie.config.load import dump_yaml
from lavie.config.train import TrainConfig

STEPS = 2
"""The updates of an engine; in fp16 the first one overflows and is skipped."""


def save_both(cases: list[tuple[TrainConfig, Path]]) -> None:
    """Train an engine of each (config, DeepSpeed's settings) a little, and save it in both layouts. On every rank.

    The present layout goes into the config's output_dir, the old one into the folder old/ in it.
    """
    from deepspeed.accelerator import get_accelerator

    from lavie.distributed import world_size
    from lavie.training.checkpoint.saver import Saver
    from lavie.training.deepspeed import build_engine, init_distributed, resolve_json
    from lavie.training.ema import EMA
    from lavie.training.trainer import build_network

    init_distributed()
    get_accelerator().is_fp16_supported = lambda: True  # slow on a CPU, but it computes the same
    for config, settings in cases:
        Path(config.output_dir).mkdir(parents=True, exist_ok=True)
        engine = build_engine(build_network(config), config, resolve_json(settings, config, world_size()))
        ema = EMA(engine.module, config.ema_decay)
        engine.train()
        for step in range(1, STEPS + 1):
            loss = a_loss(engine, step)
            engine.backward(loss * 1e30 if engine.fp16_enabled() and step == 1 else loss)
            engine.step()
            ema.update(step)
        saver = Saver(engine, ema, config, config)
        saver.save(STEPS)
        saver.finish()
        save_old(engine, ema, config, Path(config.output_dir) / "old" / f"checkpoint-{STEPS}")


def a_loss(engine, step: int) -> torch.Tensor:
    """Return a loss of the network on noise that this rank and step have for themselves."""
    from lavie.distributed import rank

    draw = torch.Generator().manual_seed(step + 100 * rank())
    dtype = next(engine.module.parameters()).dtype
    sample = torch.randn(1, 3, 2, 8, 8, generator=draw).requires_grad_().to(dtype)  # ZeRO-3 waits for its gradient
    text = torch.randn(1, 6, 16, generator=draw).to(dtype)
    return engine(sample, torch.tensor([3]), text).float().square().mean()


def save_old(engine, ema, config: TrainConfig, folder: Path) -> None:
    """Save an engine as versions before did: DeepSpeed's own files in state/, no hashes. Collective."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    from lavie.distributed import barrier, is_main, world_size
    from lavie.models.weights import save_network
    from lavie.training.ema import gathered_weights
    from lavie.training.precision import training_dtype

    for parameter in engine.module.parameters():
        if getattr(parameter, "ds_status", None) is ZeroParamStatus.NOT_AVAILABLE:
            parameter.data = parameter.data.new_empty(0)
    engine.save_checkpoint(str(folder), tag="state", save_latest=False)
    weights = {name: weight.clone() for name, weight in gathered_weights(engine.module, ema)}
    if is_main():
        save_network(folder / "unet", config.model, weights)
        (folder / "config.yaml").write_text(dump_yaml(config), encoding="utf-8")
        manifest = {"step": STEPS, "world_size": world_size(), "lavie": "0.0.9", "torch": torch.__version__}
        manifest |= {"zero_stage": engine.zero_optimization_stage()}
        manifest |= {"dtype": str(training_dtype(config)).removeprefix("torch.")}
        (folder / "checkpoint.json").write_text(json.dumps(manifest, indent=2) + "\n")
    barrier()


def resave(cases: list[tuple[TrainConfig, Path]]) -> None:
    """Load the checkpoint that each config names into a new engine, and save it in the config's output_dir."""
    from lavie.distributed import world_size
    from lavie.training.checkpoint.find import find
    from lavie.training.checkpoint.load import load
    from lavie.training.checkpoint.saver import Saver
    from lavie.training.deepspeed import build_engine, init_distributed, resolve_json, zero_stage
    from lavie.training.ema import EMA
    from lavie.training.trainer import build_network

    init_distributed()
    for asked, settings in cases:
        Path(asked.output_dir).mkdir(parents=True, exist_ok=True)
        resume = find(asked, zero_stage(json.loads(settings.read_text())))
        config = resume.config
        engine = build_engine(build_network(config), config, resolve_json(settings, config, world_size()))
        ema = EMA(engine.module, config.ema_decay)
        load(engine, ema, resume)
        saver = Saver(engine, ema, config, asked)
        saver.save(resume.step)
        saver.finish()
