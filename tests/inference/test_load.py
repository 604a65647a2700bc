"""A stage that is sampled runs on what its run's keys `kernels` and `attention` ask for, or refuses at once."""

import json
import sys

import pytest
import torch

from lavie.cli import main as cli
from lavie.config.load import dump_yaml
from lavie.errors import KernelError
from lavie.inference.load import META, load_stage
from lavie.models import attention, resnet
from lavie.models.weights import save_network
from lavie.run_folder import MANIFEST
from tests.cascades import random_network, stage_config


@pytest.fixture
def finished_run(tmp_path):
    """A function: keys of a run -> its folder, of stage base."""

    def make(**keys):
        config = stage_config("base", **keys)
        folder = tmp_path / "run/checkpoint-3"
        save_network(folder / "unet", config.model, random_network(config.model).state_dict())
        (folder / "config.yaml").write_text(dump_yaml(config))
        (folder / MANIFEST).write_text(json.dumps({"step": 3}))
        return tmp_path / "run"

    return make


def sample(monkeypatch, folder, out):
    """Run `lavie sample`, and return what it exits with."""
    monkeypatch.setattr(
        sys, "argv", ["lavie", "sample", "--checkpoint", str(folder), "--prompt", "x", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_kernels_that_cannot_run_are_refused_before_anything_is_drawn(finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    code = sample(monkeypatch, finished_run(kernels="triton"), tmp_path / "out")
    assert code.startswith("KernelError: kernels is triton, but ")
    assert code.endswith("; set kernels to auto or torch")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kernels", ("auto", "torch", "triton"))
def test_sampling_runs_on_the_kernels_of_the_run(finished_run, tmp_path, monkeypatch, kernels):
    asked = set()

    def watch(module, name):
        operation = getattr(module, name)

        def watched(*tensors, backend, **settings):
            asked.add((name, backend))
            return operation(*tensors, backend="torch", **settings)

        monkeypatch.setattr(module, name, watched)

    watch(attention, "temporal_attention")
    watch(resnet, "group_norm_silu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert sample(monkeypatch, finished_run(kernels=kernels), tmp_path / "out") in (0, None)
    assert asked == {("temporal_attention", kernels), ("group_norm_silu", kernels)}


def test_a_stage_waits_where_its_kernels_cannot_run(finished_run, monkeypatch):
    """Stages that wait on the CPU for their turn on a GPU; and stages of which only sizes are asked."""
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("lavie.ops.backend._launch_fault", lambda device: None)
    cpu, folder = torch.device("cpu"), finished_run(kernels="triton")
    with pytest.raises(KernelError, match="kernels is triton"):
        load_stage(folder, device=cpu)
    pipeline, _ = load_stage(folder, device=cpu, runs_on=torch.device("cuda"))
    assert pipeline.network.conv_norm_out.kernel_backend == "triton"
    load_stage(folder, device=META)
