"""The order in which a pass comes to a network's modules, by which ZeRO-3 fetches and releases their weights."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

LARGEST_LEAF = 10**9
"""Elements of a module above which DeepSpeed gathers it piece by piece (Z3_MAX_LEAF_SIZE)."""
NEVER = 2**63 - 1


class Unit(NamedTuple):
    """A module whose parameters are fetched together."""

    parameters: tuple[int, ...]
    """Their numbers in the order of the network."""


class Visit(NamedTuple):
    """A moment of the pass at which a unit's parameters are fetched, or may be released."""

    unit: int
    fetch: bool


class Trace(NamedTuple):
    """The visits of one forward and backward pass."""

    units: list[Unit]
    visits: list[Visit]
    sizes: list[int]
    """Elements of each parameter, in the order of the network."""
    trains: list[bool]
    """Whether each parameter trains."""
    turn: int
    """How many visits come before the backward pass."""


def trace_of(network: nn.Module, blocks: tuple[type[nn.Module], ...], granularity: int, run: Any) -> Trace:
    """Return the visits of a pass of a network on the meta device.

    Args:
        network: the network.
        blocks: kinds of modules that are fetched whole.
        granularity: modules with no more parameters per layer than this are fetched whole too; 0 for none.
        run: computes the forward pass and returns the loss.
    """
    numbers = {parameter: number for number, parameter in enumerate(network.parameters())}
    units: list[Unit] = []
    visits: list[Visit] = []
    handles = []
    for module, parameters in _units(network, blocks, granularity):
        tracer = _Tracer(len(units), visits)
        units.append(Unit(tuple(sorted(numbers[p] for p in parameters))))
        handles.append(module.register_forward_pre_hook(tracer.before, with_kwargs=True))
        handles.append(module.register_forward_hook(tracer.after))
    loss = run()
    turn = len(visits)
    loss.backward()
    for handle in handles:
        handle.remove()
    for parameter in numbers:
        parameter.grad = None
    sizes, trains = [p.numel() for p in numbers], [p.requires_grad for p in numbers]
    return Trace(units, visits, sizes, trains, turn)


class _Tracer:
    """Notes the visits of one unit: its forward pass, and the way of the gradient from its output to its inputs."""

    def __init__(self, unit: int, visits: list[Visit]) -> None:
        self.unit, self.visits = unit, visits

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Note the fetch of a forward pass, and have the arrival of the gradient at all inputs noted."""
        self.visits.append(Visit(self.unit, True))
        waiting = [0]

        def arrived(gradient: Tensor) -> None:
            waiting[0] -= 1
            if not waiting[0]:
                self.visits.append(Visit(self.unit, False))

        def passed(value: Any) -> Any:
            if not isinstance(value, Tensor) or not value.requires_grad:
                return value
            own = value.view_as(value)  # the same tensor may go to other modules too
            waiting[0] += 1
            own.register_hook(arrived)
            return own

        return tuple(map(passed, args)), {name: passed(value) for name, value in kwargs.items()}

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note the release of a forward pass, and have the fetch noted when the gradient comes to the output."""
        self.visits.append(Visit(self.unit, False))
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: self.visits.append(Visit(self.unit, True)))


def _units(
    module: nn.Module, blocks: tuple[type[nn.Module], ...], granularity: int
) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """Yield the modules that DeepSpeed fetches at once, each with the parameters that it then fetches."""
    if isinstance(module, blocks) or _granularity(module) <= granularity:
        if parameters := list(module.parameters()):
            yield module, parameters
        return
    if own := list(module.parameters(recurse=False)):
        yield module, own
    for child in module.children():
        yield from _units(child, blocks, granularity)


def _granularity(module: nn.Module) -> int:
    """Return DeepSpeed's parameters per layer of a module; NEVER for what it never makes whole."""
    size = sum(p.numel() for p in module.parameters())
    container = type(module).__name__ in nn.modules.container.__all__
    if not size or container or not any(True for _ in module.children()) or size > LARGEST_LEAF:
        return NEVER
    return size // _layers(module)


def _layers(module: nn.Module) -> int:
    """Return how many layers with parameters DeepSpeed counts in a module, the module itself among them."""
    if not any(True for _ in module.parameters()):
        return 0
    inside = sum(_layers(child) for child in module.children())
    return inside if type(module).__name__ in nn.modules.container.__all__ else inside + 1
