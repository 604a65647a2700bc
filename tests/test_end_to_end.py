"""The commands of README one after the other: pack or render, train on two ranks, sample, score, plot."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
from PIL import Image

from lavie.testing import SHARED, free_port
from tests.markers import requires_shared

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def call(*command: object) -> str:
    """Run a command at the checkout's root and return what it printed; it must succeed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def launcher():
    """The launcher of two ranks. What DeepSpeed leaves of them in shared memory goes afterwards: 66 MB each."""
    port = free_port()
    yield BIN / "deepspeed", "--num_gpus", 2, "--master_port", port
    for left in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
        left.unlink()


def train(launcher: tuple, output: Path, *overrides: str) -> list[dict]:
    """Train under ZeRO-3; the records of all steps."""
    smoke = ("train.py", "--deepspeed", "configs/zero3.json", "configs/smoke/base.yaml", f"output_dir={output}")
    call(*launcher, *smoke, "validation_batches=1", *overrides)
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if "loss" in r]


def frames_of(path: Path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


@pytest.mark.long
def test_render_train_sample_score_plot(launcher, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    call(BIN / "lavie", "data", "demo", data, "--clips", 20, "--images", 12, "--size", 32)
    overrides = [f"data.train={data}/train", f"data.validation={data}/validation", "max_train_steps=2"]
    assert [r["step"] for r in train(launcher, run, *overrides, "sampling.num_inference_steps=2")] == [1, 2]
    assert sorted(p.name for p in (run / "samples" / "step-000002").glob("*.mp4")) == [f"0000{i}.mp4" for i in range(4)]

    sample = (BIN / "lavie", "sample", "--checkpoint", run, "--prompt", "../../a red circle", "--steps", 3)
    call(*sample, "--out", tmp_path / "long", "--frames", 11, "--height", 32, "--scheduler", "dpm++", "--num", 2)
    assert {p.name for p in (tmp_path / "long").iterdir()} == {
        *(f"0000{i}{suffix}" for i in range(2) for suffix in (".mp4", ".gif", ".json", ".sheet.png")),
        "sheet.png",
        "prompts.jsonl",
    }
    assert frames_of(tmp_path / "long" / "00001.mp4") == 11
    sidecar = json.loads((tmp_path / "long" / "00001.json").read_text())
    assert sidecar["prompt"] == "../../a red circle"
    assert (sidecar["height"], sidecar["width"], sidecar["num_inference_steps"]) == (32, 24, 3)

    printed = call(BIN / "lavie", "score", "--checkpoint", run, "--out", tmp_path / "score", "--num", 1)
    scores = json.loads((tmp_path / "score" / "score.json").read_text())
    assert scores["clips"]["direction"]["count"] == 12 and scores["images"]["colour"]["count"] == 18
    assert "chance 17%" in printed and "chance 25%" in printed
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "2 of 2" in page and page.count("<video") == 4 and "Shares of the datasets: videos" in page
    call(BIN / "lavie", "report", run)
    call(BIN / "lavie", "plot", run)
    for picture in (tmp_path / "score" / "clips.png", tmp_path / "score" / "images.png", run / "losses.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 100


@requires_shared
@pytest.mark.long
def test_real_clips_train(launcher, tmp_path):
    for name in ("clips_16f", "images"):
        call(BIN / "lavie", "data", "pack", SHARED / "assets" / name, tmp_path / name, "--num-frames", 6)
    shards = f"data.train=[{tmp_path}/clips_16f,{tmp_path}/images]"
    run = tmp_path / "run"
    overrides = [shards, "data.validation=[]", "validation_prompts=[]", "data.num_workers=2"]
    overrides += ["max_train_steps=12", "lr_warmup_steps=2", "snr_gamma=1"]
    losses = [r["loss"] for r in train(launcher, run, *overrides)]
    assert len(losses) == 12 and sum(losses[-4:]) < sum(losses[:4])
    alone = ("env", f"MASTER_PORT={free_port()}", sys.executable)
    with pytest.raises(AssertionError, match="resume_from_checkpoint is latest"):
        train(alone, tmp_path / "other", *overrides, "resume_from_checkpoint=latest")
