"""What every test has: one core per process, Triton's interpreter where there is no GPU, and the shared fixtures."""

import itertools
import os
import signal
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: pytest-xdist keeps every core busy

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lavie.launcher import MPI_NUMBERS, SLURM_NUMBERS
from lavie.testing import start_rank_server
from tests.nodes import TwoNodes

# Without a GPU the kernels run in Triton's interpreter, which must be chosen before triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first: none of them remains for one process when the others have nothing to do."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session", autouse=True)
def rank_server(request):
    """Start the ranks' fork server before any test: a loader's workers would start one without what ranks need."""
    if any(hasattr(getattr(item, "module", None), "run_distributed") for item in request.session.items):
        start_rank_server()


@pytest.fixture(autouse=True)
def own_signals():
    """Put back how this process takes signals: train.py's `main` changes it, and what later tests start inherits it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    yield
    signal.set_wakeup_fd(-1)  # else the thread that `main` has left would end this process at the next test's SIGTERM
    for number, handler in handlers.items():
        signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture(autouse=True)
def no_group():
    """Leave the process group that a test has left in this process: train.py's `main` ends a process that is in one."""
    yield
    if torch.distributed.is_initialized():
        from lavie.training.deepspeed import end_distributed

        end_distributed()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    """Provide two nodes on this machine, for all tests of a module."""
    cluster = TwoNodes(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def environment(monkeypatch):
    """Provide a function that sets variables, in an environment where nobody launched this process."""
    launchers = ("TORCHELASTIC_USE_AGENT_STORE", *itertools.chain(*MPI_NUMBERS), *SLURM_NUMBERS.values())
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", *launchers):
        monkeypatch.setenv(name, "")  # restored afterwards, whatever find_place sets
        monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.fixture(scope="session")
def make_vae() -> Callable[[float], Any]:
    """Provide a function from a scaling factor to a tiny random AutoencoderKL of diffusers, of 8 pixels per latent."""

    def make(scaling_factor: float) -> Any:
        """Return the same random weights every time."""
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
def reversed_folders(monkeypatch):
    """List folders from the last name to the first: a file system promises no order, though most keep one."""
    glob, iterdir = Path.glob, Path.iterdir
    monkeypatch.setattr(Path, "glob", lambda path, pattern: iter(sorted(glob(path, pattern), reverse=True)))
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(iterdir(path), reverse=True)))


@pytest.fixture
def poison(monkeypatch):
    """Provide a function after whose call fresh memory holds NaN: that of torch.empty and its kin, and ATen's own.

    So does, in Triton's interpreter, what a masked load without `other` has where its mask is false: on a GPU it is
    undefined, and the interpreter alone would make it zero.
    """

    def poisoned(function):
        """Return `function` with a result full of NaN, where its dtype has one."""

        def call(*args, **kwargs):
            tensor = function(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return call

    def start():
        """Exchange the functions that Python calls, and let ATen fill what it allocates itself."""
        for name in ("empty", "empty_like", "empty_strided"):
            monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
        for name in ("new_empty", "new_empty_strided"):
            monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))
        assert torch.empty(3).isnan().all() and torch.ones(1).new_empty(3).isnan().all()
        monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        torch.use_deterministic_algorithms(True)
        if interpreter := sys.modules.get("triton.runtime.interpreter"):
            load = interpreter.InterpreterBuilder.create_masked_load

            def masked_load(self, pointers, mask, other, *options):
                """Load, with NaN where nothing is asked for; the interpreter keeps bfloat16 as its bits."""
                dtype = pointers.get_element_ty()
                if other is None and dtype.is_floating():
                    value = 0x7FC0 if dtype.is_bf16() else np.nan
                    data = np.full(pointers.data.shape, value, interpreter._get_np_dtype(dtype))
                    other = interpreter.TensorHandle(data, dtype)
                return load(self, pointers, mask, other, *options)

            monkeypatch.setattr(interpreter.InterpreterBuilder, "create_masked_load", masked_load)

    yield start
    torch.use_deterministic_algorithms(False)
