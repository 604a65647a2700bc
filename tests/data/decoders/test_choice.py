"""The decoder of a run is the one that is asked for and can serve, and the reason is told."""

import importlib.util

import pytest
import torch

from lavie.data.decoders import choice
from lavie.data.decoders.choice import choose_backend, disagreement, trial
from lavie.data.decoders.dali import DaliDecoder
from lavie.data.media.encode import encode_mp4
from lavie.errors import ConfigError
from tests.data.decoders.videos import CPU, requires_dali


@pytest.mark.parametrize(
    "wanted, device, faults, expected, why",
    (
        ("auto", "cpu", {}, "pyav", "no GPU"),
        ("auto", "cuda", {}, "dali-gpu", "a GPU with a video decoder"),
        ("auto", "cuda", {"missing_dali": "not installed"}, "pyav", "not installed"),
        ("auto", "cuda", {"missing_nvdec": "no libnvcuvid"}, "pyav", "no libnvcuvid"),
        ("auto", "cuda", {"differs": "it fails on a test clip"}, "pyav", "fails on a test clip"),
        ("auto", "cuda", {"degraded": True}, "pyav", "low resolution"),
        ("auto", "cuda", {"verified": False}, "pyav", "data.verify is not always"),
        ("auto", "cuda", {"resampler": "swscale-1"}, "pyav", "data.resampler is swscale-1"),
        ("pyav", "cuda", {}, "pyav", "asked for"),
        ("pyav", "cpu", {"degraded": True, "verified": False}, "pyav", "asked for"),
        ("dali", "cuda", {}, "dali-gpu", "asked for"),
        ("dali", "cpu", {"missing_nvdec": "no libnvcuvid"}, "dali-cpu", "VP8 and VP9"),
        ("dali", "cpu", {"missing_dali": "not installed"}, None, "not installed"),
        ("dali", "cpu", {"verified": False}, None, "data.verify is not always"),
        ("dali", "cuda", {"missing_nvdec": "no libnvcuvid"}, None, "no libnvcuvid"),
        ("dali", "cuda", {"differs": "it fails on a test clip"}, None, "fails on a test clip"),
        ("dali", "cuda", {"degraded": True}, None, "low resolution"),
        ("dali", "cuda", {"resampler": "swscale-1"}, None, "data.resampler is swscale-1"),
    ),
)
def test_choice(monkeypatch, wanted, device, faults, expected, why):
    monkeypatch.setattr(choice, "missing_dali", lambda: faults.get("missing_dali"))
    monkeypatch.setattr(choice, "_missing_nvdec", lambda: faults.get("missing_nvdec"))
    monkeypatch.setattr(choice, "trial", lambda device: faults.get("differs"))
    flags = {name: value for name, value in faults.items() if name in ("degraded", "verified", "resampler")}
    if expected is None:
        with pytest.raises(ConfigError, match=f"data.decoder is dali: .*{why}.*Set data.decoder to auto or pyav"):
            choose_backend(wanted, torch.device(device), **flags)
    else:
        backend, reason = choose_backend(wanted, torch.device(device), **flags)
        assert backend == expected and why in reason


@requires_dali
def test_the_trial_finds_a_decoder_that_fails_or_differs(monkeypatch):
    assert trial(CPU) is None
    call = DaliDecoder.__call__
    monkeypatch.setattr(DaliDecoder, "__call__", lambda self, clips: call(self, clips) - 0.1)
    assert "on a test clip, pixels differ by 1" in trial(CPU)
    monkeypatch.setattr("lavie.data.decoders.choice.encode_vp9", encode_mp4)
    assert "fails on a test clip: DALI" in trial(CPU)


@pytest.mark.parametrize("mean, edge, same", ((2.4, 47, True), (2.6, 2.6, False), (0.1, 49, False)))
def test_disagreement_is_by_the_mean_and_by_the_largest(mean, edge, same):
    a = torch.zeros(2, 3, 64, 64)
    b = torch.full_like(a, mean / 127.5)
    b[0, 0, 0, 0] = edge / 127.5
    fault = disagreement(a, b)
    assert fault is None if same else f"by {mean:.1f} of 255 on average and {edge:.0f} at most" in fault


def test_missing_libraries_are_named(monkeypatch):
    def none(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.util, "find_spec", none)
    assert "lavie[dali]" in choice.missing_dali()
    monkeypatch.setattr(choice.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(name)))
    assert "libnvcuvid.so.1" in choice._missing_nvdec()
