"""Kernels run where they were asked for or refuse with the reason; auto falls back and says so once."""

import importlib.util
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from lavie.errors import KernelError
from lavie.ops import backend as backend_module
from lavie.ops.backend import kernels_for, require_kernels
from lavie.ops.group_norm_silu import group_norm_silu
from lavie.ops.pseudo3d_conv import pseudo3d_block, pseudo3d_conv
from lavie.ops.temporal_attention import temporal_attention

CPU = torch.device("cpu")
NORM, NORM_BACK = (
    ["_block_statistics_kernel", "_statistics_kernel", "_apply_kernel"],
    ["_block_sums_kernel", "_sums_kernel", "_input_gradient_kernel"],
)
CONV, CONV_BACK = ["_conv_kernel"], ["_conv_kernel", "_weight_gradient_kernel"]
"""The kernels of an operation, forward and backward."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(backend_module, "_said", set())
    backend_module._installed.cache_clear()
    yield
    backend_module._installed.cache_clear()


@pytest.fixture
def module(monkeypatch):
    """A stand-in for kernels/x.py, which refuses tensors of one element."""
    module = SimpleNamespace(unsupported=lambda x: "x has one element, wanted more" if x.numel() == 1 else None)
    monkeypatch.setattr(backend_module.importlib, "import_module", lambda name, package: module)
    return module


def test_torch_needs_nothing():
    assert kernels_for("x", "torch", torch.ones(2)) is None


def test_auto_stays_with_torch_on_the_cpu_and_says_so_once(caplog):
    with caplog.at_level(logging.INFO, "lavie"):
        for _ in range(3):
            assert kernels_for("x", "auto", torch.ones(2)) is None
    assert [record.getMessage()[:21] for record in caplog.records] == ["x: plain PyTorch, bec"]
    assert "on the device cpu" in caplog.text


def test_triton_on_the_cpu_needs_the_interpreter(monkeypatch, module):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(
        KernelError, match=r"x: kernels is triton, but .*TRITON_INTERPRET is not 1; set kernels to auto"
    ):
        kernels_for("x", "triton", torch.ones(2))
    with pytest.raises(KernelError, match=r"kernels is triton, but .*cpu"):
        require_kernels("triton", CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels_for("x", "triton", torch.ones(2)) is module
    assert kernels_for("x", "auto", torch.ones(2)) is None  # nobody wants the interpreter by accident


def test_what_can_run_is_not_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for backend in ("auto", "torch", "triton"):
        require_kernels(backend, CPU)


def test_arguments_that_the_kernels_refuse(monkeypatch, module):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(KernelError, match="x: kernels is triton, but x has one element, wanted more; set kernels"):
        kernels_for("x", "triton", torch.ones(1))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(backend_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KernelError, match="the package triton is not installed"):
        require_kernels("triton", CPU)


@pytest.mark.parametrize("capability, runs", (((8, 0), True), ((9, 0), True), ((7, 5), False)))
def test_gpus_older_than_ampere_are_refused(monkeypatch, capability, runs):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(backend_module, "_faults", {0: None})
    if runs:
        require_kernels("triton", torch.device("cuda", 0))
    else:
        with pytest.raises(KernelError, match=r"compute capability \(7, 5\), below \(8, 0\); set kernels to auto"):
            require_kernels("triton", torch.device("cuda"))


def failing_launch(*_):
    """Stand for a first launch on a machine without Python.h."""
    subprocess.check_call([sys.executable, "-c", "import os; os.write(2, b'fatal error: Python.h: No such'); exit(1)"])


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_where_no_kernel_can_be_launched_auto_falls_back_with_the_compilers_reason(monkeypatch, caplog):
    from lavie.kernels import probe

    gpu, asked = torch.device("cuda", 0), []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(backend_module, "_faults", {})
    monkeypatch.setattr(probe, "launch", failing_launch)
    monkeypatch.setattr(probe.torch, "zeros", lambda *_, device: asked.append(device))
    reason = r"Triton cannot launch a kernel on cuda:0 \(CalledProcessError.*Python\.h: No such.*it needs gcc and"
    with pytest.raises(KernelError, match=reason):
        require_kernels("triton", gpu)
    with caplog.at_level(logging.INFO, "lavie"):
        require_kernels("auto", gpu)
        for _ in range(2):
            assert kernels_for("x", "auto", SimpleNamespace(device=gpu)) is None
    assert re.search(reason, caplog.text)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert asked == [gpu]  # once in a process


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_the_smallest_kernel_is_launched_where_that_works():
    """In the interpreter, in a process of its own: it is chosen when Triton is imported."""
    code = "import torch; from lavie.kernels.probe import launch_fault; print(launch_fault(torch.device('cpu')))"
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "None", done.stdout + done.stderr


def normed(x, backend):
    return group_norm_silu(x, torch.ones(8), torch.zeros(8), groups=2, eps=1e-5, backend=backend)


def convolved(x, backend):
    weight = torch.ones(8, 8, 3, requires_grad=True)
    return pseudo3d_conv(x.permute(0, 2, 3, 1), weight, backend=backend)


def block(x, backend):
    norm, conv = (torch.ones(8), torch.zeros(8)), (torch.ones(8, 8, 3, 1, 1, requires_grad=True), torch.zeros(8))
    return pseudo3d_block(x, norm, conv, norm, conv, frames=2, groups=2, eps=1e-5, backend=backend)


def attended(x, backend):
    return temporal_attention(x.view(1, 2, 1, 3, 1, 32), backend=backend)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize(
    "operation, shape, forward, backward",
    (
        (normed, (2, 8, 2, 2), NORM, NORM_BACK),
        (convolved, (2, 8, 2, 2), CONV, CONV_BACK),
        (block, (2, 8, 2, 2), (NORM + CONV) * 2, (NORM + CONV_BACK + NORM_BACK) * 2),
        (attended, (2, 96), ["temporal_attention_forward"], ["temporal_attention_backward"]),
    ),
)
def test_every_operation_starts_its_kernels_where_they_are_asked_for(monkeypatch, operation, shape, forward, backward):
    """The results are nearly the same either way, so that it is asked which kernels were started, and nowhere else."""
    from lavie.kernels.launch import CHIPS, recording

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for backend in ("triton", "torch", "auto"):
        x = torch.ones(shape).requires_grad_()
        with recording(CHIPS[8, 0]) as started:
            y = operation(x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x, backend)
            before = len(started.launches)
            y.sum().backward()
        names = [launch.kernel.__name__ for launch in started.launches]
        wanted = (forward, backward) if backend == "triton" else ([], [])
        assert (sorted(names[:before]), sorted(names[before:])) == tuple(map(sorted, wanted))
