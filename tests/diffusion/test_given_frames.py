"""Which frames are given follows the shares of the config, and what is read of them follows SEINE's form."""

from collections import Counter

import numpy as np
import pytest
import torch

from lavie.config.condition import GivenConfig
from lavie.diffusion.given_frames import draw_given, frame_condition, given_mask
from lavie.seeds import numpy_generator

DRAWS = 4000


def drawn(config, frames, count=DRAWS):
    return [draw_given(config, frames, numpy_generator(0, "given", i)) for i in range(count)]


def test_the_four_kinds_come_in_their_shares():
    places = Counter(drawn(GivenConfig(), 16))
    deviation = 4 * (0.25 / DRAWS) ** 0.5
    assert places[()] / DRAWS == pytest.approx(0.30, abs=deviation)
    assert places[0, 15] / DRAWS == pytest.approx(0.15, abs=deviation)
    # One to four first frames, all as often; random frames rarely come to the same.
    first = [places[tuple(range(k))] / DRAWS for k in (1, 2, 3, 4)]
    assert sum(first) == pytest.approx(0.40, abs=deviation + 0.01)
    assert all(share == pytest.approx(0.10, abs=deviation) for share in first)
    assert places[tuple(range(5))] < DRAWS * 0.01


@pytest.mark.parametrize(
    "kind, frames, wanted",
    (
        ("none", 6, {()}),
        ("first", 6, {(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)}),
        ("first", 3, {(0,), (0, 1)}),
        ("first_and_last", 6, {(0, 5)}),
        ("random", 3, {(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)}),
    ),
)
def test_a_kind_gives_all_of_its_choices_and_leaves_a_frame_to_make(kind, frames, wanted):
    shares = dict.fromkeys(("none", "first", "first_and_last", "random"), 0.0)
    assert set(drawn(GivenConfig(**shares | {kind: 2.0}), frames, 200)) == wanted


def test_the_most_first_frames_are_a_setting():
    config = GivenConfig(none=0, first_and_last=0, random=0, most_first=1)
    assert set(drawn(config, 16, 50)) == {(0,)}


def test_random_frames_come_in_every_number():
    config = GivenConfig(none=0, first=0, first_and_last=0)
    counts = Counter(len(places) for places in drawn(config, 5))
    assert sorted(counts) == [1, 2, 3, 4]
    assert min(counts.values()) > 0.2 * DRAWS


def test_the_condition_is_the_mask_and_the_given_latents():
    latents, empty = torch.randn(2, 3, 4, 5, 6), torch.randn(3, 5, 6)
    condition = frame_condition(latents, given_mask([(0, 2), ()], 4), empty)
    assert condition.shape == (2, 4, 4, 5, 6)
    assert condition[0, 0].mean(dim=(1, 2)).tolist() == [0, 1, 0, 1]
    assert condition[1, 0].min() == 1
    assert torch.equal(condition[0, 1:, [0, 2]], latents[0, :, [0, 2]])
    assert torch.equal(condition[0, 1:, 1], empty) and torch.equal(condition[1, 1:, 3], empty)


def test_what_is_not_given_is_not_read():
    latents, empty = torch.full((1, 2, 3, 4, 4), torch.nan), torch.zeros(2, 4, 4)
    latents[:, :, 1] = 1
    condition = frame_condition(latents, given_mask([(1,)], 3), empty)
    assert np.isfinite(condition.numpy()).all()
