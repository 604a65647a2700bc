"""Samples measured while a run trains: what is told, and that the training does not notice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavie.config.load import validate
from lavie.config.train import TrainConfig
from lavie.data.shards.index import load_index
from lavie.errors import CheckpointError, ConfigError
from lavie.evaluation.during import TrainingMeasure
from lavie.evaluation.fvd.distance import frechet, mmd
from lavie.testing import run_distributed
from lavie.training.trainer import Trainer
from tests.evaluation.tiny_clip import WORDS, write_clip
from tests.training.fixtures import rendered
from tests.training.runs import deepspeed_json, losses, make_config, records, weight_hashes

__all__ = ["rendered"]
STEPS = 4


class Own(torch.nn.Module):
    """Three numbers of a clip."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        moved = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=[1, 2, 3, 4])
        return torch.stack([x.mean(dim=[1, 2, 3, 4]), x.flatten(1).std(dim=1), moved], dim=1)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.pt"
    torch.jit.save(torch.jit.script(Own()), path)
    return path


def make(rendered, output, **changes):
    data = {"validation": str(rendered / "validation")}
    sampling = {"num_inference_steps": 2, "guidance_scale": 1.0}
    values = dict(max_train_steps=STEPS, validation_batches=1, data=data, sampling=sampling)
    return make_config(rendered, output, **values | changes)


def train_measured(config: TrainConfig, settings: Path) -> None:
    """Train as lavie/train.py does."""
    measure = TrainingMeasure(config) if config.eval.steps else None
    with Trainer(config, settings, measure=measure) as trainer:
        assert trainer.fit()


@pytest.mark.slow
def test_the_training_does_not_notice_and_two_ranks_measure_what_one_does(rendered, own, tmp_path):
    settings = deepspeed_json(tmp_path, 3)
    measured = {"eval": {"steps": 2, "num_clips": 8, "extractor": str(own)}}
    plain = make(rendered, tmp_path / "plain")
    watched = make(rendered, tmp_path / "watched", **measured)
    alone = make(rendered, tmp_path / "alone", train_batch_size=4, **measured)
    run_distributed(train_measured, 2, plain, settings)
    run_distributed(train_measured, 2, watched, settings)
    run_distributed(train_measured, 1, alone, settings)
    assert losses(watched) == losses(plain)
    assert weight_hashes(watched, STEPS) == weight_hashes(plain, STEPS)

    found, one = ([r for r in records(config) if "eval_kvd" in r] for config in (watched, alone))
    assert [r["step"] for r in found] == [2, 4]
    for a, b in zip(found, one, strict=True):
        assert a["eval_clips"] == b["eval_clips"] == 8
        assert a["eval_motion"] > 0 and a["eval_motion_held_out"] > 0
        for key in ("eval_fvd", "eval_kvd", "eval_motion", "eval_motion_held_out"):
            assert a[key] == pytest.approx(b[key], rel=1e-3), key


def test_held_out_clips_are_at_no_distance_from_themselves(rendered, own, tmp_path, monkeypatch):
    config = make(rendered, tmp_path / "run", eval={"steps": 1, "num_clips": 8, "extractor": str(own)})
    measure = TrainingMeasure(config)
    measure._real = measure._held_out()
    seen = []

    def clip_of(self, prompts, *, indices, **settings):
        seen.append((*prompts, *indices))
        generator = np.random.default_rng(len(seen))
        return generator.integers(0, 256, (1, 4, 32, 32, 3), np.uint8)

    monkeypatch.setattr("lavie.evaluation.during.TextToVideo.__call__", clip_of)
    from types import SimpleNamespace

    parts = SimpleNamespace(autoencoder=None, text_encoder=None, schedule=None)
    found = measure(None, parts)
    assert len({caption for caption, _ in seen}) > 1 and len({index for _, index in seen}) == 8
    frames = [np.random.default_rng(n + 1).integers(0, 256, (1, 4, 32, 32, 3), np.uint8)[0] for n in range(8)]
    motion = np.mean([np.abs(np.diff(f.astype(float), axis=0)).mean() for f in frames])
    assert found["eval_motion"] == pytest.approx(motion)
    fake = np.concatenate([measure._row(f, "x").features[None] for f in frames])
    assert found["eval_fvd"] == pytest.approx(frechet(measure._real.features, fake))
    assert found["eval_kvd"] == pytest.approx(mmd(measure._real.features, fake))
    assert json.dumps(found)


@pytest.mark.parametrize(
    "changes, words",
    (
        ({"steps": 5}, "set weights .I3D., extractor or clip"),
        ({"steps": 5, "weights": "a", "extractor": "b"}, "give one of them"),
        ({"steps": 5, "weights": "a", "num_clips": 7}, "num_clips"),
    ),
)
def test_a_section_that_measures_nothing_is_refused(rendered, tmp_path, changes, words):
    values = make(rendered, tmp_path / "run").model_dump(mode="json") | {"eval": changes}
    with pytest.raises(ConfigError, match=words):
        validate(TrainConfig, values, "run.yaml")


def test_a_run_without_held_out_clips_has_nothing_to_compare_with(rendered, tmp_path, own):
    values = make(rendered, tmp_path / "run").model_dump(mode="json")
    values |= {"eval": {"steps": 5, "extractor": str(own)}, "data": values["data"] | {"validation": []}}
    with pytest.raises(ConfigError, match=r"eval.steps is set: it needs stage base and data\.validation"):
        validate(TrainConfig, values, "run.yaml")


def test_what_cannot_measure_is_told_before_anything_trains(rendered, tmp_path):
    with pytest.raises(ConfigError, match=r"eval.weights is nowhere: no such file"):
        TrainingMeasure(make(rendered, tmp_path / "run", eval={"steps": 5, "num_clips": 8, "weights": "nowhere"}))
    config = make(rendered, tmp_path / "run", eval={"steps": 5, "num_clips": 8, "weights": __file__})
    with pytest.raises(CheckpointError, match=r"no I3D as a .safetensors"):
        TrainingMeasure(config)


def test_more_clips_than_are_held_out_are_refused(rendered, own, tmp_path):
    """Rather than that some count twice."""
    there = len(load_index([str(rendered / "validation")]).videos)
    section = {"steps": 5, "extractor": str(own)}
    TrainingMeasure(make(rendered, tmp_path / "run", train_batch_size=1, eval=section | {"num_clips": there}))
    config = make(rendered, tmp_path / "run", train_batch_size=there - 1, eval=section | {"num_clips": there})
    words = f"eval.num_clips is {there}, in whole batches {2 * there - 2}: data.validation has {there} clips"
    with pytest.raises(ConfigError, match=words):
        TrainingMeasure(config)


class Frames(torch.nn.Module):
    """A module of frames, which takes no clips."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=[2, 3])


def test_an_extractor_that_takes_no_clips_is_told_before_anything_trains(rendered, tmp_path):
    torch.jit.save(torch.jit.script(Frames()), tmp_path / "frames.pt")
    config = make(
        rendered, tmp_path / "run", eval={"steps": 5, "num_clips": 8, "extractor": str(tmp_path / "frames.pt")}
    )
    state = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"frames\.pt gave \(1, 3, 224\) for \(1, 3, 4, 224, 224\)"):
        TrainingMeasure(config)
    assert torch.equal(torch.get_rng_state(), state)


def test_clipsim_is_the_mean_cosine_of_transformers(rendered, tmp_path):
    from transformers import CLIPImageProcessor, CLIPModel

    write_clip(tmp_path / "clip")
    config = make(rendered, tmp_path / "run", eval={"steps": 1, "num_clips": 8, "clip": str(tmp_path / "clip")})
    measure = TrainingMeasure(config)
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    found = measure._row(frames, "ab")
    model = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32)
    pixels = processor([Image.fromarray(f) for f in frames], return_tensors="pt").pixel_values
    ids = torch.tensor([[WORDS.index(w) for w in ("<|startoftext|>", "a", "b</w>", "<|endoftext|>")]])
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=pixels)
    cosine = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds).mean()
    assert found.cosine == pytest.approx(float(cosine), abs=1e-5)
    assert found.features.size == 0 and found.motion > 0

    real = measure._held_out()
    assert real.cosine.shape == (8,) and real.cosine.std() > 0
