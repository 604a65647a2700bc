"""Every wrong value is told in the words of its key: what was wanted and got, without the names of Python's types."""

import pytest

from lavie.config.overrides import merge
from tests.config.values import BASE, faults


@pytest.mark.parametrize(
    "change, message",
    (
        ({"seed": "x"}, 'seed: wanted a whole number (got "x")'),
        ({"use_ema": "maybe"}, 'use_ema: wanted true or false (got "maybe")'),
        ({"lr_scheduler": "cosin"}, 'lr_scheduler: wanted constant or cosine (got "cosin"): did you mean cosine?'),
        ({"adam_beta2": 1}, "adam_beta2: wanted less than 1 (got 1)"),
        ({"learning_rate": 0}, "learning_rate: wanted more than 0 (got 0)"),
        ({"model": "vsr"}, 'model: wanted keys below it, as model.preset=vsr (got "vsr")'),
        ({"model": None}, "model: wanted keys below it, as model.preset=...; leave it out for its defaults (got null)"),
        (
            {"model": {"num_attention_heads": [1, "x"]}},
            'model.num_attention_heads.1: wanted a whole number (got "x")',
        ),
        (
            {"model": {"num_attention_heads": "x"}},
            'model.num_attention_heads: wanted a whole number, or a list, as [a, b] (got "x")',
        ),
        ({"degradation": {"blur": [1]}}, "degradation.blur: wanted 2 entries (got [1])"),
        ({"snr_gamma": 0}, "snr_gamma: wanted more than 0 (got 0): null switches it off"),
        ({"validation_prompts": "a fox"}, 'validation_prompts: wanted a list, as [a, b] (got "a fox")'),
    ),
)
def test_one_line_says_what_was_wanted_and_got(change, message):
    assert faults(merge(BASE, change)) == f"run.yaml: {message}"


def test_a_preset_under_sizes_of_its_own_says_which_counts():
    told = faults(merge(BASE, {"model": {"preset": "vsr", "block_out_channels": [32, 64]}}))
    assert "preset vsr is a network of 4 levels, and block_out_channels beside it has 2" in told
    assert "overrule the preset" in told
