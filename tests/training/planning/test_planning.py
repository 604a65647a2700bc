"""The plan as a whole: its text, its picture, the tables of the pages, and what it chooses."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lavie.cli.main import app
from lavie.config.load import load_config
from lavie.models.live_bytes import GIB
from lavie.training.deepspeed import resolve_json
from lavie.training.memory import memory_of
from lavie.training.planning.choice import at, choices, fewest_gpus, stages, with_stage
from lavie.training.planning.forecast import Cluster, forecast
from lavie.training.planning.hardware import GPUS, NETWORKS
from lavie.training.planning.report import efficiency, memory_table, scaling

ROOT = Path(__file__).resolve().parents[3]
SMOKE = "configs/smoke/base.yaml"
CLUSTER = Cluster(GPUS["h100"], NETWORKS["eth100"], 2, 4)


@pytest.fixture
def smoke(monkeypatch):
    """The run of the demo, in the dtype of GPUs, and DeepSpeed's settings for eight of them."""
    monkeypatch.chdir(ROOT)
    config = load_config(SMOKE, ["mixed_precision=bf16"])
    settings = resolve_json("configs/zero3.json", config, 8)
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # else so small a network is never shared
    return config, settings


def test_the_command_prints_a_plan_and_draws_it(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    png = tmp_path / "plan.png"
    options = ["--nodes", "2", "--gpus-per-node", "4", "--gpu", "4090", "--network", "eth100", "--out", str(png)]
    done = CliRunner().invoke(app, ["plan", SMOKE, *options])
    assert done.exit_code == 0, done.output
    for heading in ("memory of a GPU", "time of a step", "by ZeRO stage", "scaling: ", "checkpoints", "advice"):
        assert f"# {heading}" in done.output
    assert "An estimate" in done.output
    assert "24 GB: " in done.output
    assert re.search(r"^ 1024 ", done.output, re.M)
    assert re.search(r"(host|network|compute)-bound", done.output)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert CliRunner().invoke(app, ["plan", SMOKE, *options]).exit_code != 0  # the picture lies there


def test_weights_are_whole_only_where_a_stage_keeps_them(smoke):
    """Stage 3 holds a share, and gathers the rest: both count at the peak."""
    config, settings = smoke
    memory = memory_of(config, settings, 8)
    total = sum(memory.moments["backward"][name] for name in ("gathered weights", "weights being gathered"))
    whole = memory_of(config, with_stage(settings, 2), 8).held["weights"]
    assert memory.held["weights"] == pytest.approx(whole / 8)
    assert whole <= total <= 2 * whole


def test_more_ranks_never_go_faster_each(smoke):
    config, settings = smoke
    for rows in scaling(config, settings, CLUSTER).values():
        shares = efficiency(rows)
        assert max(shares) == 1
        assert rows[-1][0] == 1024
        assert rows[-1][1].sent >= rows[1][1].sent > 0
        assert rows[0][1].sent == rows[0][1].sent_once == 0


def test_weights_within_a_node_spare_the_network(smoke):
    """hpZ keeps gathers of the backward pass in the node, MiCS all of them; both hold more."""
    config, settings = smoke
    settings["zero_optimization"] |= {"stage3_max_reuse_distance": 0, "stage3_prefetch_bucket_size": 0}
    _, _, plain, hpz, mics = stages(config, settings, CLUSTER)
    assert mics.time.sent < hpz.time.sent < plain.time.sent
    assert plain.memory.states < hpz.memory.states
    assert plain.memory.states < mics.memory.states


def test_every_choice_takes_the_same_clips(smoke):
    config, settings = smoke
    clips = config.train_batch_size * config.gradient_accumulation_steps
    found = list(choices(config, settings, CLUSTER))
    assert len({way.name for way in found}) == len(found) > 4
    for way in found:
        assert way.time.clips * way.time.micro_batches == clips
        assert way.time == forecast(way.config, way.settings, CLUSTER)


def test_the_fewest_gpus_are_those_on_which_it_fits(smoke):
    config, settings = smoke
    assert fewest_gpus(config, settings, CLUSTER) == 1
    tiny = CLUSTER._replace(gpu=CLUSTER.gpu._replace(gigabytes=1e-3))
    assert fewest_gpus(config, settings, tiny) is None
    assert at(CLUSTER, 2).ranks == 2
    assert (at(CLUSTER, 16).nodes, at(CLUSTER, 16).gpus_per_node) == (4, 4)


@pytest.mark.slow
def test_the_pages_have_the_memory_that_is_planned(monkeypatch):
    """docs/training.md's table line by line, and the numbers that README and the configs quote from it."""
    monkeypatch.chdir(ROOT)
    config = load_config("configs/base.yaml", ["train_batch_size=1", "gradient_checkpointing=true"])
    settings = resolve_json("configs/zero3.json", config, 8)
    table = memory_table(config, settings, (1, 8, 16, 32, 64))
    assert "\n".join(table) in (ROOT / "docs/training.md").read_text()

    alone = resolve_json("configs/zero2.json", config, 1)
    on_cpu = config.model_copy(update={"ema_device": "cpu"})
    peaks = [memory_of(c, alone, 1).peak / GIB for c in (config, on_cpu)]
    assert f"One GPU alone holds {peaks[0]:.1f} GiB at its peak" in (ROOT / "README.md").read_text()
    assert f"{peaks[1]:.1f} with `ema_device=cpu`" in (ROOT / "README.md").read_text()
    eight = [memory_of(config, with_stage(settings, stage), 8).peak / GIB for stage in (3, 2)]
    quoted = " ".join((ROOT / "configs/base.yaml").read_text().replace("#", "").split())
    assert "{:.1f} GiB at ZeRO-3 on 8 GPUs and {:.1f} at ZeRO-2".format(*eight) in quoted
