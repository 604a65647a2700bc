"""The GPU that benchmarks run on, with a CUDA that writes down what it is asked for."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from lavie.kernels.bench import machine


def test_a_pass_is_captured_after_two_runs_on_another_stream(monkeypatch):
    """Every line of the GPU's own, with a CUDA that writes down what it is asked for."""
    log: list[str] = []

    def noting(name, result=None):
        return lambda *_, **__: log.append(name) or result

    stream = SimpleNamespace(wait_stream=noting("wait"))
    graph = SimpleNamespace(replay=noting("replay"))
    fakes = dict(Stream=lambda: stream, current_stream=lambda: stream, synchronize=noting("synchronize"))
    fakes |= dict(stream=lambda _: noting_block("stream"), CUDAGraph=lambda: graph, graph_pool_handle=lambda: 7)
    fakes |= dict(graph=lambda _, pool: noting_block(f"graph in {pool}"), get_device_name=lambda _: "GPU X")

    @contextmanager
    def noting_block(name):
        log.append(f"begin {name}")
        yield
        log.append(f"end {name}")

    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    gpu = machine.Gpu()
    gpu.capture(noting("run"), gpu.new_pool())()
    inside = ["begin stream", "run", "run", "end stream"]
    captured = ["begin graph in 7", "run", "end graph in 7"]
    assert log == ["wait", *inside, "wait", "synchronize", *captured, "replay"]

    # A copy of 1 GiB both ways in 2 ms, on a machine without nvidia-smi.
    gpu.device = torch.device("meta")
    monkeypatch.setattr(machine.triton.testing, "do_bench", lambda run, return_mode: run() is None or 2.0)
    monkeypatch.setenv("PATH", "")
    told = gpu.describe()
    assert (told["gpu"], told["clocks"], told["copy_gb_per_s"]) == ("GPU X", "unknown", 1074)
