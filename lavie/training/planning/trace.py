"""The order in which a pass comes to a network's modules, by which ZeRO-3 fetches and releases their weights."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor, nn

LARGEST_LEAF = 10**9
"""Elements of a module above which DeepSpeed gathers it piece by piece (Z3_MAX_LEAF_SIZE)."""
NEVER = 2**63 - 1


class Unit(NamedTuple):
    """A module that DeepSpeed stops at, which may have no parameters."""

    own: tuple[int, ...]
    """The numbers of its own parameters in the order of the network."""
    inside: tuple[int, ...]
    """Those of its own parameters and of all modules inside."""
    leaf: bool
    """Whether it is fetched as a whole."""

    @property
    def parameters(self) -> tuple[int, ...]:
        """Those that are fetched together."""
        return self.inside if self.leaf else self.own


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
    for module, leaf in _units(network, blocks, granularity):
        tracer = _Tracer(len(units), visits)
        inside = tuple(sorted(numbers[p] for p in module.parameters()))
        own = tuple(sorted(numbers[p] for p in module.parameters(recurse=False)))
        units.append(Unit(own, inside, leaf))
        handles.append(module.register_forward_pre_hook(tracer.before))
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

    def before(self, module: nn.Module, args: Any) -> Any:
        """Note the fetch of a forward pass, and have the arrival of the gradient at all inputs noted."""
        self.visits.append(Visit(self.unit, True))
        waiting = [0]

        def arrived(gradient: Tensor) -> None:
            """Note the release once all inputs have their gradients."""
            waiting[0] -= 1
            if not waiting[0]:
                self.visits.append(Visit(self.unit, False))

        def passed(value: Tensor) -> Tensor:
            """Return an input of which the gradient is waited for."""
            if not value.requires_grad:
                return value
            own = value.view_as(value)  # the same tensor may go to other modules too
            waiting[0] += 1
            own.register_hook(arrived)
            return own

        return _on_tensors(passed, args)

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """Note the release of a forward pass, and have a fetch noted for each output to which the gradient comes."""
        self.visits.append(Visit(self.unit, False))

        def given(value: Tensor) -> Tensor:
            """Return an output whose gradient comes to this module before those inside, which may return it too."""
            if not value.requires_grad:
                return value
            own = value.view_as(value)
            own.register_hook(lambda gradient: self.visits.append(Visit(self.unit, True)))
            return own

        return _on_tensors(given, output)


def _on_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return a value with `function` applied to the tensors in it and in its lists and tuples, as DeepSpeed does."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, list | tuple):
        parts = [_on_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _units(
    module: nn.Module, blocks: tuple[type[nn.Module], ...], granularity: int
) -> Iterator[tuple[nn.Module, bool]]:
    """Yield the modules that DeepSpeed stops at, each with whether it is fetched as a whole."""
    leaf = isinstance(module, blocks) or _granularity(module) <= granularity
    yield module, leaf
    if not leaf:
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
