"""DeepSpeed's bookkeeping around the modules under ZeRO-3, without what it prepares and never shows.

It has hooks before and after every module, forward and backward. Each of them lists the module's parameters anew by
walking through all modules inside, and writes messages for a log that is off. Neither changes what is gathered, let go
or reduced, nor when.
"""

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn


def lighten_hooks() -> None:
    """Let DeepSpeed's hooks of ZeRO-3 keep the lists of parameters, and write no message that nobody sees.

    Parameters must not join or leave a module once its engine is built, which DeepSpeed does not allow either. A
    second call does nothing.
    """
    from deepspeed.runtime.zero import (
        parameter_offload,
        partition_parameters,
        partitioned_param_coordinator,
        stage3,
    )

    if partitioned_param_coordinator.print_rank_0 is _print_if_asked:
        return
    for module in (parameter_offload, partition_parameters, partitioned_param_coordinator, stage3):
        module.print_rank_0 = _print_if_asked

    # What these two say goes into messages alone.
    partition_parameters.debug_param2name_id_shape_device = _say_nothing
    partitioned_param_coordinator.debug_param2name_id_shape = _say_nothing
    parameter_offload.iter_params = partitioned_param_coordinator.iter_params = _kept()


def _print_if_asked(message: str, debug: bool = False, force: bool = False) -> None:
    """Print on rank 0 what is to be printed; DeepSpeed asks for the rank before it knows that."""
    import deepspeed

    if (debug or force) and deepspeed.comm.get_rank() == 0:
        print(message)


def _say_nothing(parameter: Any) -> str:
    """Stand for a function that describes a parameter."""
    return ""


def _kept() -> Any:
    """Return a function like DeepSpeed's `iter_params`, which walks through each module once."""
    lists: WeakKeyDictionary[nn.Module, dict[bool, list[nn.Parameter]]] = WeakKeyDictionary()

    def parameters(module: Any, recurse: bool = False) -> list[nn.Parameter]:
        """Return the module's parameters, and those of others that DeepSpeed has found it to read."""
        of_module = lists.setdefault(module, {})
        if recurse not in of_module:
            of_module[recurse] = list(module.parameters(recurse))
        read = [parameter for _, parameter in module.ds_external_parameters()]
        return of_module[recurse] + read if read else of_module[recurse]

    return parameters
