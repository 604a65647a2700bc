"""What ZeRO-3 gathers and keeps: small networks by hand. The bytes of real runs are in test_traffic."""

import pytest
import torch
from torch import nn

from lavie.training.planning.trace import Trace, Unit, Visit, trace_of
from lavie.training.planning.zero3 import Limits, gathering

FETCH, RELEASE = True, False


class Block(nn.Module):
    """Two layers that are fetched together."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.b(self.a(x))


def chain(*sizes: int) -> Trace:
    """A chain of modules of a parameter each, forward and backward."""
    forward = [Visit(unit, fetch) for unit in range(len(sizes)) for fetch in (FETCH, RELEASE)]
    backward = [Visit(unit, fetch) for unit in reversed(range(len(sizes))) for fetch in (FETCH, RELEASE)]
    units = [Unit((number,), (number,), leaf=False) for number in range(len(sizes))]
    return Trace(units, forward + backward, list(sizes), [True] * len(sizes), len(forward))


def test_the_order_of_a_pass():
    """A block is one unit, layers beside it and what holds them are others; a gradient comes from the end, and to the
    outer module first."""
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(2, 2), Block(), nn.Linear(2, 2))
        x = torch.empty(1, 2, requires_grad=True)
    trace = trace_of(network, (Block,), 0, lambda: network(x).sum())
    assert [unit.parameters for unit in trace.units] == [(), (0, 1), (2, 3), (4, 5)]
    assert trace.units[0].inside == tuple(range(6))
    assert [unit.leaf for unit in trace.units] == [False, False, True, False]
    assert trace.sizes == [4, 2, 4, 4, 4, 2]
    inner = [[(unit, fetch) for unit in order for fetch in (FETCH, RELEASE)] for order in ((1, 2, 3), (3, 2, 1))]
    pairs = [(0, FETCH), *inner[0], (0, RELEASE), (0, FETCH), *inner[1], (0, RELEASE)]
    assert trace.visits == [Visit(*pair) for pair in pairs]
    assert trace.turn == 8
    assert all(parameter.grad is None for parameter in network.parameters())


def test_modules_of_few_parameters_a_layer_are_fetched_whole():
    """8 parameters in 3 layers with the block itself are 2 a layer."""
    with torch.device("meta"):
        network = nn.Sequential(Block(), nn.Linear(2, 2))
        x = torch.empty(1, 2, requires_grad=True)
    units = {g: [u.parameters for u in trace_of(network, (), g, lambda: network(x).sum()).units] for g in (1, 2)}
    assert units == {1: [(), (), (0,), (1,), (2, 3)], 2: [(), (0, 1), (2, 3)]}


@pytest.mark.parametrize(
    "limits, gathers, forward, live",
    (
        # Nothing is kept: each module is gathered twice, the last one in a row.
        (Limits(live=100, reuse=0, prefetch=0, persistent=0), [10, 20, 30, 30, 20, 10], 3, 30),
        # All is kept that comes again within 100 elements, so nothing is gathered twice.
        (Limits(live=1000, reuse=1000, prefetch=0, persistent=0), [10, 20, 30], 3, 60),
        # The last 50 elements' modules are within reach: 30 at once, 20 after 60.
        (Limits(live=1000, reuse=61, prefetch=0, persistent=0), [10, 20, 30, 10], 3, 50),
        # Small ones stay for the whole step.
        (Limits(live=1000, reuse=0, prefetch=0, persistent=10), [20, 30, 30, 20], 2, 40),
    ),
)
def test_what_is_gathered_by_hand(limits, gathers, forward, live):
    found = gathering(chain(10, 20, 30), limits)
    assert [sum(gather) for gather in found.gathers] == gathers
    assert (found.forward, found.live) == (forward, live)


def test_a_module_without_weights_fetches_ahead():
    """What comes behind it is whole before it is needed."""
    chained = chain(10, 20)
    units = [*chained.units, Unit((), (), leaf=False)]
    visits = [Visit(2, FETCH), Visit(2, RELEASE), *chained.visits]
    trace = Trace(units, visits, chained.sizes, chained.trains, chained.turn + 2)
    found = gathering(trace, Limits(live=1000, reuse=0, prefetch=10, persistent=0))
    assert found.gathers[:2] == [[10], [20]]
    assert found.live == 30, "the second is on its way while the first is used"


@pytest.mark.parametrize("leaf, gathers", ((False, 1), (True, 2)))
def test_on_the_way_to_the_next_use_a_leaf_meets_more(leaf, gathers):
    """10 elements used again behind a module of 20, which lie in modules inside of it: out of reach of a leaf alone."""
    units = [Unit((0,), (0,), leaf), Unit((), (1,), leaf=False)]
    visits = [Visit(unit, fetch) for unit in (0, 1, 0) for fetch in (FETCH, RELEASE)]
    found = gathering(Trace(units, visits, [10, 20], [True] * 2, 4), Limits(1000, 15, 0, 0))
    assert len(found.gathers) == gathers


def test_what_is_fetched_ahead_comes_with_one_collective():
    """Behind the first module the two others are fetched at once, as far as the limits let them."""
    found = gathering(chain(10, 20, 30), Limits(live=1000, reuse=1000, prefetch=50, persistent=0))
    assert found.gathers == [[10], [20, 30]]
    short = gathering(chain(10, 20, 30), Limits(live=11, reuse=1000, prefetch=50, persistent=0))
    assert short.gathers[:2] == [[10], [20]]
