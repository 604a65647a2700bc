"""Recorded steps: files that tell where the time went, of the ranks that were asked for, in a run that is as ever."""

import gzip
import json
import re
from contextlib import nullcontext

import pytest
import torch

from lavie.config.load import load_config
from lavie.testing import run_distributed
from lavie.training import profiling
from lavie.training.profiling import StepProfiler
from tests.training.runs import deepspeed_json, losses, make_config, train


@pytest.mark.slow
def test_a_recorded_run_is_as_ever_and_tells_where_its_time_went(rendered, tmp_path):
    """Two ranks under ZeRO-3 gather weights."""
    profile = {"start": 3, "steps": 2, "ranks": "all"}
    plain, recorded = (
        make_config(rendered, tmp_path / name, max_train_steps=5, **changes)
        for name, changes in (("plain", {}), ("recorded", {"profile": profile}))
    )
    for config in (plain, recorded):
        run_distributed(train, 2, config, deepspeed_json(tmp_path, 3))
    assert losses(recorded) == losses(plain)
    assert not (tmp_path / "plain/profile").exists()

    folder = tmp_path / "recorded/profile"
    names = {f"rank{rank}.{suffix}" for rank in (0, 1) for suffix in ("json.gz", "txt", "png")}
    assert {path.name for path in folder.iterdir()} == names
    for rank in (0, 1):
        text = (folder / f"rank{rank}.txt").read_text()
        assert text.startswith("2 steps, ")
        assert (folder / f"rank{rank}.png").read_bytes().startswith(b"\x89PNG")
        for part in ("wait for data", "inputs", "forward", "backward", "update", "average"):
            assert re.search(rf"^{part} +[\d.]+ +[\d.]+%", text, re.M), text
        gathers = re.search(r"^ZeRO gathers +[\d.]+ +[\d.]+% +([\d.]+)$", text, re.M)
        assert float(gathers[1]) > 0
    trace = json.loads(gzip.decompress((folder / "rank0.json.gz").read_bytes()))
    steps = [event for event in trace["traceEvents"] if event.get("name") == "run::step"]
    assert len(steps) >= 2


def small(tmp_path, **profile):
    return load_config("configs/smoke/base.yaml", [f"output_dir={tmp_path}"]).model_copy(
        update={"profile": load_config("configs/smoke/base.yaml").profile.model_copy(update=profile)}
    )


def test_nothing_is_done_where_nothing_is_asked_for(folder_of_configs, tmp_path):
    profiler = StepProfiler(small(tmp_path), torch.device("cpu"))
    with profiler.step(10):
        assert isinstance(profiler.phase("forward"), nullcontext)
    profiler.close()
    assert not list(tmp_path.iterdir())


def test_a_run_that_ends_within_the_recorded_steps_has_their_record(folder_of_configs, tmp_path):
    profiler = StepProfiler(small(tmp_path, start=2, steps=5), torch.device("cpu"))
    for step in (1, 2, 3):
        with profiler.step(step), profiler.phase("forward"):
            torch.ones(2).sum()
    profiler.close()
    profiler.close()
    text = (tmp_path / "profile/rank0.txt").read_text()
    assert text.startswith("2 steps, ")
    assert re.search(r"^aten::sum ", text, re.M)


def test_a_full_disk_costs_the_record_alone(folder_of_configs, tmp_path, monkeypatch, caplog):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(profiling, "draw_timeline", full)
    profiler = StepProfiler(small(tmp_path, start=1, steps=1), torch.device("cpu"))
    with profiler.step(1):
        torch.ones(2).sum()
    assert "cannot be written (No space left on device): the record is lost" in caplog.text
