"""What ZeRO-3 gathers and keeps: small networks by hand. The bytes of real runs are in test_traffic."""

import pytest

from lavie.training.planning.trace import Trace, Unit, Visit
from lavie.training.planning.zero3 import Limits, gathering

FETCH, RELEASE = True, False


def chain(*sizes: int) -> Trace:
    """A chain of modules of a parameter each, forward and backward."""
    forward = [Visit(unit, fetch) for unit in range(len(sizes)) for fetch in (FETCH, RELEASE)]
    backward = [Visit(unit, fetch) for unit in reversed(range(len(sizes))) for fetch in (FETCH, RELEASE)]
    units = [Unit((number,), (number,), leaf=False) for number in range(len(sizes))]
    return Trace(units, forward + backward, list(sizes), [True] * len(sizes), len(forward))


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
