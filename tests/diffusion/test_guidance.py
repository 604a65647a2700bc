"""Classifier-free guidance at its landmarks."""

import torch

from lavie.diffusion.guidance import guided, is_guided


def test_landmarks():
    unconditional, conditional = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert torch.equal(guided(unconditional, conditional, 0), unconditional)
    assert torch.equal(guided(unconditional, conditional, 1), conditional)
    assert torch.equal(guided(unconditional, conditional, 0.5), torch.tensor([2.0, 0.0]))
    assert torch.equal(guided(unconditional, conditional, 7.5), torch.tensor([16.0, -28.0]))


def test_only_the_plain_conditional_prediction_needs_no_other():
    assert [is_guided(scale) for scale in (0, 0.25, 1, 1.0, 1.4, 7.5)] == [True, True, False, False, True, True]
