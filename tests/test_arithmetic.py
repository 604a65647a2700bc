"""TF32 is set on GPUs alone, and put aside where scores are computed."""

import pytest
import torch

from lavie.arithmetic import exact_float32, set_arithmetic


def settings() -> tuple[str, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark


@pytest.fixture(autouse=True)
def as_before():
    matmul, tf32, benchmark = settings()
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = tf32, benchmark


def test_a_cpu_computes_as_before():
    before = settings()
    set_arithmetic(torch.device("cpu"), tf32=True)
    assert settings() == before


@pytest.mark.parametrize("tf32, wanted", ((True, ("high", True, True)), (False, ("highest", False, True))))
def test_a_gpu_computes_as_asked_and_exactly_within_the_block(tf32, wanted):
    set_arithmetic(torch.device("cuda"), tf32=tf32)
    assert settings() == wanted
    with exact_float32():
        assert settings() == ("highest", False, True)
    assert settings() == wanted
