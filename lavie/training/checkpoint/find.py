"""Which checkpoint a run goes on from: the newest one that is whole.

1. Hidden folders that a killed process left complete get their names back.
2. The candidates are all folders checkpoint-STEP, newest first, or the one that resume_from_checkpoint names.
3. A candidate is whole if its manifest is, and all files are as the manifest says. The ranks share the reading.
4. A damaged one is named, and the next older one is tried. If none is whole, the run ends: it never starts anew beside
   checkpoints that it cannot read.
"""

from pathlib import Path
from typing import Any, NamedTuple

from ...config.load import load_config
from ...config.train import TrainConfig
from ...distributed import broadcast_object, gather_objects, is_main, log, rank, world_size
from ...errors import CheckpointError
from ...manifest import OldLayoutError, damage, fault_of, read_manifest
from ...run_folder import RUN_CONFIG, checkpoint_candidates, is_checkpoint
from .compare import require_same_config, require_same_engine, same_global_batch
from .retention import adopt


class Resume(NamedTuple):
    """Where a run goes on."""

    folder: Path
    step: int
    """How many steps are done."""
    manifest: dict[str, Any]
    config: TrainConfig
    """The run's config, with the global batch of the checkpoint."""


def find(config: TrainConfig, zero_stage: int) -> Resume | None:
    """Return the checkpoint from which a run goes on, verified; None if it starts at step 0. Collective.

    Args:
        config: the run.
        zero_stage: the ZeRO stage of this run's DeepSpeed settings.

    Raises:
        CheckpointError: there is nothing to load, all of it is damaged, or it is not this run's.
    """
    if config.resume_from_checkpoint is None:
        return None

    # Rank 0 looks for all: a shared disk may show each rank something else.
    candidates = broadcast_object(_candidates(config) if is_main() else None)
    if isinstance(candidates, CheckpointError):
        raise candidates
    if not candidates:
        log.info(f"resume_from_checkpoint is auto, and {config.output_dir} has no checkpoint: starts at step 0")
        return None

    faults: list[str] = []
    for folder in candidates:
        manifest = broadcast_object(_manifest(folder) if is_main() else None)
        if isinstance(manifest, OldLayoutError):  # it is newer than what follows, and nothing is wrong with it
            raise manifest
        fault = manifest if isinstance(manifest, str) else _first_damage(folder, manifest, config)
        if fault is None:
            break
        faults.append(fault)
    else:
        raise CheckpointError(
            f"resume_from_checkpoint is {config.resume_from_checkpoint}: no checkpoint is whole: {'; '.join(faults)}. "
            "Set it to a checkpoint that is, or set output_dir to an empty folder to start at step 0"
        )
    for fault in faults:
        log.warning(f"{fault}: the run goes on from {folder.name}")

    where = str(folder)
    saved = load_config(folder / RUN_CONFIG)
    require_same_engine(where, manifest, config, zero_stage)
    require_same_config(where, saved, config, manifest["step"])
    return Resume(folder, manifest["step"], manifest, same_global_batch(where, manifest, saved, config))


def _candidates(config: TrainConfig) -> list[Path] | CheckpointError:
    """Return the folders to try, the newest first, or why there is none; empty where "auto" finds none."""
    asked = config.resume_from_checkpoint
    run = Path(config.output_dir if asked in ("auto", "latest") else str(asked))
    if asked not in ("auto", "latest") and is_checkpoint(run):
        return [run]
    try:
        if run.resolve() == Path(config.output_dir).resolve():  # in another folder, a run may be about to publish
            adopt(run, fault_of)
        found = checkpoint_candidates(run)[::-1]
    except OSError as error:
        return CheckpointError(f"resume_from_checkpoint is {asked}: {run} cannot be read: {error.strerror}")
    if not found and asked != "auto":
        return CheckpointError(
            f"resume_from_checkpoint is {asked}: {run}: no checkpoint-<step> folder, nor one that holds them. Set it "
            "to null to start at step 0"
        )
    return found


def _manifest(folder: Path) -> dict[str, Any] | str | OldLayoutError:
    """Return a checkpoint's manifest, where its files have their sizes, or what is wrong."""
    try:
        manifest = read_manifest(folder)
    except OldLayoutError as error:
        return error
    except CheckpointError as error:
        return str(error)
    return damage(folder, manifest, hashes=False) or manifest


def _first_damage(folder: Path, manifest: dict[str, Any], config: TrainConfig) -> str | None:
    """Return what is wrong with the bytes of a checkpoint's files, of which every rank reads a share. Collective."""
    if config.verify_checkpoint == "sizes":
        return None
    own = list(manifest["files"])[rank() :: world_size()]
    return next(filter(None, gather_objects(damage(folder, manifest, own))), None)
