"""Kernels run where they were asked for or refuse with the reason; auto falls back and says so once."""

import logging
from types import SimpleNamespace

import pytest
import torch

from lavie.errors import KernelError
from lavie.ops import backend as backend_module
from lavie.ops.backend import kernels_for, require_kernels

CPU = torch.device("cpu")


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
    if runs:
        require_kernels("triton", torch.device("cuda"))
    else:
        with pytest.raises(KernelError, match=r"compute capability \(7, 5\), below \(8, 0\); set kernels to auto"):
            require_kernels("triton", torch.device("cuda"))
