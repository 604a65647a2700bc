"""A network's operations run on what it was told, and networks that were told different things do not meet."""

import pytest
import torch

from lavie.errors import KernelError
from lavie.models import attention, resnet, temporal
from lavie.models.backends import require_backends, set_backends
from lavie.models.unet import VideoUNet
from lavie.testing import tiny_unet
from tests.cascades import STAGE_MODELS

CPU = torch.device("cpu")
KERNEL_OPS = {
    "group_norm_silu": resnet,
    "residual_block": resnet,
    "geglu_linear": attention,
    "group_norm_linear": attention,
    "norm_linear": attention,
    "temporal_attention": attention,
    "pseudo3d_block": temporal,
}


@pytest.fixture
def calls(monkeypatch):
    """The (operation, backend) of every call of the networks, which compute in plain PyTorch all the same."""
    seen = set()

    def watch(module, name, instead):
        operation = getattr(module, name)

        def watched(*tensors, backend, **settings):
            seen.add((name, backend))
            return operation(*tensors, backend=instead, **settings)

        monkeypatch.setattr(module, name, watched)

    for name, module in KERNEL_OPS.items():
        watch(module, name, "torch")
    watch(attention, "attention", "sdpa")
    return seen


def run(network):
    """A forward pass of a tiny super-resolution network, which has every operation."""
    return network(
        torch.randn(1, 6, 2, 8, 8),
        torch.tensor([5]),
        torch.randn(1, 6, network.config.cross_attention_dim),
        low_res=torch.randn(1, 3, 2, 8, 8),
        noise_level=torch.tensor([3]),
    )


def test_networks_with_different_backends_live_side_by_side(calls):
    plain, fast, untold = (VideoUNet(tiny_unet(**STAGE_MODELS["vsr"])) for _ in range(3))
    set_backends(plain, kernels="torch")
    set_backends(fast, kernels="triton", attention="flash-attn")
    for network, kernels, frames in (
        (plain, "torch", "sdpa"),
        (fast, "triton", "flash-attn"),
        (untold, "auto", "sdpa"),
        (plain, "torch", "sdpa"),
    ):
        calls.clear()
        run(network)
        assert calls == {*((name, kernels) for name in KERNEL_OPS), ("attention", frames)}


def test_what_cannot_run_is_refused(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    require_backends("auto", "sdpa", CPU)
    with pytest.raises(KernelError, match=r"kernels is triton, but .*; set kernels to auto or torch"):
        require_backends("triton", "sdpa", CPU)
    with pytest.raises(KernelError, match=r"attention is flash-attn, but .*; set attention to sdpa"):
        require_backends("auto", "flash-attn", CPU)
