"""The one place that speaks DeepSpeed: its JSON completed from the run's config, and the engine built from both."""

import hashlib
import json
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ..cluster.rendezvous import meet, start_timeout
from ..config.train import TrainConfig
from ..errors import ConfigError
from ..launcher import find_place, local_world_size
from ..models.attention import SpatialTransformer
from ..models.resnet import ResnetBlock
from ..models.temporal import TemporalResnetBlock
from .compilation import told_compilation
from .optim import build_optimizer
from .precision import fill_accumulation, training_dtype

BLOCKS = (SpatialTransformer, ResnetBlock, TemporalResnetBlock)
"""The kinds of blocks that a network is made of."""
FAREWELL = 5.0
"""Seconds for leaving a process group: nothing delays it but a collective that waits for another rank."""


def init_distributed(store: dist.Store | None = None, patience: float = 0.0) -> torch.device:
    """Join PyTorch's process group, which has one rank where no launcher is, and return this rank's device.

    Args:
        store: where the ranks meet, as `preflight` leaves it; by default one of their own.
        patience: seconds that a collective waits for another rank at least; DeepSpeed's own limit may be longer.
    """
    # Over ssh no environment is active, and DeepSpeed compiles its operations with the ninja that is in PATH.
    tools, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if tools not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([tools, path])

    # Without a GPU, DeepSpeed must be told so before it looks for one.
    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.constants import default_pg_timeout

    # DeepSpeed calls collectives by names that PyTorch has begun to rename; nobody who trains can act on it.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    timeout = max(default_pg_timeout, timedelta(seconds=patience))
    place = find_place()
    device = torch.device("cuda", place.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)

    # torch's process group comes first, so that DeepSpeed takes this one rather than make its own.
    if not dist.is_initialized():
        store = store or meet(place, start_timeout())[0]
        store.set_timeout(timeout)
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
            device_id=device if cuda and place.world_size > 1 else None,
        )
        # A rank has its connections before the others have theirs. One that found an error and left now would cut
        # theirs off, and they would tell of a broken connection in place of the error.
        dist.barrier()
    return device


def ranks_that_fail_alike(message: str, patience: float = FAREWELL) -> list[int]:
    """Wait until every rank of the group has come to its own end, and return those that fail with the same message.

    An error that the user can mend is found by all ranks together, but not at the same moment, and a launcher sends
    SIGTERM to the others as soon as the first has left. The lowest of the ranks is the one to print the message: it
    never learns of a lower one. A rank that learns of no other returns itself alone, so no message is lost.

    Args:
        message: why this rank fails.
        patience: the most seconds to wait: a rank that fails alone waits in vain.

    Returns:
        The ranks, ascending, this one among them.
    """
    rank, deadline = dist.get_rank(), time.monotonic() + patience
    alike = f"failing/{hashlib.sha256(message.encode()).hexdigest()}"

    def wait_for(key: str, number: int) -> None:
        """Wait until a number of ranks have counted themselves under a key."""
        while store.add(key, 0) < number and time.monotonic() < deadline:
            time.sleep(0.05)

    try:
        store: Any = dist.distributed_c10d._get_default_store()  # its stub does not know `append`
        store.append(alike, f"{rank} ")
        store.add("failing", 1)
        wait_for("failing", dist.get_world_size())
        ranks = sorted(int(one) for one in store.get(alike).split())

        # The store is gone with rank 0, which therefore stays until all have read it.
        store.add("told", 1)
        if rank == 0:
            wait_for("told", store.add("failing", 0))
    except RuntimeError:  # rank 0 is gone before its time
        return [rank]
    return ranks


def end_distributed(patience: float = FAREWELL) -> bool:
    """Leave the process group of `init_distributed`, if there is one.

    Where a rank fails alone, a collective of its own may still wait for the others, and the end of the group for that
    collective. The wait is then left to a thread, and the others learn of the failure as soon as this process ends.

    Args:
        patience: the most seconds to wait.

    Returns:
        Whether the group has been left in that time.
    """
    import deepspeed

    def end() -> None:
        """Destroy the group, by DeepSpeed if it knows of one."""
        if deepspeed.comm.is_initialized():
            deepspeed.comm.destroy_process_group()
        elif dist.is_initialized():
            dist.destroy_process_group()

    thread = threading.Thread(target=end, daemon=True, name="end_distributed")
    thread.start()
    thread.join(patience)
    return not thread.is_alive()


def resolve_json(path: str | Path, config: TrainConfig, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's settings from a JSON file, its "auto" and absent values filled from the run's config.

    Args:
        path: the file that --deepspeed names.
        config: the run.
        world_size: the number of ranks.

    Raises:
        ConfigError: the file holds no settings, asks for what is not supported, or contradicts the config; the message
            then names both places.
    """
    try:
        settings = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--deepspeed {path}: no JSON file: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--deepspeed {path}: wanted a JSON object, got {type(settings).__name__}")

    # The optimizer and its schedule are built from the run's config alone.
    for section, keys in (
        ("optimizer", "learning_rate, adam_beta1, adam_beta2, adam_epsilon, adam_weight_decay"),
        ("scheduler", "lr_scheduler, lr_warmup_steps"),
    ):
        if section in settings:
            raise ConfigError(f"{path}: remove the section {section!r}: the run's config decides it ({keys})")

    # What is read below must have the right shape.
    for section in ("fp16", "bf16", "zero_optimization"):
        if not isinstance(settings.get(section, {}), dict):
            raise ConfigError(f"{path}: {section} is {settings[section]!r}: wanted an object")
    stage = zero_stage(settings)
    if stage not in (0, 1, 2, 3):
        raise ConfigError(f"{path}: zero_optimization.stage is {stage!r}: wanted 0, 1, 2 or 3")

    _check_offload(settings, config, path)

    # DeepSpeed would wait for the GPU at both ends of every micro-batch, to tell a speed that metrics.jsonl has anyway.
    settings.setdefault("timers", {"throughput": {"enabled": False}})

    # What both sides say must agree.
    dtype = training_dtype(config)
    micro, accumulation = config.train_batch_size, config.gradient_accumulation_steps
    for key, value, source in (
        ("train_micro_batch_size_per_gpu", micro, "train_batch_size"),
        ("gradient_accumulation_steps", accumulation, "gradient_accumulation_steps"),
        (
            "train_batch_size",
            micro * accumulation * world_size,
            f"train_batch_size x gradient_accumulation_steps x {world_size} ranks",
        ),
        ("gradient_clipping", config.max_grad_norm, "max_grad_norm"),
        ("bf16.enabled", dtype == torch.bfloat16, "mixed_precision"),
        ("fp16.enabled", dtype == torch.float16, "mixed_precision"),
    ):
        _fill(settings, key, value, source, path)
    if dtype != torch.float16:
        del settings["fp16"]  # what else it says is of no use
    fill_accumulation(settings, config, stage, path)
    return settings


def zero_stage(settings: dict[str, Any]) -> int:
    """Return the ZeRO stage, 0 to 3, of DeepSpeed's settings."""
    return settings.get("zero_optimization", {}).get("stage", 0)


def offloads(settings: dict[str, Any]) -> bool:
    """Return whether DeepSpeed's settings keep the optimizer's states on the CPU."""
    section = settings.get("zero_optimization", {}).get("offload_optimizer") or {}
    return section.get("device", "none") != "none"


def _check_offload(settings: dict[str, Any], config: TrainConfig, path: str | Path) -> None:
    """Let our optimizer run on the CPU if the settings ask for that; raise ConfigError at what is not supported."""
    zero = settings.get("zero_optimization", {})
    for section in ("offload_optimizer", "offload_param"):
        asked = zero.get(section)
        if not isinstance(asked, (dict, type(None))):
            raise ConfigError(f"{path}: zero_optimization.{section} is {asked!r}: wanted an object")
        device, known = (asked or {}).get("device", "none"), ("none", "cpu")[: 1 + (section == "offload_optimizer")]
        if device not in known:
            raise ConfigError(
                f"{path}: zero_optimization.{section}.device is {device!r}: wanted {' or '.join(known)}, as only the "
                "optimizer's states can be kept on the CPU (configs/zero3_offload.json)"
            )
    if not offloads(settings):
        return
    if not zero_stage(settings):
        raise ConfigError(f"{path}: offload_optimizer needs zero_optimization.stage 1, 2 or 3, and it is 0")
    if config.optimizer != "adamw":
        raise ConfigError(
            f"{path} keeps the optimizer's states on the CPU, where optimizer {config.optimizer} would be slow and "
            "gain little: set optimizer to adamw, or give configs/zero2.json"
        )

    # DeepSpeed would insist on an optimizer of its own, which it compiles; PyTorch's AdamW computes the same.
    _fill(settings, "zero_force_ds_cpu_optimizer", False, "our AdamW also updates weights on the CPU", path)


def _fill(settings: dict[str, Any], key: str, value: Any, source: str, path: str | Path) -> None:
    """Set one of DeepSpeed's settings to what the run's config says.

    Args:
        settings: changed in place.
        key: the setting, with dots between the names of its sections.
        value: what the config says.
        source: the keys of the config that say so, for the message.
        path: the file of `settings`, for the message.

    Raises:
        ConfigError: the setting has another value already.
    """
    *sections, leaf = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    got = settings.get(leaf, "auto")
    if got not in ("auto", value):
        raise ConfigError(
            f'{path}: {key} is {got}, but the run\'s config says {value} ({source}): set it to "auto" or agree'
        )
    settings[leaf] = value


def build_engine(network: nn.Module, config: TrainConfig, settings: dict[str, Any]) -> Any:
    """Return a DeepSpeed engine around a network, which it takes over.

    Args:
        network: the run's network on its device, with the parameters frozen that do not train.
        config: the run.
        settings: DeepSpeed's, as `resolve_json` returns them.

    Returns:
        A deepspeed.DeepSpeedEngine, a type that DeepSpeed does not declare for type checkers. Under stage 0 in 16 bits,
        the parameters of its module have their float32 masters as the attribute fp32_master.
    """
    import deepspeed

    # Here DeepSpeed compiles, where it must: mistakes that need no engine have been told before.
    single_node = dist.get_world_size() == local_world_size()
    with told_compilation(single_node) if dist.get_backend() == "gloo" else nullcontext():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)

    # Some blocks are gathered and released whole: the operations of a block read the weights of several of its layers,
    # and all kinds hold too little for hooks and a round of communication per layer to pay.
    if zero_stage(settings) == 3:
        deepspeed.utils.set_z3_leaf_modules(network, list(BLOCKS))
    own_way = {0: _no_step_of_zero_gradients, 1: _one_optimizer_of_stages_1_and_2}.get(
        zero_stage(settings), nullcontext
    )
    with own_way():
        engine, *_ = deepspeed.initialize(model=network, optimizer=build_optimizer(network, config), config=settings)

    # In 16 bits without ZeRO, DeepSpeed keeps float32 masters that no parameter leads to.
    if masters := getattr(engine.optimizer, "fp32_groups", None):
        for group in zip(engine.optimizer.fp16_groups, masters, strict=True):
            for parameter, master in zip(*group, strict=True):
                parameter.fp32_master = master
    return engine


@contextmanager
def _one_optimizer_of_stages_1_and_2() -> Iterator[None]:
    """Let DeepSpeed build for stage 1 the optimizer that it builds for stage 2, which only shares less.

    By itself it takes another one where bf16 gradients add up in float32, whose states neither stage 2 nor the stage 1
    of other dtypes could load.
    """
    from deepspeed.runtime.engine import ZERO_OPTIMIZATION, DeepSpeedEngine

    choose = DeepSpeedEngine._do_optimizer_sanity_check
    DeepSpeedEngine._do_optimizer_sanity_check = lambda engine, optimizer: (
        choose(engine, optimizer) and ZERO_OPTIMIZATION
    )
    try:
        yield
    finally:
        DeepSpeedEngine._do_optimizer_sanity_check = choose


@contextmanager
def _no_step_of_zero_gradients() -> Iterator[None]:
    """Let DeepSpeed build for 16 bits without ZeRO an optimizer that has not made a step.

    By itself it makes one of zero gradients, so that the moments exist. That step counts in Adam's bias correction,
    which makes the first update of a run 0.74 of what it should be, and decays the weights.
    """
    from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

    make = FP16_UnfusedOptimizer.initialize_optimizer_states
    FP16_UnfusedOptimizer.initialize_optimizer_states = lambda _: None
    try:
        yield
    finally:
        FP16_UnfusedOptimizer.initialize_optimizer_states = make
