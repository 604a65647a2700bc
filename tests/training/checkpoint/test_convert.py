"""Checkpoints of the layout before become checkpoints of this one, bit for bit, and nothing in them is run."""

import json
import os
import pickle
import shutil
from contextlib import suppress
from pathlib import PosixPath

import pytest
import torch
from safetensors import safe_open

from lavie.cli import main as cli
from lavie.errors import CheckpointError
from lavie.manifest import damage, read_manifest
from lavie.testing import run_distributed
from lavie.training.checkpoint import convert as module
from lavie.training.checkpoint.convert import convert
from lavie.training.checkpoint.find import find
from tests.training.checkpoint.old import STEPS, resave, save_both
from tests.training.checkpoint.states import state_of
from tests.training.runs import MODEL, deepspeed_json
from tests.training.runs import make_config as config_of

BF16 = {"mixed_precision": "bf16", "trainable": "temporal"}
FP16 = {"mixed_precision": "fp16"}
CASES = (
    *((1, stage, BF16) for stage in (0, 1, 2, 3)),
    *((2, stage, {}) for stage in (0, 1, 2, 3)),
    *((2, 0, BF16), (2, 2, BF16), (2, 3, BF16), (2, 1, FP16), (2, "3-groups", FP16)),
)
"""Ranks, ZeRO stage and what else the config says."""
NAME = f"checkpoint-{STEPS}"


def make_config(*places, **changes):
    """Return a config as of other tests, of a network of one level."""
    return config_of(*places, model=MODEL | {"block_out_channels": (8,), "cross_attention": (True,)}, **changes)


def name_of(ranks, stage, changes):
    return f"{ranks}-{stage}-{changes.get('mixed_precision', 'fp32')}"


def settings_of(root, stage):
    """Return the path of DeepSpeed's settings; "3-groups" is stage 3 in several groups of parameters."""
    if stage != "3-groups":
        return deepspeed_json(root, stage)
    settings = json.loads(deepspeed_json(root, 3).read_text())
    settings["zero_optimization"]["sub_group_size"] = 2_000
    path = root / "groups.json"
    path.write_text(json.dumps(settings))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run RANKS-STAGE-DTYPE for each case, as `save_both` leaves it."""
    root = tmp_path_factory.mktemp("runs")
    for ranks in (1, 2):
        cases = [
            (make_config(root, root / name_of(*case), **case[2]), settings_of(root, case[1]))
            for case in CASES
            if case[0] == ranks
        ]
        run_distributed(save_both, ranks, cases)
    return root


@pytest.fixture
def old(runs, tmp_path):
    """Return a function of the name of a run, which copies its old checkpoint into a run of its own."""

    def copy(name):
        shutil.copytree(runs / name / "old" / NAME, tmp_path / name / NAME)
        return tmp_path / name / NAME

    return copy


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: name_of(*case))
def test_every_value_is_what_a_save_would_have_written(runs, old, case):
    folder, new = old(name_of(*case)), runs / name_of(*case) / NAME
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    kept = convert(folder)
    assert kept == folder.parent / f".{NAME}.old-layout"
    assert {path.name: path.read_bytes() for path in kept.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in folder.parent.iterdir()) == [kept.name, NAME]

    manifest, wanted = read_manifest(folder), read_manifest(new)
    assert damage(folder, manifest) is None
    for values in (manifest, wanted):
        values.pop("nonce"), values.pop("files")
    assert manifest == wanted
    assert manifest["skipped_steps"] == (case[2] == FP16)
    assert ("loss_scaler" in manifest) == (case[2] == FP16)
    got, expected = state_of(folder), state_of(new)
    assert got.keys() == expected.keys()
    assert any(name.startswith("exp_avg_sq/") for name in got)
    assert all(torch.equal(got[name], value) for name, value in expected.items())

    # Every rank has what it would have written itself.
    for path in new.glob("state/*"):
        with safe_open(path, framework="pt") as own, safe_open(folder / "state" / path.name, framework="pt") as made:
            assert json.loads(own.metadata()["ranges"]) == json.loads(made.metadata()["ranges"])


@pytest.mark.slow
def test_other_ranks_and_stages_load_what_was_converted(runs, old, tmp_path):
    cases, new = [], []
    for name, stage in (("2-3-bf16", 2), ("2-2-bf16", 3), ("1-0-bf16", 3), ("2-0-fp32", 1), ("2-1-fp32", 0)):
        folder = old(name)
        convert(folder)
        changes = BF16 if "bf16" in name else {}
        config = make_config(tmp_path, tmp_path / f"{name}-again", **changes, resume_from_checkpoint=str(folder))
        cases.append((config, deepspeed_json(tmp_path, stage)))
        new.append(runs / name / NAME)
    run_distributed(resave, 1, cases[:2] + cases[3:])
    run_distributed(resave, 2, cases[2:3])
    for (config, _), wanted in zip(cases, new, strict=True):
        got, expected = state_of(f"{config.output_dir}/{NAME}"), state_of(wanted)
        assert got.keys() == expected.keys()
        assert all(torch.equal(got[name], value) for name, value in expected.items())


class Evil:
    """Makes the file `canary` where it is unpickled."""

    def __init__(self, canary, how=os.system):
        self._call = (how, (f"touch {canary}" if how is os.system else f"open({str(canary)!r}, 'w')",))

    def __reduce__(self):
        return self._call


def spoil(path, kind, canary):
    """Let a file of DeepSpeed hold code."""
    content = torch.load(path, weights_only=False)
    match kind:
        case "added":
            torch.save(content | {"zz": Evil(canary)}, path)
        case "legacy":
            torch.save(content | {"zz": Evil(canary)}, path, _use_new_zipfile_serialization=False)
        case "raw":
            path.write_bytes(pickle.dumps(Evil(canary)))
        case "eval":
            torch.save(content | {"ds_config": Evil(canary, eval)}, path)
        case "scaler":
            content["optimizer_state_dict"]["loss_scaler"].cur_scale = Evil(canary, exec)
            torch.save(content, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "file, kind",
    (
        ("mp_rank_00_model_states.pt", "added"),
        ("mp_rank_00_model_states.pt", "legacy"),
        ("mp_rank_00_model_states.pt", "raw"),
        ("mp_rank_00_model_states.pt", "eval"),
        ("zero_pp_rank_1_mp_rank_00_optim_states.pt", "added"),
        ("zero_pp_rank_1_mp_rank_00_optim_states.pt", "legacy"),
        ("zero_pp_rank_1_mp_rank_00_optim_states.pt", "raw"),
        ("zero_pp_rank_0_mp_rank_00_optim_states.pt", "scaler"),
    ),
)
def test_code_in_a_pickle_is_refused_and_never_run(old, tmp_path, monkeypatch, capsys, file, kind):
    folder, canary = old("2-2-fp32"), tmp_path / "canary"
    spoil(folder / "state" / file, kind, canary)
    with suppress(RuntimeError):  # a bare pickle runs, and is no file of torch
        torch.load(folder / "state" / file, weights_only=False)
    assert canary.exists()  # the trap works where anything is unpickled
    canary.unlink()
    before = sorted(folder.parent.iterdir())
    monkeypatch.setattr("sys.argv", ["lavie", "checkpoint", "convert", str(folder)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    [line] = capsys.readouterr().err.splitlines()
    assert f"{folder}/state/{file}: " in line
    assert "Nothing in it was run" in line
    name = {"added": "posix.system", "eval": "holds eval", "scaler": "holds exec"}.get(kind, "wanted a zip archive")
    assert name in line
    assert not canary.exists()
    assert sorted(set(folder.parent.iterdir()) - {folder.parent / "run.lock"}) == before


@pytest.mark.slow
def test_what_is_damaged_or_of_another_checkpoint_is_refused_and_left_as_it_was(old, monkeypatch):
    folder = old("2-3-fp32")
    state, manifest = folder / "state", json.loads((folder / "checkpoint.json").read_text())
    optimizer = "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    whole = (state / optimizer).read_bytes()

    def edit(change):
        content = torch.load(state / optimizer, weights_only=False)
        change(content["optimizer_state_dict"])
        torch.save(content, state / optimizer)

    def refused(words, restore=optimizer):
        before = sorted(path.name for path in folder.parent.iterdir())
        with pytest.raises(CheckpointError, match=words):
            convert(folder)
        assert sorted(path.name for path in folder.parent.iterdir()) == before
        (state / restore).write_bytes(whole)

    edit(lambda saved: saved["optimizer_state_dict"]["state"][0].update(step=torch.tensor(7.0)))
    refused(r"AdamW has made 2 and 7 updates, and 2 of 2 steps were not skipped")
    edit(lambda saved: saved["optimizer_state_dict"]["state"].clear())
    refused(r"some moments are not whole")
    edit(lambda saved: saved["fp32_flat_groups"].__setitem__(0, torch.zeros(5)))
    refused(r"is no state of DeepSpeed: ValueError: weights of .* is too short")
    edit(lambda saved: saved["fp32_flat_groups"].__setitem__(0, saved["fp32_flat_groups"][0].double()))
    refused(r"is no float32 tensor")
    edit(lambda saved: saved.pop("fp32_flat_groups"))
    refused(r"is no state of DeepSpeed: KeyError: 'fp32_flat_groups'")
    (state / optimizer).write_bytes(whole[: len(whole) // 2])
    refused(rf"{optimizer}: damaged, or no file of DeepSpeed")
    (state / optimizer).unlink()
    refused(rf"{optimizer}: is missing")
    (folder / "checkpoint.json").write_text(json.dumps(manifest | {"world_size": 3}))
    refused(r"is of step 2 by 2 ranks, and checkpoint.json says step 2 by 3")
    (folder / "checkpoint.json").write_text(json.dumps(manifest | {"step": 3}))
    refused(r"holds step 3: rename it to checkpoint-3")
    (folder / "checkpoint.json").write_text(json.dumps(manifest))

    # A disk that is full, foreseen or not.
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("", (), {"free": 5}))
    refused(r"converting needs [\d,]+ bytes, and .* has 5 free")
    monkeypatch.undo()
    monkeypatch.setattr(module, "write_manifest", lambda *values: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        convert(folder)
    assert [path.name for path in folder.parent.iterdir()] == [NAME]
    monkeypatch.undo()
    convert(folder)


@pytest.mark.slow
def test_the_command_converts_a_run_once(old, monkeypatch, capsys):
    folder = old("2-1-fp16")

    def lavie(*words):
        monkeypatch.setattr("sys.argv", ["lavie", "checkpoint", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, "".join(capsys.readouterr())

    run, other = folder.parent, folder.parent / "checkpoint-9"
    other.mkdir()
    assert lavie("verify", run)[0] == 1
    code, told = lavie("convert", run)
    assert code == 1  # checkpoint-9 is damaged
    assert "DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address" in told
    assert f"CheckpointError: {other}: checkpoint.json is missing" in told
    assert f"delete {run}/.{NAME}.old-layout when a run has gone on" in told
    other.rmdir()
    code, told = lavie("verify", run)
    assert code == 0
    assert f"{folder}: whole\n" in told
    assert f"{run}/.{NAME}.old-layout: the layout of before, without hashes: kept by convert" in told
    assert lavie("convert", run) == (0, f"nothing to convert: no checkpoint in {run} has the layout of before\n")

    # Another old one in its place: the one that is kept is not replaced without a word.
    shutil.rmtree(folder)
    shutil.copytree(run / f".{NAME}.old-layout", folder)
    assert "which an earlier conversion has kept: delete it, or say --overwrite" in lavie("convert", folder)[1]
    assert lavie("convert", folder, "--overwrite")[0] == 0
    assert lavie("verify", folder)[0] == 0


class Unrenamable(PosixPath):
    """A path whose renaming ends the process."""

    def rename(self, target):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_conversion_that_is_killed_between_its_renames_loses_nothing(old, monkeypatch, tmp_path):
    folder = old("1-2-bf16")
    monkeypatch.setattr(module, "partial_of", lambda path: Unrenamable(path.with_name(f".{path.name}.partial")))
    with pytest.raises(KeyboardInterrupt):
        convert(folder)
    assert not folder.exists()
    config = make_config(tmp_path, folder.parent, **BF16, resume_from_checkpoint="auto")
    assert find(config, 2).folder == folder
    assert damage(folder, read_manifest(folder)) is None
