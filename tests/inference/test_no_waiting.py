"""A denoising step never waits for its device: nothing is read back, and little is carried there.

The network and its latents are on the meta device, which has no values: what reads one is an error there, as it would
be a wait for a GPU. The schedulers' tables are on the CPU.
"""

import itertools
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from lavie.diffusion.schedule import NoiseSchedule
from lavie.inference import chunking, sampler
from lavie.inference.chunking import Axis
from lavie.inference.schedulers import SCHEDULERS
from lavie.inference.settings import VsrSettings
from lavie.models.unet import VideoUNet
from lavie.testing import tiny_unet
from tests.cascades import STAGE_MODELS

META = torch.device("meta")
STEPS = 6


class Transfers(TorchDispatchMode):
    """Counts what crosses between the CPU and the meta device, and scalars that are read from the latter."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()
        self.carrying = False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        came, went = (
            {x.device.type for x in tree_iter(part) if isinstance(x, torch.Tensor)} for part in ((args, kwargs), result)
        )
        if function is torch.ops.aten._local_scalar_dense.default and "meta" in came:
            self.counts["read"] += 1
        copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if copies and came | went >= {"cpu", "meta"} and not self.carrying:
            self.counts["waited for" if went == {"meta"} else "back"] += 1
        return result

    def carry(self, tensor, device):
        """Stand for `carry`, for which a host does not wait."""
        self.counts["carried"] += 1
        self.carrying = True
        try:
            return tensor.to(device)
        finally:
            self.carrying = False


@pytest.fixture
def per_step(monkeypatch):
    """Provide a function of a stage, a scheduler and axes: what crossed in each denoising step but for the first."""

    def measure(stage: str, scheduler: str, axes: list[Axis] | None = None) -> list[Counter]:
        with META:
            network = VideoUNet(tiny_unet(**STAGE_MODELS[stage])).eval()
        width = network.config.cross_attention_dim

        def text_encoder(captions):
            return torch.empty(len(captions), 6, width, device=META)

        stage_sampler = sampler.Sampler(network, None, text_encoder, NoiseSchedule())
        channels, shape = network.config.out_channels, (4, 8, 12)
        low_res = torch.empty(1, network.config.in_channels - channels, *shape, device=META)
        level = torch.zeros(1, dtype=torch.long, device=META) if stage == "vsr" else None
        crossed, totals = Transfers(), []
        for module in (sampler, chunking):
            monkeypatch.setattr(module, "carry", crossed.carry)
        settings = VsrSettings(num_inference_steps=STEPS, scheduler=scheduler)
        call = sampler.Denoising(settings, progress=lambda done, steps: totals.append(Counter(crossed.counts)))
        condition = None if stage == "base" else sampler.Condition(low_res, level)
        with crossed, torch.no_grad():
            stage_sampler._denoise((channels, *shape), ["a"], call, purpose="test", axes=axes, condition=condition)
        return [later - before for before, later in itertools.pairwise(totals)]

    return measure


WAITS = {"ddpm": (1,), "unipc": (4, 5, 6)}
"""Copies to the device that the host waits for in a step, in diffusers' own code: ddpm's noise, which is drawn on the
CPU as all noise is, and unipc's coefficients."""


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_step_carries_its_timestep_there_and_nothing_back(per_step, scheduler):
    steps = per_step("base", scheduler)
    assert len(steps) == STEPS - 1
    for step in steps:
        assert step.pop("carried") == 1
        assert step.pop("waited for", 0) in WAITS.get(scheduler, (0,))
        assert not step


@pytest.mark.parametrize("stage", ("interpolation", "vsr"))
def test_a_condition_changes_nothing(per_step, stage):
    assert all(step == {"carried": 1} for step in per_step(stage, "dpm++"))


def test_windows_carry_each_weight_once(per_step):
    steps = per_step("vsr", "dpm++", [Axis(4, 3, 1), Axis(8, 8), Axis(12, 8, 2, 2, name="tile")])
    assert all(set(step) == {"carried"} for step in steps)
    # The timestep, then the weights of 2 or 3 windows, 1 and 2 or 3 tiles.
    assert {step["carried"] for step in steps} <= {6, 7, 8}


def test_what_would_wait_is_found():
    x = torch.zeros(2, device=META)
    with Transfers() as crossed:
        torch.zeros(2).to(META)
        with pytest.raises(RuntimeError):
            x[0].item()
        with pytest.raises(NotImplementedError):
            x.cpu()
    assert crossed.counts == {"waited for": 1}
