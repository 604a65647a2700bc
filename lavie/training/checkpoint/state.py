"""What an engine holds that a checkpoint keeps: float32 weights and their moments, by parameter, under any ZeRO stage.

Every rank holds a range of each flattened parameter: all of it under stage 0, some of it or nothing under the others.
The ranges of all ranks together are the state, so it can be saved by some ranks and loaded by others.

| stage | the float32 weights lie in |
|---|---|
| 0 | the parameters, or their masters if the run is in 16 bits |
| 1, 2 | one flat tensor for each group of parameters, of which a rank holds a slice at any place |
| 3 | flat tensors of equal slices of the parameters, whose ends are padding |
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...models.lora.adapter import plain_name
from ..partition import Slice, local_extent, local_slice

WEIGHTS = "weights"
"""The kind of values that are a parameter's float32 weights; the others are the optimizer's names of its moments."""
AVERAGE = "average"
"""The kind of values that are the average of a parameter, where no network to sample from holds it exactly."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""The moments of AdamW: the averages of the gradients and of their squares."""
OPAQUE = "opaque"
"""The kind of values that belong to no parameter."""
SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""What DeepSpeed's scaler of the loss knows, in fp16."""


class Held(NamedTuple):
    """What this rank holds of a parameter that trains: the elements [start, start + length) of it, flattened."""

    name: str
    """Its plain name, which it has in a network without adapters."""
    shape: torch.Size
    start: int
    length: int
    replicated: bool
    """Whether every rank holds the whole."""
    flat: Tensor
    """The optimizer's float32 tensor, in which these elements and those of other parameters may lie."""
    offset: int
    """Where in `flat` they begin."""

    def of(self, tensor: Tensor) -> Tensor:
        """Return these elements as a 1-D view of a tensor that is laid out as `flat`."""
        return tensor.flatten()[self.offset : self.offset + self.length]


def held_by(engine: Any) -> Iterator[Held]:
    """Yield what this rank holds of each parameter that trains; its ranges may be empty.

    Args:
        engine: DeepSpeed's, as `build_engine` returns it.
    """
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        yield Held(plain_name(name), *local_extent(parameter), *_place(engine.optimizer, parameter))


def _place(optimizer: Any, parameter: Any) -> tuple[Tensor, int]:
    """Return the optimizer's flat tensor in which this rank's elements of a parameter lie, and where they begin."""
    if hasattr(parameter, "ds_id"):
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        return optimizer.fp32_partitioned_groups_flat[group], offset
    if hasattr(parameter, "_hp_mapping"):
        mapping = parameter._hp_mapping
        if mapping is None:
            return torch.empty(0), 0
        group = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
        return group, mapping.hp_fragment_address.start
    return getattr(parameter, "fp32_master", parameter), 0


def torch_optimizer(engine: Any) -> torch.optim.Optimizer:
    """Return the optimizer of PyTorch's kind, around which DeepSpeed may have built one of its own."""
    optimizer = engine.optimizer
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def flats(engine: Any) -> list[Tensor]:
    """Return the tensors that the optimizer of this rank updates."""
    optimizer = engine.optimizer
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups"):  # stage 3; stages 1 and 2
        if hasattr(optimizer, name):
            return list(getattr(optimizer, name))
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    return [getattr(parameter, "fp32_master", parameter) for parameter in trained]


def optimizer_steps(engine: Any) -> int:
    """Return how many updates the optimizer has made; it knows none before the first."""
    states = torch_optimizer(engine).state
    counts = {int(states[flat]["step"]) for flat in flats(engine) if flat in states and "step" in states[flat]}
    assert len(counts) <= 1, f"the optimizer has made {sorted(counts)} updates of different tensors"
    return counts.pop() if counts else 0


def begin_moments(engine: Any, steps: int) -> None:
    """Give AdamW the moments 0 for every tensor of this rank, as after its first update, and a number of updates."""
    optimizer = torch_optimizer(engine)
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for flat in flats(engine):
        place = flat.device if fused else "cpu"
        zeros = {name: torch.zeros_like(flat, memory_format=torch.preserve_format) for name in MOMENTS}
        optimizer.state[flat] = {"step": torch.tensor(float(steps), device=place), **zeros}


def moments_of(engine: Any, held: Held) -> dict[str, Tensor]:
    """Return AdamW's moments of the elements that this rank holds of a parameter: views; none before an update."""
    state = torch_optimizer(engine).state.get(held.flat, {})
    return {name: held.of(state[name]) for name in MOMENTS if name in state}


def opaque_states(engine: Any) -> dict[str, Tensor]:
    """Return the states of an optimizer whose values are not one for each weight, such as 8-bit moments in blocks.

    Only as many ranks under the same ZeRO stage can go on with them.
    """
    states = torch_optimizer(engine).state
    return {
        f"{OPAQUE}/{index}/{key}": value
        for index, flat in enumerate(flats(engine))
        for key, value in states.get(flat, {}).items()
        if isinstance(value, Tensor) and key != "step"
    }


def set_opaque_states(engine: Any, steps: int, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimizer the states that `opaque_states` returned, and a number of updates."""
    states = torch_optimizer(engine).state
    for index, flat in enumerate(flats(engine)):
        prefix = f"{OPAQUE}/{index}/"
        found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if found:
            states[flat] = {"step": steps, **{key: value.to(flat.device) for key, value in found.items()}}


@torch.no_grad()
def spread_weights(engine: Any) -> None:
    """Let the network compute with the float32 weights of the optimizer, after they were set. Collective."""
    optimizer = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        for group in range(len(optimizer.fp32_partitioned_groups_flat)):
            optimizer._reassign_or_swap_out_partitioned_parameters(group)
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):
        optimizer.update_lp_params()
    else:
        for parameter in engine.module.parameters():
            if (master := getattr(parameter, "fp32_master", None)) is not None:
                parameter.copy_(master)


def frozen(engine: Any) -> Iterator[tuple[str, Slice]]:
    """Yield the name of each parameter that does not train, and what this rank holds of it."""
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            yield name, local_slice(parameter)


def counters(engine: Any) -> dict[str, Any]:
    """Return the counts of an engine that a resumed run goes on with, JSON's kinds of values by name."""
    counts: dict[str, Any] = {"optimizer_steps": optimizer_steps(engine), "skipped_steps": engine.skipped_steps}
    if engine.fp16_enabled():
        scaler = engine.optimizer.loss_scaler
        counts["loss_scaler"] = {name: getattr(scaler, name) for name in SCALER if hasattr(scaler, name)}
    return counts


def set_counters(engine: Any, step: int, counts: dict[str, Any]) -> None:
    """Let an engine go on after a step with the counts of a checkpoint, as `counters` returned them."""
    engine.global_steps = step
    engine.micro_steps = step * engine.gradient_accumulation_steps()
    engine.global_samples = step * engine.train_batch_size()
    engine.skipped_steps = counts["skipped_steps"]
    if engine.fp16_enabled():
        for name, value in counts.get("loss_scaler", {}).items():
            setattr(engine.optimizer.loss_scaler, name, value)
