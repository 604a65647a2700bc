"""Our pass needs less than the released way: bytes, launches and copies are counted."""

import pytest
import torch

from lavie.bench import training_pass
from lavie.bench.training_pass import count, middle_network, ways
from lavie.testing import LOSS_RTOL, relative_error, tiny_unet

GRADIENTS = 1e-4
"""Relative L2 error of all gradients as one vector in float32, through some 200 operations in a row."""


@pytest.mark.slow
def test_ours_needs_less_than_the_released_way():
    """What docs/performance.md says is kept, and that both compute the same."""
    network = middle_network()
    both = ways(network)
    passes, gradients = {}, {}
    for name in ("ours", "released, SDPA"):
        passes[name] = count(*both[name])
        gradients[name] = torch.cat([p.grad.flatten() for p in network.parameters()])
    ours, released = passes.values()
    assert ours.loss == pytest.approx(released.loss, rel=LOSS_RTOL)
    assert relative_error(*gradients.values()) <= GRADIENTS
    assert ours.alive <= 0.6 * released.alive
    assert ours.forward.launches + ours.backward.launches <= 0.5 * (
        released.forward.launches + released.backward.launches
    )
    assert not ours.forward.copies
    of_weights = {(name, shape[2:]) for name, shape in ours.backward.copies}
    assert of_weights == {("copy_", (3, 3))} and ours.backward.copies.total() <= 50  # docs/performance.md says why


@pytest.mark.slow
def test_the_command_prints_counts_and_ratios(monkeypatch, capsys):
    monkeypatch.setattr(training_pass, "MIDDLE", tiny_unet(norm_statistics="pooled"))
    monkeypatch.setattr(training_pass, "SIZE", (4, 4))
    monkeypatch.setattr("sys.argv", ["training_pass", "--rounds", "1"])
    training_pass.main()
    printed = capsys.readouterr().out
    assert "alive after forward, MiB" in printed and "ours is 1.00x as fast" in printed
