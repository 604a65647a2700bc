"""The gradient of a step as DeepSpeed holds it: its norm, where it is not finite, and how it is thrown away."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import gather_objects

FROM_THE_END = ("conv_out", "conv_norm_out", "up_", "mid_", "down_", "")
"""How the names of a network's modules begin, in the order in which a gradient comes to them."""


def gradient_norm(engine: Any) -> float:
    """Return the norm of a step's whole gradient over all ranks, before clipping; not finite where that is not.

    Call it after the backward pass of the step's last micro-batch. Collective.
    """
    optimizer = engine.optimizer
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return _combined(optimizer._get_norm_groups()) / float(optimizer.loss_scale)
    if stage:
        return float(optimizer.scaled_global_norm()) / float(optimizer.loss_scale)

    # Without ZeRO every rank holds the whole gradient, the mean over the ranks.
    return norm_of(engine.module)


def norm_of(module: nn.Module) -> float:
    """Return the norm of the gradient that the parameters of a module hold themselves, reckoned in float32."""
    norms = []
    for parameter in module.parameters():
        if parameter.grad is not None:
            norms.append(torch.linalg.vector_norm(parameter.grad, dtype=torch.float32))
    return float(torch.linalg.vector_norm(torch.stack(norms)))


def _combined(norms: Iterable[Any]) -> float:
    """Return the norm of groups of gradients from theirs; DeepSpeed gives -1 for one that is not finite."""
    values = [float(norm) for norm in norms]
    return math.inf if any(not math.isfinite(v) or v < 0 for v in values) else math.hypot(*values)


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

    own = vars(optimizer)
    before = {name: own[name] for name in told if name in own}
    own.update(told)
    try:
        engine.step()
    finally:
        for name in told:
            del own[name]
        own.update(before)
    if plain:  # PyTorch's own optimizer knows of no update that is left out
        engine.skipped_steps += 1
