"""The runner, on the smallest arms of Table 7: cut, gone on with, skipped when done."""

import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lavie.config.shipped import find_config
from lavie.errors import ConfigError, TrainingError
from lavie.evaluation.ablation import run as running
from lavie.evaluation.ablation.configs import BASE, Sizes, jobs
from lavie.evaluation.ablation.plan import RenderedSet
from lavie.evaluation.ablation.results import append, read
from lavie.evaluation.ablation.run import LOG, measure, run
from lavie.evaluation.ablation.tables import TABLE7
from lavie.files import sha256_of
from lavie.run_folder import METRICS, checkpoint_folder
from tests.evaluation.ablation.made_up import result

SMALL = replace(
    TABLE7,
    sets={"clips": RenderedSet(clips=12, images=6, size=1.0, options={"travel": (0.2, 0.3)})},
    draws={name: replace(draw, cases=draw.cases[:2], times=1) for name, draw in TABLE7.draws.items()},
)
SIZES = Sizes(
    find_config(BASE),
    steps=40,
    overrides=(
        "data.num_frames=4",
        "data.num_workers=0",
        "train_batch_size=2",
        "model.block_out_channels=[32,32]",
        "model.num_attention_heads=1",
        "sampling.num_inference_steps=2",
    ),
)


def stop_after(folder: Path, steps: int) -> None:
    """Ask the training in a folder to stop when it has done so many steps."""
    metrics = folder / METRICS
    while not metrics.exists() or len(metrics.read_text().splitlines()) < steps:
        time.sleep(0.01)
    (process,) = re.findall(r"process (\d+)", (folder / "run.lock").read_text())
    os.kill(int(process), signal.SIGUSR2)


@pytest.mark.slow
def test_forty_steps_of_an_arm(tmp_path):
    told = []
    rope, absolute = jobs(SMALL, SIZES, tmp_path, [3])

    # A training that is asked to stop says so, and leaves no result.
    thread = threading.Thread(target=stop_after, args=(rope.folder, 5))
    thread.start()
    with pytest.raises(TrainingError, match="asked to stop"):
        run(SMALL, SIZES, tmp_path, [3], tell=told.append)
    thread.join()
    assert not (tmp_path / "results.jsonl").exists()

    # The same command goes on with it, does the other arm, and has a line for each.
    results = run(SMALL, SIZES, tmp_path, [3], tell=told.append)
    assert f"resumed from {rope.folder}/checkpoint-" in (rope.folder / LOG).read_text()
    steps = [json.loads(line)["step"] for line in (rope.folder / METRICS).read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 41))
    assert [(r.arm, r.seed, r.steps, r.config_hash) for r in results] == [
        ("rope", 3, 40, rope.config_hash),
        ("absolute", 3, 40, absolute.config_hash),
    ]
    assert {r.settings_hash for r in results} == {rope.settings_hash} != {""}
    for job, found in zip((rope, absolute), results, strict=True):
        checkpoint = checkpoint_folder(job.folder, 40)
        weights = checkpoint / "unet/diffusion_pytorch_model.safetensors"
        assert found.weights_sha256 == sha256_of(weights)
        assert found.values["validation_loss"] > 0 and found.values["ms_per_step"] > 0
        assert {f"validation_loss_t{t}" for t in (125, 375, 625, 875)} < found.values.keys()
        assert {len(scores) for scores in found.scores.values()} == {2}
        # What is drawn depends on the seed alone: the same samples again.
        assert measure(SMALL, checkpoint, 4) == found.scores
    assert results[0].weights_sha256 != results[1].weights_sha256

    # What is done is not done again, and other sizes do not mix with it.
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run(SMALL, SIZES, tmp_path, [3], tell=told.append) == results
    assert told[-2:] == ["table7 1/2: rope, seed 3: done before", "table7 2/2: absolute, seed 3: done before"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(ConfigError, match=r"results\.jsonl holds table7, arm rope, seed 3, of other settings"):
        run(SMALL, replace(SIZES, steps=41), tmp_path, [3], tell=told.append)


@pytest.mark.parametrize("old", (False, True))
def test_results_of_other_settings_are_not_mixed_with_though_their_arm_is_not_run(tmp_path, old):
    """One arm has its results of 40 steps; the other one is asked for with 41."""
    rope, _ = jobs(SMALL, SIZES, tmp_path, [0])
    hashes = {"config_hash": rope.config_hash, "settings_hash": "" if old else rope.settings_hash}
    append(tmp_path / "results.jsonl", result("rope", 0, **hashes))
    with pytest.raises(ConfigError, match=r"arm rope, seed 0, of other settings .* another OUT for other steps"):
        run(SMALL, replace(SIZES, steps=41), tmp_path, [0], arms=["absolute"], tell=print)
    # What has all its results is not rendered either.
    assert run(SMALL, SIZES, tmp_path, [0], arms=["rope"], tell=print) == read(tmp_path / "results.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_of_two_calls_at_once_one_renders_and_the_other_waits(tmp_path, monkeypatch):
    rendered = []

    def slowly(out, **options):
        out.mkdir(parents=True)
        (out / "half").touch()
        time.sleep(0.3)
        (out / "half").rename(out / "whole")
        rendered.append(out)

    monkeypatch.setattr(running, "demo_set", slowly)
    threads = [
        threading.Thread(target=running._render, args=(SMALL, SIZES, tmp_path, {"clips"}, lambda text: None))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [folder] = [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
    assert len(rendered) == 1 and [path.name for path in folder.iterdir()] == ["whole"]


def test_unknown_arms_are_named(tmp_path):
    with pytest.raises(ConfigError, match="--arms 'ropes': table7 has rope, absolute"):
        run(SMALL, SIZES, tmp_path, [0], arms=["ropes"], tell=print)


def test_a_training_that_fails_shows_its_log(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no GPU at all\nexit 200\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(running, "demo_set", lambda out, **options: out.mkdir(parents=True))
    with pytest.raises(TrainingError, match=r"exit code 200; its log ends:\nno GPU at all"):
        run(SMALL, SIZES, tmp_path, [0], tell=lambda text: None)
