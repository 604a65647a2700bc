"""Classifier-free guidance at its three landmarks."""

import torch

from lavie.diffusion.guidance import guided


def test_landmarks():
    unconditional, conditional = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert torch.equal(guided(unconditional, conditional, 0), unconditional)
    assert torch.equal(guided(unconditional, conditional, 1), conditional)
    assert torch.equal(guided(unconditional, conditional, 7.5), torch.tensor([16.0, -28.0]))
