"""The gradient of a step as DeepSpeed holds it: its norm, where it is not finite, and how it is thrown away."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import gather_objects

FROM_THE_END = ("conv_out", "conv_norm_out", "up_", "mid_", "down_", "")
"""How the names of a network's modules begin, in the order in which a gradient comes to them."""


def gradient_norms(engine: Any) -> Tensor:
    """Return the norms of the groups of a step's gradient over all ranks, before clipping, on the device.

    They are scaled as the loss is, and infinite where a gradient is not finite. Call it after the backward pass of the
    step's last micro-batch, and do not wait for it twice: `given_norms` lets DeepSpeed have them. Collective.
    """
    optimizer = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        norms = torch.stack(list(optimizer._get_norm_groups()))
    elif stage:
        norms = optimizer.scaled_global_norm()[None]
    else:
        norms = norm_of(engine.module)[None]  # every rank holds the whole gradient, the mean over the ranks
    return torch.where(norms.isfinite() & (norms >= 0), norms, math.inf)  # DeepSpeed gives -1 for what is not finite


def whole_norm(engine: Any, norms: Sequence[float]) -> float:
    """Return the norm of a step's whole gradient, not scaled, from those of its groups; not finite where one is not."""
    scale = float(engine.optimizer.loss_scale) if engine.zero_optimization_stage() else 1.0
    return math.hypot(*norms) / scale


@contextmanager
def given_norms(engine: Any, norms: Sequence[float]) -> Iterator[None]:
    """Let DeepSpeed take the norms of a step's gradient as they are, within the block, in place of reckoning them.

    It would do so again, with another collective, and the host would wait once more for the GPU. Without ZeRO it has no
    such place.
    """
    # DeepSpeed clips by float64 under stage 3 without offload, and by float32 elsewhere: the same bits as its own.
    stage = engine.zero_optimization_stage()
    double = stage == 3 and not engine.optimizer.offload_optimizer
    given = torch.tensor(norms, dtype=torch.float64 if double else torch.float32)
    told: dict[str, Any] = {}
    if stage == 3:
        told["_get_norm_groups"] = lambda: list(given)
    elif stage:
        told["scaled_global_norm"] = lambda: given[0]
    with _told(engine.optimizer, told):
        yield


def norm_of(module: nn.Module) -> Tensor:
    """Return the norm, a float32 scalar, of the gradient that the parameters of a module hold themselves."""
    norms = []
    for parameter in module.parameters():
        if parameter.grad is not None:
            norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
    return torch.linalg.vector_norm(torch.stack(norms))


def spoilt_module(engine: Any) -> str | None:
    """Return the first module, from the network's end on, whose gradient is not finite; None if all are. Collective.

    A gradient that is spoilt in one module is so in all that it comes to afterwards. This looks at every element, and
    waits for each parameter: it is for a step that is known to be bad, before it is thrown away.
    """
    names = _in_backward_order([name.rpartition(".")[0] for name, _ in _trained(engine.module)])
    spoilt = set()
    for name, parameter in _trained(engine.module):
        gradient = _local_gradient(parameter)
        if gradient is not None and not gradient.isfinite().all():
            spoilt.add(name.rpartition(".")[0])
    everywhere = set().union(*gather_objects(spoilt))
    return next((name for name in names if name in everywhere), None)


def _trained(module: nn.Module) -> list[tuple[str, Any]]:
    """Return the parameters that train, by name, in the order of the network."""
    return [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]


def _in_backward_order(names: Iterable[str]) -> list[str]:
    """Return names of modules in the order in which a gradient comes to them, as far as the names tell it."""
    part = {name: next(i for i, start in enumerate(FROM_THE_END) if name.startswith(start)) for name in names}
    from_the_end = list(part)[::-1]  # inside a part, which the sort leaves in order
    return sorted(from_the_end, key=lambda name: part[name])


def _local_gradient(parameter: Any) -> Tensor | None:
    """Return what this rank holds of a parameter's gradient before the optimizer's step, or None."""
    if hasattr(parameter, "ds_id"):
        from deepspeed.utils import safe_get_local_grad

        return safe_get_local_grad(parameter)  # type: ignore[no-any-return]  # untyped
    if parameter.grad is None and hasattr(parameter, "_hp_mapping"):
        mapping = parameter._hp_mapping
        return None if mapping is None else mapping.get_lp_grad_fragment(parameter._index_in_param_group)
    return parameter.grad  # type: ignore[no-any-return]  # untyped


def throw_away(engine: Any) -> None:
    """End a step without an update: weights, moments and the scale of the loss stay, and the gradient is dropped.

    DeepSpeed does so itself where a gradient is not finite, and clears all that it holds of the gradient. Here it is
    told that this one is not, whatever it is.
    """
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    plain = isinstance(optimizer, torch.optim.Optimizer)
    told: dict[str, Any] = {}
    if plain:
        told["step"] = lambda: None
    elif stage == 0:
        told["step"] = optimizer._skip_invalid_grad_norm
    elif stage == 3:
        told["_get_norm_groups"] = lambda: [torch.tensor(math.inf)]
    else:
        told["check_grad_overflow"] = True
        told["check_overflow"] = lambda partition_gradients: setattr(optimizer, "overflow", True)
    told["_update_scale"] = lambda overflow: None

    with _told(optimizer, told):
        engine.step()
    if plain:  # PyTorch's own optimizer knows of no update that is left out
        engine.skipped_steps += 1


@contextmanager
def _told(optimizer: Any, attributes: Mapping[str, Any]) -> Iterator[None]:
    """Let an optimizer have some attributes within the block, and those of before afterwards."""
    own = vars(optimizer)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
