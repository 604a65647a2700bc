"""What several commands ask for: a run, by its place or --checkpoint; a tokenizer; whether results may be replaced."""

from pathlib import Path
from typing import Annotated

import typer

from ..caption_limit import CaptionLimit, clip_words
from ..errors import ConfigError
from ..run_folder import METRICS

Run = Annotated[
    Path | None,
    typer.Argument(help="A run's output_dir (its newest checkpoint), a checkpoint-<step> or exported folder."),
]
Checkpoint = Annotated[Path | None, typer.Option(help="The same as RUN.")]
ConfigWords = Annotated[
    list[str],
    typer.Argument(
        metavar="CONFIG.yaml [key=value ...]",
        help="The run's YAML, or the name of a shipped config, and changes of it.",
    ),
]
ShardWords = Annotated[
    list[str] | None,
    typer.Argument(metavar="SHARDS|key=value", help="Shards, or folders of them; with --config also changes of it."),
]
Overwrite = Annotated[bool, typer.Option(help="Replace what an earlier call has written there.")]
Tokenizer = Annotated[
    Path | None,
    typer.Option(
        help="CLIP's tokenizer files, or a Stable Diffusion folder: long captions are counted by it, not by words."
    ),
]


def one_run(run: Path | None, checkpoint: Path | None) -> Path:
    """Return the run that is given, as RUN or as --checkpoint.

    Raises:
        ConfigError: there is none, or there are two.
    """
    if run is not None and checkpoint is not None:
        raise ConfigError(f"RUN is {run} and --checkpoint {checkpoint}: give one of them")
    found = run if run is not None else checkpoint
    if found is None:
        raise ConfigError("RUN is missing: wanted a run's output_dir, a checkpoint-<step> or exported folder")
    return found


def run_of(place: Path) -> Path:
    """Return the folder of a run that has the metrics; one of its checkpoints, which may be given, lies in it."""
    return place.parent if not (place / METRICS).exists() and (place.parent / METRICS).exists() else place


def limit_of(tokenizer: Path | None) -> CaptionLimit:
    """Return CLIP's limit of captions: in tokens of the tokenizer in a folder, or in words where none is given.

    Raises:
        CheckpointError: the folder holds no tokenizer.
    """
    if tokenizer is None:
        return clip_words()
    from ..models.text_encoder import clip_limit

    return clip_limit(tokenizer)
