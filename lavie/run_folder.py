"""The contract of a run's folder on disk, which training writes and sampling, scoring and resuming read.

    OUTPUT_DIR/
      config.yaml               RUN_CONFIG: the run's resolved config
      metrics.jsonl             METRICS: one JSON object a line for each step
      samples/step-STEP/        SAMPLES: what validation drew after a step, 0 before the first one
        prompts.jsonl           PROMPTS: the prompt of each numbered sample
      wandb-id.txt              WANDB_ID: the run of Weights & Biases that a resumed run goes on with
      dropped-rankR.jsonl       the samples that a rank could not read
      events.jsonl              the starts and the checkpoints of the run, kept by lavie.training.account
      report.html               REPORT: the run on a page, written at its end and by `lavie report`
      STOP, SAVE, SAMPLE        made by the user: lavie.training.requests
      run.lock, restarts.json   kept by lavie.training.output_dir
      checkpoint-STEP/          a checkpoint; its files and their hashes are in checkpoint.json
        checkpoint.json         MANIFEST: written last
        config.yaml             the config that it was trained with
        unet/                   NETWORK: the network to sample from
        lora/                   LORA: in its place the adapters of a run that trains these, and where their base lies
        ...                     the training's state, see lavie.training.checkpoint

`lavie export` and `lavie import` write a folder for sampling alone: export.json (EXPORT), config.yaml and unet/.
"""

import re
from pathlib import Path

from .errors import CheckpointError

RUN_CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
SAMPLES = "samples"
PROMPTS = "prompts.jsonl"
"""The file that says which prompt, seed and settings every numbered sample of a folder has."""
REPORT = "report.html"
WANDB_ID = "wandb-id.txt"
NETWORK = "unet"
LORA = "lora"
MANIFEST = "checkpoint.json"
"""The file that makes a checkpoint folder a finished one."""
NAME = re.compile(r"checkpoint-(0|[1-9]\d*)")
"""The names of checkpoint folders: one for each step."""
EXPORT = "export.json"
"""The file that every folder of `lavie export` or `lavie import` holds."""


def checkpoint_folder(run: str | Path, step: int) -> Path:
    """Return the path RUN/checkpoint-STEP, whether or not there is such a folder."""
    return Path(run) / f"checkpoint-{step}"


def samples_folder(run: str | Path, step: int) -> Path:
    """Return the path of what validation draws after a step."""
    return Path(run) / SAMPLES / f"step-{step:06d}"


def step_of(checkpoint: Path) -> int:
    """Return the step of a folder checkpoint-STEP."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def checkpoints(run: str | Path) -> list[Path]:
    """Return the finished checkpoint folders of a run, oldest step first."""
    return [path for path in checkpoint_candidates(run) if is_finished(path)]


def is_finished(folder: Path) -> bool:
    """Return whether a folder has a manifest; not where the folder cannot be read."""
    try:
        return (folder / MANIFEST).is_file()
    except OSError:
        return False


def checkpoint_candidates(run: str | Path) -> list[Path]:
    """Return the folders of a run that are named as checkpoints, finished or damaged, oldest step first.

    A link that leads nowhere is one too: the disk that it leads to may be away.
    """
    named = [path for path in Path(run).glob("checkpoint-*") if NAME.fullmatch(path.name)]
    return sorted((path for path in named if path.is_symlink() or path.is_dir()), key=step_of)


def is_checkpoint(path: str | Path) -> bool:
    """Return whether `path` is a checkpoint's folder, finished or damaged: by its name, or by the manifest in it."""
    path = Path(path)
    named = NAME.fullmatch(path.name) is not None and path.is_dir()
    return named or is_finished(path)


def newest_checkpoint(path: str | Path) -> Path:
    """Return `path` if it is a checkpoint folder, else the newest checkpoint in the run's folder `path`.

    Raises:
        CheckpointError: `path` is neither, or an exported folder.
    """
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    found = checkpoints(path)
    if not found and is_export(path):
        raise CheckpointError(f"{path} is an exported folder: a run starts from it by init_weights, and resumes none")
    if not found:
        raise CheckpointError(f"{path}: no checkpoint-<step> folder, nor one that holds them (no {MANIFEST})")
    return found[-1]


def is_export(path: str | Path) -> bool:
    """Return whether `path` is a folder that `lavie export` or `lavie import` made."""
    return (Path(path) / EXPORT).is_file()


def find_stage(path: str | Path) -> Path:
    """Return the folder to sample a stage from, which holds config.yaml and unet/.

    That is `path` where it is an exported or a checkpoint folder, and the newest checkpoint of a run's folder.

    Raises:
        CheckpointError: `path` is none of these.
    """
    return Path(path) if is_export(path) else newest_checkpoint(path)
