"""DeepSpeed's files made by hand: what each rank's elements are, and that nothing runs while they are read."""

import os
import pickle
from contextlib import suppress

import pytest
import torch

from lavie.errors import CheckpointError
from lavie.training.checkpoint.old_layout import read_old_state

SHAPES = {"a": torch.Size([3]), "b": torch.Size([2, 2])}
MANIFEST = {"step": 4, "world_size": 2}


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint of two ranks under stage 3: `a` is 0, 1, 2 and `b` 10 to 13; 99 is padding. Moments are 100 more."""
    state = tmp_path / "state"
    state.mkdir()
    model = {
        "ds_config": {"zero_optimization": {"stage": 3}, "bf16": {"enabled": True}, "train_batch_size": 6},
        "global_steps": 4,
        "skipped_steps": 1,
        "dp_world_size": 2,
        "param_shapes": [{"a": SHAPES["a"]}, {"b": SHAPES["b"]}],
    }
    torch.save(model, state / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    for rank, groups in enumerate((([0.0, 1], [10.0, 11]), ([2.0, 99], [12.0, 13]))):
        flats = [torch.tensor(group) for group in groups]
        moments = [
            {"step": torch.tensor(3.0), "exp_avg": flat + 100, "exp_avg_sq": flat + 200, "other": None}
            for flat in flats
        ]
        optimizer = {
            "fp32_flat_groups": flats,
            "optimizer_state_dict": {"state": dict(enumerate(moments))},
            "loss_scaler": None,
        }
        torch.save({"optimizer_state_dict": optimizer}, state / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    return tmp_path


def test_every_element_is_found_by_its_rank_and_padding_is_left_out(checkpoint):
    ranks, about = read_old_state(checkpoint, MANIFEST, SHAPES)
    assert about == {
        "world_size": 2,
        "zero_stage": 3,
        "dtype": "bfloat16",
        "global_batch": 6,
        "optimizer_steps": 3,
        "skipped_steps": 1,
    }
    found = [
        (rank, piece.name, piece.start, *(piece.values[kind].tolist() for kind in ("weights", "exp_avg_sq")))
        for rank, pieces in enumerate(ranks)
        for piece in pieces
    ]
    assert found == [
        (0, "a", 0, [0, 1], [200, 201]),
        (0, "b", 0, [10, 11], [210, 211]),
        (1, "a", 2, [2], [202]),
        (1, "b", 2, [12, 13], [212, 213]),
    ]


@pytest.mark.parametrize(
    "shapes, manifest, words",
    (
        (SHAPES | {"c": torch.Size([1])}, {}, r"1 parameters, c among them, are not whole"),
        ({"a": SHAPES["a"]}, {}, r"b does not train by config.yaml"),
        (SHAPES | {"a": torch.Size([4])}, {}, r"1 parameters, a among them, are not whole"),
        (SHAPES, {"step": 2}, r"is of step 4 by 2 ranks, and checkpoint.json says step 2 by 2"),
        (SHAPES, {"world_size": 1}, r"is of step 4 by 2 ranks, and checkpoint.json says step 4 by 1"),
    ),
)
def test_what_does_not_belong_together_is_refused(checkpoint, shapes, manifest, words):
    with pytest.raises(CheckpointError, match=words):
        read_old_state(checkpoint, MANIFEST | manifest, shapes)


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, how, word):
        self._call = (how, (word,))

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("file", ("zero_pp_rank_0_mp_rank_00_model", "bf16_zero_pp_rank_1_mp_rank_00_optim"))
@pytest.mark.parametrize("kind", ("system", "eval", "key", "legacy", "bare"))
def test_nothing_is_run(checkpoint, tmp_path, file, kind):
    path, canary = checkpoint / f"state/{file}_states.pt", tmp_path / "canary"
    evil = Evil(os.system, f"touch {canary}") if kind != "eval" else Evil(eval, f"open({str(canary)!r}, 'w')")
    content = torch.load(path, weights_only=True)
    match kind:
        case "bare":
            path.write_bytes(pickle.dumps(evil))
        case "key":
            torch.save(content | {evil: 1}, path)
        case _:
            torch.save(content | {"zz": evil}, path, _use_new_zipfile_serialization=kind != "legacy")
    with suppress(RuntimeError):  # a bare pickle runs, and is no file of torch
        torch.load(path, weights_only=False)
    assert canary.exists()  # the trap works where anything is unpickled
    canary.unlink()
    wanted = {"system": "holds posix.system", "key": "holds posix.system", "eval": "holds eval"}
    with pytest.raises(CheckpointError, match=rf"{path}: .*{wanted.get(kind, 'wanted a zip archive')}.*othing in it"):
        read_old_state(checkpoint, MANIFEST, SHAPES)
    assert not canary.exists()
