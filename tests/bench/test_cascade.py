"""The benchmark: sizes of what it builds, and a run from end to end on tiny networks."""

import csv
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from lavie.bench import cascade as bench
from lavie.config.load import load_config
from lavie.config.stages import STAGES
from lavie.diffusion.schedule import NoiseSchedule
from lavie.errors import ConfigError
from lavie.inference.load import SAMPLERS
from lavie.models.autoencoder import build_autoencoder
from lavie.models.text_encoder import HashTextEncoder
from lavie.models.unet import VideoUNet

CPU = torch.device("cpu")


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage, network, autoencoder, text_encoder, channels",
    (("base", 909_124_100, 83_653_863, 123_060_480, 768), ("vsr", 691_036_420, 55_310_000, 340_387_840, 1024)),
)
def test_the_networks_have_the_released_sizes(stage, network, autoencoder, text_encoder, channels):
    sampler = bench.random_sampler(stage, torch.device("meta"), torch.bfloat16)
    assert count(sampler.network) == network
    assert next(sampler.network.parameters()).dtype == torch.bfloat16
    assert count(sampler.autoencoder) == pytest.approx(autoencoder, rel=1e-3)
    assert sampler.autoencoder.stride == (4 if stage == "vsr" else 8)
    assert next(sampler.autoencoder.parameters()).dtype == (torch.float32 if stage == "vsr" else torch.bfloat16)
    assert count(sampler.text_encoder) == text_encoder
    assert sampler.text_encoder.channels == channels
    assert sampler.text_encoder.channels == sampler.network.config.cross_attention_dim


@pytest.fixture
def tiny(monkeypatch, cascade_folder):
    """The benchmark on tiny networks, in threads, where child processes would not see them."""

    def sampler(stage, device, dtype):
        config = load_config(cascade_folder / stage / "checkpoint-3/config.yaml")
        model = config.model.model_copy(update={"num_noise_levels": 100, "max_noise_level": None})
        with device:
            network = VideoUNet(model if stage == "vsr" else config.model).to(dtype).eval()
        encoders = build_autoencoder(config.autoencoder, None), HashTextEncoder(config.model.cross_attention_dim, 6)
        return SAMPLERS[stage](network, *encoders, NoiseSchedule())

    monkeypatch.setattr(bench, "random_sampler", sampler)
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))


@pytest.mark.slow
def test_rows_of_all_stages(tiny, tmp_path):
    failures = {}
    rows = list(bench.bench([*STAGES], (3, 16, 24, 2), 2.0, CPU, failures, vsr_frames=5))
    assert failures == {}
    assert [(row.stage, row.frames, row.height, row.width) for row in rows] == [
        ("base", 3, 16, 24),
        ("interpolation", 9, 16, 24),
        ("vsr", 5, 64, 96),
    ]
    assert all(row.seconds >= row.seconds_per_step > 0 and row.peak_gib >= 0 for row in rows)
    bench.append(rows[:1], tmp_path / "results.csv")
    bench.append(rows[1:], tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["stage"] for row in kept] == [*STAGES]
    assert {row["guidance"] for row in kept} == {"2.0"}
    console = Console(width=200, record=True)
    console.print(bench.table(rows))
    assert "5 x 64 x 96" in console.export_text()


def test_refuses_a_size_before_it_builds_anything(tiny):
    with pytest.raises(ConfigError, match="height x width: got 15 x 24"):
        list(bench.bench(["base"], (3, 15, 24, 2), None, CPU, {}))


@pytest.mark.slow
def test_a_stage_that_fails_is_named_after_the_others(tiny, tmp_path, monkeypatch):
    measure = bench.measure

    def measured(stage, *args):
        if stage == "interpolation":
            raise torch.OutOfMemoryError("too large")
        return measure(stage, *args)

    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "default_device", lambda: CPU)
    results = tmp_path / "results.csv"
    with pytest.raises(SystemExit, match=r"^stage interpolation failed: OutOfMemoryError: too large$"):
        bench.main(stage=None, frames=3, height=16, width=24, steps=2, guidance=2.0, results=results)
    with results.open(newline="") as file:
        assert [(row["stage"], row["frames"]) for row in csv.DictReader(file)] == [("base", "3"), ("vsr", "9")]


@pytest.mark.parametrize("steps, per_step", ((1, 0.0), (2, 3.0), (5, 3.0)))
def test_seconds_per_step_leave_out_the_first(monkeypatch, steps, per_step):
    """The first step takes 10 seconds, for it warms up; the others take 3 each, and what follows them takes 100."""
    now = [50.0]

    def sampler(prompts, progress, **settings):
        assert prompts == ["a prompt"] and settings == {"num_inference_steps": steps}
        for step in range(steps):
            now[0] += 3 if step else 10
            progress(step, steps)
        now[0] += 100

    monkeypatch.setattr(bench, "random_sampler", lambda *_: sampler)
    monkeypatch.setattr(bench.time, "perf_counter", lambda: now[0])
    seconds, seconds_per_step, _ = bench.measure("base", None, {"num_inference_steps": steps}, "cpu")
    assert (seconds, seconds_per_step) == (10 + 3 * (steps - 1) + 100, per_step)


def test_the_table_stands_beside_the_papers_numbers():
    made = dict(date="2000-01-01", device="GPU X", lavie="1", torch="2", dtype="bfloat16", guidance=7.5)
    made |= dict(frames=16, height=320, width=512, steps=50)
    base = dict(stage="base", seconds=9.5, seconds_per_step=0.2, peak_gib=7.0, estimated_gib=6.5)
    vsr = dict(stage="vsr", seconds=300, seconds_per_step=6, peak_gib=40, estimated_gib=39)
    rows = [bench.Measurement(**made, **values) for values in (base, vsr)]
    shown = bench.table(rows)
    assert shown.title == "GPU X, bfloat16, torch 2"
    assert [(str(column.header), *column.cells) for column in shown.columns] == [
        ("stage", "base", "vsr"),
        ("clip", "16 x 320 x 512", "16 x 320 x 512"),
        ("steps", "50", "50"),
        ("s", "9.5", "300"),
        ("s/step", "0.2", "6"),
        ("paper: s", "10", "360"),
        ("GiB", "7.0", "40"),
        ("dry run", "6.5", "39"),
        ("paper: GB", "13", "42"),
    ]
