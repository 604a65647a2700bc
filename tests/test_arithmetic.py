"""TF32 is set on GPUs alone, and put aside where scores are computed."""

import pytest
import torch

from lavie.arithmetic import exact_float32, set_arithmetic


def settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture(autouse=True)
def as_before():
    matmul, tf32 = settings()
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = tf32


def test_a_cpu_computes_as_before():
    before = settings()
    set_arithmetic(torch.device("cpu"), tf32=True)
    assert settings() == before


@pytest.mark.parametrize("tf32, wanted", ((True, ("high", True)), (False, ("highest", False))))
def test_a_gpu_computes_as_asked_and_exactly_within_the_block(tf32, wanted):
    set_arithmetic(torch.device("cuda"), tf32=tf32)
    assert settings() == wanted
    with exact_float32():
        assert settings() == ("highest", False)
    assert settings() == wanted
