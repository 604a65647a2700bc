"""The estimate of peak memory: bytes counted by hand, and flags that make a stage fit."""

import pytest
import torch
from torch import nn

from lavie.errors import ConfigError
from lavie.inference.cascade import Cascade
from lavie.inference.memory import MARGIN, flags_to_fit, peaks, planned_cascade, require_fit
from lavie.inference.settings import resolve
from lavie.models.live_bytes import live_bytes

FLOAT = 4


def test_live_bytes_by_hand():
    x = torch.empty(1000, device="meta")

    def run():
        a = x + 1  # 1
        b = a * 2  # 2
        del a  # 1
        view = b.view(10, 100)  # 1
        c = view.sum(1)  # 1 + 10 / 1000
        d = torch.cat([b, x])  # 3 + 10 / 1000
        return c, d

    assert live_bytes(run) == FLOAT * (3000 + 10)


def test_attention_keeps_no_scores():
    q = torch.empty(1, 2, 4096, 8, device="meta")
    assert live_bytes(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) == FLOAT * q.numel()


@pytest.fixture(scope="module")
def cascade(cascade_folder):
    return Cascade.from_pretrained(cascade_folder, device="meta", dtype=torch.float32)


@pytest.mark.slow
def test_peaks(cascade):
    plain, apart, halved = peaks(cascade), peaks(cascade, offload=True), peaks(cascade, sequential_guidance=True)
    for name, stage in cascade.stages.items():
        weights = FLOAT * sum(p.numel() for p in stage.network.parameters())
        assert apart[name].weights == weights
        assert plain[name].weights == sum(p.weights for p in apart.values())
        assert halved[name].network == pytest.approx(plain[name].network / 2, rel=0.1)
        peak = plain[name]
        assert peak.total == MARGIN * (peak.weights + max(peak.network, peak.autoencoder) + peak.clips)
        sample = FLOAT * 2 * 32 * torch.Size(peak.sizes.window).numel()  # the widest maps of the first level
        assert 3 * sample < peak.network < 40 * sample


@pytest.mark.slow
def test_configs_alone_tell_what_their_runs_would_take(cascade_folder, cascade):
    files = [str(path) for path in sorted(cascade_folder.glob("*/checkpoint-3/config.yaml"))]
    assert len(files) == 3
    planned = planned_cascade(files, overrides=["vsr.window=3"])
    found, wanted = peaks(planned), peaks(cascade)
    assert found["base"] == wanted["base"] and found["interpolation"] == wanted["interpolation"]
    assert found["vsr"].weights == wanted["vsr"].weights
    assert planned.settings.vsr.window == 3

    with pytest.raises(ConfigError, match="no --config is of stage interpolation"):
        planned_cascade(files[:1])
    assert list(planned_cascade(files[:1], stop_after="base").stages) == ["base"]
    with pytest.raises(ConfigError, match="is of stage base, and so is another"):
        planned_cascade([files[0], files[0]])


def test_what_cannot_fit_is_refused_with_the_flag_that_helps(cascade):
    found = peaks(cascade)
    require_fit(cascade, found, max(p.total for p in found.values()))
    alone = peaks(cascade, offload=True)["vsr"].total
    with pytest.raises(ConfigError, match=r"stage vsr would take .* it fits with --offload$"):
        require_fit(cascade, {"vsr": found["vsr"]}, alone)
    vsr = cascade.settings.vsr.model_copy(update={"window": 4})
    smaller = Cascade(**cascade.stages, settings=cascade.settings.model_copy(update={"vsr": vsr}))
    limit = peaks(smaller, offload=True, sequential_guidance=True)["vsr"].total
    with pytest.raises(ConfigError, match=r"it fits with .*--set vsr.window=4$"):
        require_fit(cascade, {"vsr": found["vsr"]}, limit)
    with pytest.raises(ConfigError, match=r"no flag makes it fit: wanted smaller base.height"):
        require_fit(cascade, {"base": found["base"]}, 1000)


def test_flags_make_every_stage_fit_and_no_more_are_taken_than_needed(cascade):
    most = max(peak.total for peak in peaks(cascade).values())
    assert flags_to_fit(cascade, most) == []
    limit = peaks(cascade, offload=True)["vsr"].total
    flags = flags_to_fit(cascade, limit)
    changes = [flag.removeprefix("--set ") for flag in flags if flag.startswith("--set ")]
    assert flags and "--offload" in flags
    settings = resolve(cascade.settings.model_dump(), changes)
    found = peaks(
        Cascade(**cascade.stages, settings=settings),
        offload=True,
        sequential_guidance="--sequential-guidance" in flags,
    )
    assert all(peak.total <= limit for peak in found.values())
    assert flags_to_fit(cascade, limit, offload=True) == [flag for flag in flags if flag != "--offload"]
    with pytest.raises(ConfigError, match="no flag makes it fit"):
        flags_to_fit(cascade, 1000)


@pytest.mark.slow
def test_a_long_clip_in_windows_takes_hardly_more_than_a_short_one():
    """At full size, 200 frames of the base stage, by windows and by recursion, beside the 16 of training."""

    def total(frames, method):
        overrides = [f"base.num_frames={frames}", f"base.method={method}"]
        return peaks(planned_cascade(["base_frames.yaml"], overrides=overrides, stop_after="base"))["base"].total

    short = total(16, "whole")
    for method in ("windows", "recursion"):
        assert short < total(200, method) < 1.1 * short
