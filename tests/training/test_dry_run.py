"""The dry run tells the sizes, the memory and the data of a run, and what of it is elsewhere."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

import train
from lavie.config.load import load_config
from lavie.data.prepare.synthetic import demo_set
from lavie.errors import CheckpointError, LavieError
from lavie.models.unet import VideoUNet
from lavie.testing import run_distributed
from lavie.training.trainer import require_sources

pytestmark = pytest.mark.usefixtures("folder_of_configs")

SMOKE = "configs/smoke/base.yaml"
ABSENT = "not here, so not checked:"


def test_dry_run_tells_the_sizes(call, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    code, out = call(train.main, "--dry-run", SMOKE, "gradient_accumulation_steps=2")
    assert code is None
    assert "ranks: 4; global batch: 8 x 2 x 4 = 64 clips" in out
    count = sum(p.numel() for p in VideoUNet(load_config(SMOKE).model).parameters())
    assert f"parameters: {count:,}, of which {count:,} train (all)" in out
    assert '"train_batch_size": 64' in out
    assert '"stage": 3' in out
    assert "gradient_accumulation_steps: 2" in out
    assert "states in all:" in out
    monkeypatch.setenv("WORLD_SIZE", "two")
    code, out = call(train.main, "--dry-run", SMOKE)
    assert out == ""
    assert code.startswith("ConfigError: WORLD_SIZE is 'two'")


@pytest.mark.slow
def test_dry_run_of_the_full_size_needs_no_weights(call, monkeypatch):
    """The states by hand, per parameter: 12 bytes of optimizer, 4 of average, 2 of weights and 4 of added gradients."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    code, out = call(train.main, "--dry-run", "trainable=temporal")
    assert code is None
    total, trained = 909_124_100, 49_603_136  # the released networks' counts, less 16 rotary constants
    assert f"parameters: {total:,}, of which {trained:,} train (temporal)" in out
    for name, size in (
        ("weights", total * 2 / 8),
        ("optimizer (float32 master and two moments)", trained * 12 / 8),
        ("average", trained * 4 / 8),
        ("gradient buffers", trained * 4 / 8 + 200_000_000 * 2),
    ):
        assert f"{name}: {size / 2**30:.2f} GiB" in out
    assert "\n24 GB: " in out
    assert "RTX 4090 " in out
    assert f"a checkpoint: {(total * 4 + trained * 12) / 2**30:.2f} GiB on disk; 5 are kept" in out
    assert out.splitlines()[-1] == f"{ABSENT} pretrained_model_name_or_path weights/stable-diffusion-v1-4"


@pytest.mark.slow
def test_dry_run_plans_the_data_that_is_there(call, tmp_path):
    data, bucket = tmp_path / "data", "{num_frames: 4, height: 16, width: 16}"
    demo_set(data, clips=8, images=4, size=32, frames=8)
    mixed = f"data.train=[{{path: {data}/train, name: a}}, {{path: {data}/validation, name: b, weight: %s}}]"
    arguments = ["--dry-run", SMOKE, f"data.validation={data}/validation", "max_train_steps=50", "data.frame_stride=1"]
    code, out = call(train.main, *arguments, mixed % 3, f"data.buckets=[{bucket}]")
    assert code is None
    assert "not here" not in out
    rows = {tuple(line.split()[:2]): line for line in out.splitlines()}
    assert "25.0%" in rows["a", "videos"]
    assert "75.0%" in rows["b", "videos"]
    assert "100.0%" in rows["4x16x16", "videos"]
    assert "long caption: 0 of " in out and "have more than 5 words; the text encoder reads the first 5" in out
    assert "TFLOP per clip of 4x16x16 with its images" in out
    code, out = call(train.main, *arguments, mixed % "[[50, 0], [60, 1]]")
    assert out == ""
    assert code.startswith("ConfigError: dataset b is taken at none of the 50 steps")
    code, out = call(train.main, *arguments, mixed % 3, "data.num_frames=9")
    assert out == ""
    assert code.startswith(f"DataError: {data}/train: 8 of 8 videos hold no clip of 9 frames")
    code, out = call(train.main, *arguments, f"data.train={data}/train", "data.fps=8", "data.frame_stride=null")
    assert code is None
    assert "left out: nothing" in out


@pytest.mark.slow
def test_dry_run_says_which_data_is_elsewhere(call, tmp_path):
    demo_set(tmp_path, clips=4, images=4, size=32, frames=12)
    code, out = call(train.main, "--dry-run", SMOKE, "data.train=[nowhere/a, nowhere/b]", "data.validation=nowhere/c")
    assert code is None
    assert out.splitlines()[-2:] == [
        "not here, so not checked: data.train nowhere/a, nowhere/b",
        "not here, so not checked: data.validation nowhere/c",
    ]
    code, out = call(train.main, "--dry-run", SMOKE, f"data.train={tmp_path}/train", "data.validation=nowhere/c")
    assert code is None
    assert "epochs" in out
    assert out.splitlines()[-1].endswith("data.validation nowhere/c")
    added = ("add_difference.weights=nowhere/f", "add_difference.original=nowhere/g")
    cached = ("data.cuts=1", "data.cache=nowhere/d")
    code, out = call(train.main, "--dry-run", SMOKE, *cached, "init_weights=nowhere/e", *added)
    assert code is None
    assert out.splitlines()[-3:] == [
        f"{ABSENT} init_weights nowhere/e",
        f"{ABSENT} add_difference nowhere/f, nowhere/g",
        f"{ABSENT} data.cache nowhere/d",
    ]


def test_a_file_of_something_else_is_told_by_the_dry_run_and_by_the_start(call, tmp_path):
    torch.save({"unet:0:up": torch.zeros(4, 1)}, tmp_path / "lora.pt")
    told = "CheckpointError: .*lora.pt is a LoRA, which changes a checkpoint and is none .*: wanted "
    overrides = (f"init_weights={tmp_path}/lora.pt", "data.train=nowhere/a", "data.validation=[]")
    code, _ = call(train.main, "--dry-run", SMOKE, *overrides)
    assert re.match(told, code)
    config = load_config(SMOKE, overrides[:1])
    with pytest.raises(CheckpointError, match=r"lora.pt is a LoRA"):
        require_sources(config)
    added = (f"add_difference.weights={tmp_path}/gone", "add_difference.original=x")
    config = load_config(SMOKE, (f"init_weights={tmp_path}", *added))
    with pytest.raises(CheckpointError, match=r"add_difference.weights is .*gone: no such file or folder; wanted a"):
        require_sources(config)


@pytest.mark.parametrize(
    "override, module, message",
    (
        ("optimizer=adamw_8bit", "bitsandbytes", "ConfigError: optimizer is adamw_8bit, but the package bitsandbytes"),
        ("attention=flash-attn", "flash_attn", "KernelError: attention is flash-attn, but the package flash-attn is"),
        ("report_to=wandb", "wandb", "ConfigError: report_to names wandb, whose package cannot be imported"),
        ("sampling.num_inference_steps=1", None, "ConfigError: num_inference_steps: "),
    ),
)
def test_what_the_start_would_miss_is_told_by_the_dry_run_too(call, monkeypatch, override, module, message):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == module else find(name, *a))
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    code, out = call(train.main, "--dry-run", SMOKE, override)
    assert out == ""
    assert code.startswith(message)


def start(config, settings: str) -> str:
    """The error of a start. Runs inside a rank."""
    from lavie.training.trainer import Trainer

    with pytest.raises(LavieError) as error:
        Trainer(config, settings)
    return f"{type(error.value).__name__}: {error.value}"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_a_start_and_its_dry_run_say_the_same(call, tmp_path):
    overrides = ("attention=flash-attn", "validation_prompts=[]", f"output_dir={tmp_path}/run")
    code, _ = call(train.main, "--dry-run", SMOKE, *overrides)
    config = load_config(SMOKE, overrides)
    assert run_distributed(start, 1, config, str(Path("configs/zero3.json").resolve())) == [code.strip()]
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "override, key", (("kernels=triton", "kernels is triton"), ("attention=flash-attn", "attention is"))
)
def test_a_plan_without_a_gpu_for_a_run_that_needs_one(call, monkeypatch, override, key):
    """A cluster's login node has none. The packages are taken to be there."""
    find = importlib.util.find_spec
    spec = find("json")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: spec if name in ("triton", "flash_attn") else find(name, *a)
    )
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    code, out = call(train.main, "--dry-run", SMOKE, override)
    assert code is None
    assert out.splitlines()[-1].startswith(f"no GPU is here, and without one the run would not start: {key}")
