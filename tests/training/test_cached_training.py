"""Training from a cache is training online: the same inputs and losses, on any number of ranks and workers."""

import json
from pathlib import Path

import pytest
import torch

from lavie.config.train import TrainConfig
from lavie.data.prepare.synthetic import demo_set
from lavie.models.autoencoder import PatchAutoencoder
from lavie.models.text_encoder import HashTextEncoder
from lavie.models.unet import VideoUNet
from lavie.models.weights import save_network
from lavie.run_folder import MANIFEST
from lavie.testing import LOSS_RTOL, TOLERANCES, relative_error, run_distributed
from lavie.training.make_cache import cache_data
from lavie.training.objective import build_objective
from lavie.training.open_caches import open_caches
from lavie.training.optim import build_optimizer, learning_rate
from lavie.training.trainer import build_network
from tests.training.cached import (
    CPU,
    batches,
    cached,
    inputs,
    make_config,
    make_objective,
    with_cache,
    without_encoders,
)

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("kind", ("patch", "diffusers"))
def test_inputs_from_the_cache_are_those_of_online_training(rendered, pretrained, tmp_path, kind):
    config = make_config(rendered, pretrained if kind == "diffusers" else None)
    online = inputs(config)
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        other_seed = config.model_copy(update={"seed": 7})  # a cache serves runs of any seed
        from_cache = without_encoders(
            cached(other_seed, tmp_path / name, dtype=dtype).model_copy(update={"seed": 0}), 6
        )
        for a, b in zip(from_cache, online, strict=True):
            assert torch.equal(a.timestep, b.timestep)
            for field in ("sample", "target", "text"):
                got, expected = getattr(a, field), getattr(b, field)
                assert got.dtype == torch.float32
                assert got.shape == expected.shape
                assert relative_error(got, expected) <= TOLERANCES[dtype], (dtype, field)
                if kind == "patch" and dtype == torch.float32:
                    assert torch.equal(got, expected), field
    empty = make_objective(config).text_encoder([""])[0]
    dropped = torch.stack([(i.text == empty).all(-1).all(-1) for i in online])
    assert 0.1 < dropped.float().mean() < 0.6
    assert online[0].sample.shape[2] == 6


def test_the_noise_of_the_posterior_is_drawn_anew_at_each_visit(rendered, pretrained, tmp_path):
    config = cached(make_config(rendered, pretrained, data={"cuts": 1}), tmp_path, dtype=torch.float32)
    step, seen = make_objective(config), {}
    for batch in batches(config, 24):
        mean, std = step._posterior(batch)
        got = step.training_inputs(batch)  # its latents are solved for, from sample and target
        share = step.schedule.alphas_cumprod.double()[got.timestep].view(-1, 1, 1, 1, 1)
        latents = ((got.sample.double() - (1 - share).sqrt() * got.target.double()) / share.sqrt()).transpose(1, 2)
        for keys, t, row, m, s in zip(batch["keys"], got.timestep, latents, mean, std, strict=True):
            if t < 300:  # later, solving loses digits
                seen.setdefault(keys[0], []).append(((row - m) / s)[:4])
    noises = [torch.stack(visits) for visits in seen.values() if len(visits) > 1]
    assert len(noises) > 3
    assert all((a[0] - a[1]).abs().mean() > 0.5 for a in noises)
    everything = torch.cat([n.flatten() for n in noises])
    assert abs(float(everything.mean())) < 0.1
    assert float(everything.std()) == pytest.approx(1, abs=0.1)


def train(config: TrainConfig, settings: Path) -> list[float]:
    """The losses. Runs inside each rank."""
    from lavie.training.trainer import Trainer

    Trainer(config, settings).fit()
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def plain_online(config: TrainConfig) -> list[float]:
    """The losses of the same run in plain PyTorch, in this process, with the encoders."""
    step, network = make_objective(config), build_network(config)
    optimizer, losses = build_optimizer(network, config), []
    for index, inputs_of_step in enumerate(inputs(config, config.max_train_steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, index)
        loss = step.loss(network, inputs_of_step).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_losses_from_the_cache_are_those_of_online_training(rendered, pretrained, tmp_path):
    start, settings = tmp_path / "checkpoint-0", tmp_path / "zero.json"
    settings.write_text(json.dumps({"zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True}))
    config = make_config(rendered, pretrained, output_dir=str(tmp_path / "run"), init_weights=str(start))
    save_network(start / "unet", config.model, VideoUNet(config.model).state_dict())
    (start / MANIFEST).write_text(json.dumps({"step": 0}))
    run = with_cache(
        cached(config, tmp_path / "out", dtype=torch.float32), tmp_path / "out", validation=str(rendered / "validation")
    )
    got, _ = run_distributed(train, 2, run, settings)
    expected = plain_online(config)
    assert len(got) == 4
    assert got == pytest.approx(expected, rel=LOSS_RTOL)


@pytest.mark.parametrize("kind", ("patch", "diffusers"))
def test_processes_and_ranks_do_not_change_what_comes_from_the_cache(rendered, pretrained, tmp_path, kind):
    config = cached(make_config(rendered, pretrained if kind == "diffusers" else None), tmp_path, dtype=torch.bfloat16)
    whole = batches(config, 3)
    workers = batches(with_cache(config, tmp_path, num_workers=1), 3)
    halves = [batches(config, 3, train_batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    names = {"mean", "text"} | ({"std"} if kind == "diffusers" else set())
    for batch, other, *parts in zip(whole, workers, *halves, strict=True):
        assert set(batch) == names | {"captions", "positions", "keys", "dropped"}
        assert batch["keys"] == other["keys"] == parts[0]["keys"] + parts[1]["keys"]
        for name in names:
            assert batch[name].dtype == torch.bfloat16
            assert torch.equal(batch[name], other[name])
            assert torch.equal(batch[name], torch.cat([part[name] for part in parts]))


def test_interpolation_trains_from_a_cache(rendered, tmp_path):
    model = make_config(rendered).model.model_dump() | {"in_channels": 12}
    data = {"num_frames": 5, "num_images": 0}
    config = make_config(rendered, stage="interpolation", model=model, data=data, condition_noise_steps=50)
    run = cached(config, tmp_path, dtype=torch.float32)
    for a, b in zip(without_encoders(run, 3), inputs(config, 3), strict=True):
        assert torch.equal(a.low_res, b.low_res)
        assert torch.equal(a.sample, b.sample)


def test_every_bucket_has_a_cache(rendered, tmp_path):
    demo_set(tmp_path / "short", clips=20, images=0, size=24, frames=4)
    data = {
        "train": [str(rendered / "train"), str(tmp_path / "short" / "train")],
        "buckets": [{"num_frames": 3, "height": 16, "width": 16}, {"num_frames": 5, "height": 24, "width": 24}],
    }
    config = make_config(rendered, data=data)
    run = cached(config, tmp_path / "out", dtype=torch.float32)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"3x16x16", "5x24x24"}
    from_cache, online = without_encoders(run, 8), inputs(config, 8)
    assert {i.sample.shape[2:] for i in online} == {(5, 4, 4), (7, 6, 6)}
    for a, b in zip(from_cache, online, strict=True):
        assert torch.equal(a.sample, b.sample)
        assert torch.equal(a.target, b.target)
        assert torch.equal(a.text, b.text)
    again = cache_data(config, tmp_path / "out", device=CPU, dtype=torch.float32)
    assert again.kept == again.wanted
    assert not again.encoded


def test_encoders_are_on_the_device_only_while_something_encodes(rendered, tmp_path, monkeypatch):
    """Where they are is written down as they are moved: a device without memory stands for the GPU."""
    online, from_cache = make_config(rendered), cached(make_config(rendered), tmp_path, dtype=torch.float32)
    device, moves = torch.device("meta"), []
    for kind in (PatchAutoencoder, HashTextEncoder):
        monkeypatch.setattr(kind, "to", lambda module, place, *_: moves.append(place) or module)
    for config, start, end in ((online, device, device), (from_cache, CPU, CPU)):
        objective = build_objective(config, device, open_caches(config))
        assert moves == [start] * 2
        moves.clear()
        with objective.encoders_at_hand():
            assert set(moves) == {device}
        assert moves[-1] == end
        moves.clear()
