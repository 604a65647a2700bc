"""Operations, FLOPs and bytes that are counted, against sums by hand and PyTorch's own counter."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from lavie.models.unet import VideoUNet
from lavie.testing import tiny_unet
from lavie.training.planning.operations import Counted, Operation, count_operations

META = torch.device("meta")


def test_a_linear_layer_by_hand():
    x, weight = torch.empty(6, 8, device=META), torch.empty(10, 8, device=META, requires_grad=True)
    counted = count_operations(lambda: F.linear(x, weight).sum().backward(), gradients=True)
    product = 2 * 6 * 8 * 10
    assert counted.flops == 2 * product  # the input needs no gradient
    forward = Operation("product", product, 4 * (6 * 8 + 10 * 8 + 6 * 10))
    assert counted.operations[forward] == 2  # the gradient of the weight reads and writes as much


def test_views_are_no_launches():
    x = torch.empty(4, 6, device=META)
    assert count_operations(lambda: x.view(6, 4).t()[1:].flatten(0).unsqueeze(0).add(1)).launches == 2  # flatten copies


def test_attention_counts_as_a_fused_kernel():
    """Two products forward; five backward; scores are neither read nor written."""
    q = torch.empty(2, 3, 16, 8, device=META, requires_grad=True)
    k, v = (torch.empty(2, 3, 4, 8, device=META, requires_grad=True) for _ in range(2))

    def attend():
        F.scaled_dot_product_attention(q, k, v).backward(torch.empty_like(q))

    counted = count_operations(attend, gradients=True)
    attention = {op: n for op, n in counted.operations.items() if op.kind == "attention"}
    product, moved = 2 * (2 * 3 * 16) * 4 * 8, 4 * (2 * q.numel() + 2 * k.numel())
    forward, backward = Operation("attention", 2 * product, moved), Operation("attention", 5 * product, 2 * moved)
    assert attention == {forward: 1, backward: 1}


def test_a_network_has_the_flops_that_pytorch_counts():
    config = tiny_unet()
    with META:
        network = VideoUNet(config)
        inputs = torch.empty(1, 4, 5, 4, 4), torch.zeros(1), torch.empty(1, 2, 3, config.cross_attention_dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*inputs, num_images=1)
    assert count_operations(lambda: network(*inputs, num_images=1)).flops == counter.get_total_flops()


def test_each_operation_takes_the_time_of_what_limits_it():
    operations = {Operation("product", 100, 1): 2, Operation("pointwise", 0, 30): 3, Operation("attention", 50, 10): 1}
    counted = Counted(0, Counter(operations))
    assert counted.seconds(product_rate=10, attention_rate=100, bandwidth=10) == pytest.approx(2 * 10 + 3 * 3 + 1)
