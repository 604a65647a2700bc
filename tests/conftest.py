import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest-xdist gives each core a process

import pytest
import torch

from lavie.testing import start_rank_server

# Without a GPU the kernels run in Triton's interpreter, which must be chosen before triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def rank_server(request):
    """Before any test, for a loader's workers would start a server without what the ranks need."""
    if any(hasattr(getattr(item, "module", None), "run_distributed") for item in request.session.items):
        start_rank_server()


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
