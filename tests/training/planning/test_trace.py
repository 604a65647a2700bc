"""The order in which a pass comes to the modules of small networks."""

import torch
from torch import nn

from lavie.training.planning.trace import Visit, trace_of

FETCH, RELEASE = True, False


class Block(nn.Module):
    """Two layers that are fetched together."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)

    def forward(self, x):
        return self.b(self.a(x))


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
