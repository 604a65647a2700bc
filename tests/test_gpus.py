"""GPUs that the driver shows and PyTorch does not are an error with both versions, unless they were hidden."""

import subprocess
from types import SimpleNamespace

import pytest
import torch

from lavie import gpus
from lavie.errors import ConfigError
from lavie.gpus import require_visible_gpus

LISTED = "GPU 0: NVIDIA H200 (UUID: GPU-1)\nGPU 1: NVIDIA H200 (UUID: GPU-2)\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine whose driver shows two GPUs and whose PyTorch sees none."""
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpus.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=LISTED))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.06  Wed Jun 26\nGCC version: 12.3.0\n")
    monkeypatch.setattr(gpus, "DRIVER", version)
    monkeypatch.setattr(gpus, "DEVICES", tmp_path)
    return monkeypatch


def test_both_versions_are_named(machine):
    wanted = r"driver \(535\.183\.06\) shows GPU 0: NVIDIA H200 and 1 more, and PyTorch .* is built for CUDA 13\.0"
    with pytest.raises(ConfigError, match=wanted):
        require_visible_gpus()
    machine.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="is built without CUDA"):
        require_visible_gpus()


@pytest.mark.parametrize("name, value", (("CUDA_VISIBLE_DEVICES", ""), ("DS_ACCELERATOR", "cpu")))
def test_the_cpu_can_be_asked_for(machine, name, value):
    machine.setenv(name, value)
    require_visible_gpus()


def test_gpus_that_pytorch_sees_are_fine(machine):
    machine.setattr(torch.cuda, "is_available", lambda: True)
    require_visible_gpus()


def test_without_nvidia_smi_the_device_files_tell(machine, tmp_path):
    def absent(*_, **__):
        raise FileNotFoundError

    machine.setattr(gpus.subprocess, "run", absent)
    require_visible_gpus()
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia0").mkdir()  # which cannot be opened, as by a job without a GPU
    require_visible_gpus()
    (tmp_path / "nvidia1").touch()
    (tmp_path / "version").unlink()
    with pytest.raises(ConfigError, match=r"driver \(of unknown version\) shows .*nvidia1, and PyTorch"):
        require_visible_gpus()


def test_a_node_whose_gpus_are_not_for_this_job_is_a_cpu(machine):
    machine.setattr(gpus.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 6, "No devices found\n"))
    require_visible_gpus()
