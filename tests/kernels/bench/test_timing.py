"""Times are taken with inputs out of the cache, and with launches that wait for each other."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from lavie.kernels.bench import machine, timing
from lavie.kernels.bench.check import Case
from lavie.kernels.cost import Cost


def make(device, dtype):
    return [torch.randn(6, 4, device=device, dtype=dtype).requires_grad_() for _ in range(2)]


@pytest.mark.parametrize("cache, sets", ((0, 2), (191, 3), (640, 11), (10**9, 32)))
def test_input_sets_overflow_the_cache(monkeypatch, cache, sets):
    """A set has 192 bytes. Behind the first come as many as fill the cache three times, at least 1 and at most 31."""
    properties = SimpleNamespace(L2_cache_size=cache)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    gpu = machine.Gpu()
    gpu.device = torch.device("cpu")
    made = timing.input_sets(Case("toy", make, {}, torch.mul, Cost(2, 4, 6, 8)), gpu, torch.float32)
    assert len(made) == sets
    assert len({leaves[0].data_ptr() for leaves in made}) == sets
    assert all(len(leaves) == 2 and leaves[0].requires_grad for leaves in made)


def test_the_median_of_times_and_the_largest_peak():
    runs = [timing.Sample(*run) for run in ((1, 30, 5), (2, 10, 9), (9, 20, 7))]
    assert timing.medians(runs) == ({"forward": 2, "backward": 20, "both": 29}, 9)


class FakeClock:
    """A GPU and a clock of the host by hand: each launch of a pass takes the host a second."""

    def __init__(self, monkeypatch):
        self.now, self.slept = 0.0, []
        event = SimpleNamespace(record=lambda: None, elapsed_time=lambda later: 1.0)
        fakes = dict(synchronize=lambda: None, reset_peak_memory_stats=lambda: None, memory_allocated=lambda: 0)
        fakes |= dict(max_memory_allocated=lambda: 2**20, _sleep=self.slept.append, Event=lambda **_: event)
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def launch(self, x):
        self.now += 1.0
        return x * 2


def test_the_gpu_waits_for_longer_than_the_host_takes_to_launch(monkeypatch):
    """A whole network's launches would else be timed with the gaps between them."""
    clock, x = FakeClock(monkeypatch), torch.ones(3, requires_grad=True)
    gpu = machine.Gpu()
    sample, host = timing.time_once(gpu, clock.launch, [x], torch.ones(3), 0.0)
    assert (sample, host) == ((1.0, 1.0, 1.0), 1.0)
    timing.time_once(gpu, clock.launch, [x], torch.ones(3), host)
    wanted = [machine.CYCLES * timing.SHORTEST] * 2 + [machine.CYCLES * timing.MARGIN] * 2
    assert clock.slept == wanted
    assert timing.time_replay(gpu, lambda: None, torch.ones(2)) == 1.0
    assert clock.slept[4:] == [machine.CYCLES * timing.GRAPH_WAIT]
