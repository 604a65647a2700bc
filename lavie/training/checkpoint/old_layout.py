"""The state in a checkpoint of the layout before, read out of DeepSpeed's files without running what they hold.

    mp_rank_00_model_states.pt                        stages 0 to 2: the network, the counts; stage 0: all states
    zero_pp_rank_R_mp_rank_00_model_states.pt         stage 3: the counts, the shapes of the parameters
    [bf16_]zero_pp_rank_R_mp_rank_00_optim_states.pt  stages 1 to 3: what rank R held

1. The files are pickles, which could run code. `torch.load(weights_only=True)` builds tensors and plain values alone.
2. Of other names only those of TRUSTED are let in, and what stands for them is an empty class of this module: no code
   of DeepSpeed is called either. Any other name ends the reading.
3. What comes out is still what a stranger may have written: a tensor's kind and size are looked at before it is used.
"""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor

from ...errors import CheckpointError
from .ranges import STATE, own_share
from .state import MOMENTS, SCALER, WEIGHTS

TRUSTED = (
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)
"""The classes that DeepSpeed's files name, besides tensors and Python's plain values."""
REFUSED = re.compile(r"GLOBAL (\S+) (?:was not|whose module)|recognized function <[a-z]+ '?([^ '>]+)")
"""What torch says of a name that it does not let in."""


class Piece(NamedTuple):
    """What a rank held of a parameter: the elements from `start` on, flattened."""

    name: str
    start: int
    values: dict[str, Tensor]
    """1-D float32, by kind: the weights, and AdamW's moments if it has made an update."""


class OldState(NamedTuple):
    """All that a run goes on with but the average of its weights."""

    ranks: list[list[Piece]]
    """What each rank held."""
    about: dict[str, Any]
    """What the new manifest says of it."""


class _Plain:
    """Stands for an object of DeepSpeed: keeps what the file says of it, and can do nothing."""

    def __init__(self, *values: object) -> None:
        """Take what a constructor was given."""


def read_old_state(folder: Path, manifest: Mapping[str, Any], trained: Mapping[str, Size]) -> OldState:
    """Return the state in DeepSpeed's files of a checkpoint; its tensors are views of the files.

    Args:
        folder: the checkpoint, of the old layout.
        manifest: what its checkpoint.json says.
        trained: the shapes of the parameters that train, in the network's order: stage 0 stores them without names.

    Raises:
        CheckpointError: a file is missing, damaged, of another step or network, or holds what is no state.
    """
    state = folder / STATE
    try:
        return _read(state, manifest["step"], manifest["world_size"], trained)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a file that is not DeepSpeed's leads to
        raise CheckpointError(f"{state}: is no state of DeepSpeed: {_line(error)}") from None


def _read(state: Path, step: int, ranks: int, trained: Mapping[str, Size]) -> OldState:
    """Read the state of a step, as `ranks` ranks wrote it. Raises whatever files that are not DeepSpeed's lead to."""
    whole = state / "mp_rank_00_model_states.pt"
    saved = _unpickle(whole if whole.is_file() else state / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    settings = saved["ds_config"]
    stage = settings["zero_optimization"]["stage"] if "zero_optimization" in settings else 0
    dtype = "float32"
    for name, section in (("bfloat16", "bf16"), ("float16", "fp16")):
        if settings.get(section, {}).get("enabled", False):
            dtype = name
    if saved["global_steps"] != step or saved["dp_world_size"] != ranks:
        raise CheckpointError(
            f"{state}: is of step {saved['global_steps']} by {saved['dp_world_size']} ranks, and checkpoint.json says "
            f"step {step} by {ranks}: a file of another checkpoint lies there"
        )

    # The states of the ranks, and the counts of updates that they have in common.
    if stage == 0:
        pieces, counts, scaler = *_of_stage_0(saved, trained, ranks), None
    else:
        prefix = "bf16_" if dtype == "bfloat16" else ""
        optimizers = [
            _unpickle(state / f"{prefix}zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")["optimizer_state_dict"]
            for rank in range(ranks)
        ]
        scaler = optimizers[0]["loss_scaler"]
        if stage == 3:
            pieces, counts = _of_stage_3(optimizers, saved["param_shapes"])
        else:
            pieces, counts = _of_stages_1_and_2(optimizers)
    _require_whole(state, pieces, trained)
    skipped = int(saved["skipped_steps"])
    # Without ZeRO, in 16 bits, DeepSpeed makes one more before the first step, on gradients of zero.
    if len(counts) > 1 or counts - {step - skipped, step - skipped + 1}:
        raise CheckpointError(
            f"{state}: AdamW has made {' and '.join(map(str, sorted(counts)))} updates, and {step - skipped} of {step} "
            "steps were not skipped: a file of another checkpoint lies there"
        )

    about: dict[str, Any] = {
        "world_size": ranks,
        "zero_stage": int(stage),
        "dtype": dtype,
        "global_batch": int(settings["train_batch_size"]),
        "optimizer_steps": next(iter(counts), 0),
        "skipped_steps": skipped,
    }
    if dtype == "float16":
        known = vars(scaler)
        about["loss_scaler"] = {name: _number(known[name]) for name in SCALER if name in known}
    return OldState(pieces, about)


def _of_stage_0(saved: Any, trained: Mapping[str, Size], ranks: int) -> tuple[list[list[Piece]], set[int]]:
    """Return the pieces of each rank and the counts of updates. Every rank held all, of which each is given a share."""
    optimizer = saved["optimizer"]
    if "fp32_groups" in optimizer:  # in 16 bits: the masters, in the network's order
        masters = [master for group in optimizer["fp32_groups"] for master in group]
        states = optimizer["optimizer_state_dict"]["state"]
    else:
        masters, states = [saved["module"][name] for name in trained], optimizer["state"]
    pieces: list[list[Piece]] = [[] for _ in range(ranks)]
    for index, ((name, shape), master) in enumerate(zip(trained.items(), masters, strict=True)):
        if master.shape != shape:
            raise ValueError(f"{name} has the shape {tuple(master.shape)}, wanted {tuple(shape)}")
        for rank in range(ranks):
            first, last = own_share(0, shape.numel(), True, rank, ranks)
            if first < last:
                piece = _piece(name, first, last - first, master, states.get(index, {}), first)
                pieces[rank].append(piece)
    return pieces, _counts(states)


def _of_stages_1_and_2(optimizers: list[Any]) -> tuple[list[list[Piece]], set[int]]:
    """Return the pieces of each rank and the counts of updates. A rank says which fragments its flat tensors hold."""
    pieces: list[list[Piece]] = []
    counts: set[int] = set()
    done: dict[str, int] = {}  # how many elements of each parameter the ranks before hold
    for optimizer in optimizers:
        states, own = optimizer["base_optimizer_state"]["state"], []
        groups = zip(optimizer["single_partition_of_fp32_groups"], optimizer["param_slice_mappings"], strict=True)
        for index, (flat, fragments) in enumerate(groups):
            for name, fragment in fragments.items():
                offset, length = vars(fragment)["start"], vars(fragment)["numel"]
                own.append(_piece(name, done.get(name, 0), length, flat, states.get(index, {}), offset))
                done[name] = done.get(name, 0) + length
        pieces.append(own)
        counts |= _counts(states)
    return pieces, counts


def _of_stage_3(optimizers: list[Any], groups: list[dict[str, Size]]) -> tuple[list[list[Piece]], set[int]]:
    """Return the pieces of each rank and the counts of updates. Every rank holds an equal slice of each parameter.

    Args:
        optimizers: what the ranks held.
        groups: the shapes of the parameters that each of their flat tensors holds, one behind the other.
    """
    pieces: list[list[Piece]] = []
    counts: set[int] = set()
    for rank, optimizer in enumerate(optimizers):
        states, own = optimizer["optimizer_state_dict"]["state"], []
        for index, (flat, shapes) in enumerate(zip(optimizer["fp32_flat_groups"], groups, strict=True)):
            offset = 0
            for name, shape in shapes.items():
                size = math.ceil(shape.numel() / len(optimizers))
                length = min(size, shape.numel() - rank * size)  # what is behind it in the last slices is padding
                if length > 0:
                    own.append(_piece(name, rank * size, length, flat, states.get(index, {}), offset))
                offset += size
        pieces.append(own)
        counts |= _counts(states)
    return pieces, counts


def _piece(name: str, start: int, length: int, weights: Tensor, state: Mapping[str, Any], offset: int) -> Piece:
    """Return a piece of a parameter.

    Args:
        name: of the parameter.
        start: its first element.
        length: how many elements it has.
        weights: the float32 tensor that holds them.
        state: AdamW's of that tensor; empty before its first update.
        offset: where in `weights` they begin.
    """
    values = {}
    for kind, tensor in {WEIGHTS: weights, **{kind: state[kind] for kind in MOMENTS if state}}.items():
        plain = isinstance(tensor, Tensor) and tensor.device.type == "cpu" and tensor.layout == torch.strided
        if not plain or tensor.dtype != torch.float32:
            raise ValueError(f"{kind} of {name} is no float32 tensor")
        if tensor.untyped_storage().nbytes() < 4 * tensor.numel() or not 0 <= offset <= tensor.numel() - length:
            raise ValueError(f"{kind} of {name} is too short")
        values[kind] = tensor.detach().flatten()[offset : offset + length]
    return Piece(name, start, values)


def _counts(states: Mapping[int, Mapping[str, Any]]) -> set[int]:
    """Return how many updates AdamW has made of each of its tensors."""
    return {int(state["step"]) for state in states.values()}


def _require_whole(state: Path, ranks: list[list[Piece]], trained: Mapping[str, Size]) -> None:
    """Raise CheckpointError unless the pieces of all ranks hold every element of each kind of values once."""
    kinds = {frozenset(piece.values) for pieces in ranks for piece in pieces}
    ends = dict.fromkeys(trained, 0)
    ordered = sorted((piece for pieces in ranks for piece in pieces), key=lambda piece: piece.start)
    for piece in ordered:
        if ends.get(piece.name) != piece.start:
            raise CheckpointError(f"{state}: {piece.name} does not train by config.yaml beside it, or is there twice")
        ends[piece.name] += len(piece.values[WEIGHTS])
    lacking = [name for name, shape in trained.items() if ends[name] != shape.numel()]
    if lacking or len(kinds) > 1:
        what = f"{len(lacking)} parameters, {lacking[0]} among them," if lacking else "some moments"
        raise CheckpointError(f"{state}: {what} are not whole: another network, or a rank's file is damaged")


def _unpickle(path: Path) -> Any:
    """Return what a file of DeepSpeed holds; its tensors are views of the file.

    Raises:
        CheckpointError: it is missing, damaged, or holds more than TRUSTED and plain values.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing")
    if not zipfile.is_zipfile(path):  # legacy formats and bare pickles are no files of DeepSpeed's
        raise CheckpointError(f"{path}: damaged, or no file of DeepSpeed: wanted a zip archive. Nothing in it was run")
    try:
        with torch.serialization.safe_globals([(_Plain, name) for name in TRUSTED]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises whatever a damaged pickle leads to
        if match := REFUSED.search(str(error)):
            raise CheckpointError(
                f"{path}: holds {match[1] or match[2]}, which DeepSpeed does not write there. Nothing in it was run: "
                "do not use this checkpoint"
            ) from None
        raise CheckpointError(f"{path}: damaged, or no file of DeepSpeed: {_line(error)}") from None


def _number(value: Any) -> int | float:
    """Return a number of the loss scaler. Raises ValueError if it is none."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"the loss scaler says {value!r}")
    return value


def _line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message, shortened."""
    text = " ".join(str(error).splitlines()[:1])
    return f"{type(error).__name__}: {text[:160]}"
