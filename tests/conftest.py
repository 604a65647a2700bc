import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest-xdist keeps every core busy

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from lavie.testing import start_rank_server
from tests.nodes import TwoNodes

# Without a GPU the kernels run in Triton's interpreter, which must be chosen before triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long tests first: none of them is left for one process when the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def rank_server(request):
    """Before any test, for a loader's workers would start a server without what the ranks need."""
    if any(hasattr(getattr(item, "module", None), "run_distributed") for item in request.session.items):
        start_rank_server()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Two nodes on this machine."""
    cluster = TwoNodes(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def make_vae() -> Callable[[float], Any]:
    """Scaling factor -> a tiny random AutoencoderKL of diffusers, of 8 pixels per latent."""

    def make(scaling_factor: float) -> Any:
        from diffusers import AutoencoderKL

        torch.manual_seed(0)
        return AutoencoderKL(
            block_out_channels=(8, 8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=scaling_factor,
        )

    return make


@pytest.fixture
def poison(monkeypatch):
    """Call it, and from then on fresh memory holds NaN: torch.empty and its kin here, allocations of ATen's own too."""

    def poisoned(function):
        def call(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return call

    def start():
        for name in ("empty", "empty_like", "empty_strided"):
            monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
        for name in ("new_empty", "new_empty_strided"):
            monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))
        assert torch.empty(3).isnan().all() and torch.ones(1).new_empty(3).isnan().all()
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        torch.use_deterministic_algorithms(True)

    yield start
    torch.use_deterministic_algorithms(False)
