"""The configs of the arms: they differ in what they say and in nothing else, and start alike."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lavie.config.shipped import find_config
from lavie.errors import ConfigError
from lavie.evaluation.ablation.configs import BASE, PLACES, Sizes, jobs, set_options
from lavie.evaluation.ablation.plan import Arm, RenderedSet
from lavie.evaluation.ablation.tables import ABLATIONS, FIG11, TABLE6, TABLE7, UNSEEN
from lavie.training.trainer import build_network

SIZES = Sizes(find_config(BASE), steps=120)


def flat(values, path=""):
    """The leaves of nested values by their dotted names."""
    if not isinstance(values, dict):
        return {path: values}
    return {k: v for key, part in values.items() for k, v in flat(part, f"{path}.{key}".strip(".")).items()}


def by_arm(ablation, seeds=(0,), sizes=SIZES):
    return {job.arm: job for job in jobs(ablation, sizes, Path("out"), seeds)}


@pytest.mark.parametrize(
    "ablation, arm, keys",
    (
        (TABLE6, "absolute", {"model.temporal_position"}),
        (TABLE6, "none", {"model.temporal_position"}),
        (TABLE6, "space_time", {"model.temporal_module"}),
        (TABLE7, "absolute", {"model.temporal_position"}),
    ),
)
def test_an_arm_changes_its_key_alone(ablation, arm, keys):
    made = by_arm(ablation)
    a, b = (flat(made[name].config.model_dump(mode="json")) for name in ("rope", arm))
    assert {key for key in a if a[key] != b[key]} - set(PLACES) == keys
    assert made["rope"].config.model.relative_bias is False
    assert made[arm].config.model.relative_bias is False


@pytest.mark.parametrize("ablation", (TABLE6, TABLE7), ids=lambda ablation: ablation.name)
def test_arms_start_from_the_same_weights(ablation):
    states = [build_network(job.config).state_dict() for job in by_arm(ablation).values()]
    other = build_network(by_arm(ablation, seeds=(1,))["rope"].config).state_dict()
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[name], states[0][name]) for name in state)
    assert not torch.equal(other["conv_in.weight"], states[0]["conv_in.weight"])


def test_arms_go_on_from_the_pretrained_one_of_their_seed():
    made = jobs(FIG11, SIZES, Path("out"), (3, 4))
    assert [(job.arm, job.seed) for job in made[:5]] == [*((arm, 3) for arm in FIG11.arms), ("pretrained", 4)]
    for job in made:
        start = job.config.init_weights
        assert (start is None) == (job.arm == "pretrained")
        if start:
            (parent,) = [other for other in made if str(other.folder) == start]
            assert (parent.arm, parent.seed) == ("pretrained", job.seed)
    config = by_arm(FIG11)["pretrained"].config
    assert (config.trainable, config.data.num_frames, config.data.moving_images) == ("spatial", 1, 1)
    assert [by_arm(FIG11)[arm].config.data.num_images for arm in ("video", "temporal", "joint")] == [0, 0, 1]


def test_steps_and_warm_up_follow_the_shares():
    made = by_arm(ABLATIONS["fig10"])
    assert {arm: job.config.max_train_steps for arm, job in made.items()} == {
        "pretrained": 120,
        "tuned": 20,
        "longer": 20,
    }
    assert [job.config.lr_warmup_steps for job in made.values()] == [12, 2, 2]
    assert all(job.config.validation_steps == job.config.max_train_steps for job in made.values())


def hashes(ablation, **changes):
    return {job.arm: job.config_hash for job in by_arm(ablation, **changes).values()}


def test_the_hash_is_of_what_decides_the_result():
    first = hashes(TABLE7)
    assert len(set(first.values())) == 2
    assert hashes(TABLE7, seeds=(5,)) == first
    for other in (
        hashes(TABLE7, sizes=replace(SIZES, steps=121)),
        hashes(TABLE7, sizes=replace(SIZES, draws=2)),
        hashes(TABLE7, sizes=replace(SIZES, overrides=("learning_rate=1e-3",))),
        hashes(replace(TABLE7, sets={"clips": RenderedSet(options={"travel": (0.1, 0.2)})})),
    ):
        assert all(other[arm] != first[arm] for arm in first)
    assert hashes(TABLE7, sizes=replace(SIZES, overrides=("data.num_workers=0",))) == first


def settings(ablation, **changes):
    [found] = {job.settings_hash for job in by_arm(ablation, seeds=(0, 5), **changes).values()}
    return found


def test_the_hash_of_the_settings_is_one_for_all_arms_and_of_what_they_have_in_common():
    first = settings(TABLE7)
    others = [
        settings(TABLE6),
        settings(TABLE7, sizes=replace(SIZES, steps=121)),
        settings(TABLE7, sizes=replace(SIZES, draws=2)),
        settings(TABLE7, sizes=replace(SIZES, overrides=("learning_rate=1e-3",))),
        settings(TABLE7, sizes=replace(SIZES, overrides=("lr_warmup_steps=3",))),
        settings(replace(TABLE7, common=())),
        settings(replace(TABLE7, sets={"clips": RenderedSet(options={"travel": (0.1, 0.2)})})),
    ]
    assert len({first, *others}) == 1 + len(others)
    assert settings(TABLE7, sizes=replace(SIZES, overrides=("data.num_workers=0",))) == first
    assert settings(replace(TABLE7, arms={**TABLE7.arms, "more": Arm("more", ("train_batch_size=1",))})) == first


@pytest.mark.parametrize(
    "override, words",
    (
        ("max_train_steps=5", "max_train_steps: .*sets this key itself: give --steps"),
        ("seed=3", "seed: .*sets this key itself: give --seeds"),
        ("data.fps=8", "data.fps: "),
        ("output_dir=x", "output_dir: "),
        ("model.relative_bias=true", "model.relative_bias: "),
    ),
)
def test_a_key_that_would_change_nothing_is_refused(override, words):
    with pytest.raises(ConfigError, match=f"--set {words}"):
        by_arm(TABLE7, sizes=replace(SIZES, overrides=(override,)))


def test_a_change_of_the_pretrained_arm_changes_those_behind_it():
    pretrained = replace(FIG11.arms["pretrained"], steps=0.25)
    changed = hashes(replace(FIG11, arms={**FIG11.arms, "pretrained": pretrained}))
    assert all(changed[arm] != other for arm, other in hashes(FIG11).items())


def test_other_runs_than_of_the_base_stage_are_refused():
    with pytest.raises(ConfigError, match="stage is interpolation"):
        jobs(TABLE7, Sizes(find_config("smoke/interpolation.yaml"), 10), Path("out"), (0,))


def test_sets_suit_the_config():
    config = by_arm(TABLE7)["rope"].config
    assert set_options(RenderedSet(), config) == {"clips": 800, "images": 240, "size": 64, "frames": 12}
    assert set_options(RenderedSet(size=1 / 3), config)["size"] == 8
    large = config.model_copy(update={"data": config.data.model_copy(update={"height": 96, "num_frames": 16})})
    assert (set_options(RenderedSet(), large)["size"], set_options(RenderedSet(), large)["frames"]) == (96, 32)


def test_clips_of_figure_11_lack_what_its_images_have():
    assert UNSEEN == ("magenta", "cyan")
    assert not set(UNSEEN) & set(FIG11.sets["clips"].options["video_colours"])
    assert {case[0] for case in FIG11.draws["images_unseen"].cases} == set(UNSEEN)
    assert len(FIG11.draws["clips_unseen"].cases) == 2 * 3 * 4


@pytest.mark.parametrize("ablation", ABLATIONS.values(), ids=lambda ablation: ablation.name)
def test_claims_are_of_what_there_is(ablation):
    made = by_arm(ablation)
    for claim in ablation.claims:
        assert {claim.arm, claim.other or claim.arm} <= made.keys()
        draw = claim.measure.rpartition(".")[0]
        assert draw in ablation.draws or (draw == "" and claim.measure in ("validation_loss", "ms_per_step"))
        if claim.measure == "validation_loss":
            assert made[claim.arm].config.data.validation
