"""Where a run's records, samples and config go beside metrics.jsonl: TensorBoard and Weights & Biases (`report_to`).

A writer lives on rank 0 and is told of a step at a time:

    writer.scalars(step, {"loss": 0.1})     numbers by name
    writer.samples(step, [Sample(...)])     what validation drew
    writer.close()
"""

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from ..config.load import dump_yaml
from ..config.train import TrainConfig
from ..errors import ConfigError
from ..run_folder import PROMPTS, WANDB_ID

PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "SummaryWriter", "pip install tensorboard"),
    "wandb": ("wandb", "init", "pip install 'lavie[wandb]'"),
}
"""What each value of report_to needs: a module, a name in it, and what installs it."""
COMPARED = ("loss", "validation_loss")
"""The metrics by which TensorBoard's table of hyperparameters sorts runs."""
LONGEST_TAG = 100
"""Characters of a prompt that a tag of TensorBoard shows: its cards cut off about as many."""


@dataclass(frozen=True)
class Sample:
    """A clip or an image that validation drew, as files."""

    name: str
    """Its number, which its files begin with: "00000"."""
    prompt: str
    """What it was drawn from, whole."""
    preview: Path
    """The animated GIF of a clip, the PNG of an image."""
    video: Path | None
    """The mp4 of a clip; None for an image."""


class Writer(Protocol):
    """A place that shows a run while it trains."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name. `step` is the one just done, 0 before the first one."""

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Write what was drawn after a step."""

    def close(self) -> None:
        """Write all that is pending."""


def require_writers(config: TrainConfig) -> None:
    """Check, before any work, that the packages of report_to are there.

    Raises:
        ConfigError: one cannot be imported.
    """
    for name in config.report_to:
        module, wanted, install = PACKAGES[name]
        try:
            # A folder wandb/ of earlier runs can be imported too, and is empty.
            getattr(importlib.import_module(module), wanted)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"report_to names {name}, whose package cannot be imported ({error}): {install}, or leave it out "
                "(report_to=[] writes metrics.jsonl alone)"
            ) from error


def open_writers(config: TrainConfig, start_step: int) -> list[Writer]:
    """Open what `report_to` names, each once, for a run that goes on after `start_step` steps."""
    kinds: dict[str, Callable[[TrainConfig, int], Writer]] = {"tensorboard": TensorBoard, "wandb": WandB}
    return [kinds[name](config, start_step) for name in dict.fromkeys(config.report_to)]


def samples_in(folder: Path) -> list[Sample]:
    """Return the samples of a folder that lists them in prompts.jsonl, in order; none where there is no such list."""
    index = folder / PROMPTS
    found = []
    for line in index.read_text(encoding="utf-8").splitlines() if index.is_file() else ():
        entry = json.loads(line)
        moves = entry["num_frames"] > 1
        path = folder / entry["name"]
        preview, video = (
            (path.with_suffix(".gif"), path.with_suffix(".mp4")) if moves else (path.with_suffix(".png"), None)
        )
        found.append(Sample(entry["name"], entry["prompt"], preview, video))
    return found


class TensorBoard:
    """Writes OUTPUT_DIR/tensorboard, which `tensorboard --logdir` shows: scalars, images, text, hyperparameters."""

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        """Open the folder, in which TensorBoard then hides the steps after `start_step`, and write the config."""
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # A run from step 0 writes its validation at step 0 anew, a resumed one keeps it.
        purge = start_step + 1 if start_step else 0
        self._writer = SummaryWriter(str(Path(config.output_dir) / "tensorboard"), purge_step=purge)

        # Indented, Markdown keeps the lines as they are.
        self._writer.add_text("config", "".join(f"    {line}\n" for line in dump_yaml(config).splitlines()), start_step)

        # Not by add_hparams, which makes a run of its own for them.
        values = {k: v for k, v in config.model_dump(mode="json").items() if isinstance(v, (str, int, float))}
        for summary in hparams(values, dict.fromkeys(COMPARED))[:2]:
            self._file.add_summary(summary, start_step)

    @property
    def _file(self) -> Any:
        """The event file itself, which takes summaries that SummaryWriter cannot make."""
        return self._writer.file_writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Write samples as images, which browsers animate where they are GIFs.

        SummaryWriter.add_video would encode the clip again, by a package that is not needed here.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        for sample in samples:
            with Image.open(sample.preview) as picture:
                width, height = picture.size
            image = Summary.Image(
                height=height, width=width, colorspace=3, encoded_image_string=sample.preview.read_bytes()
            )
            tag = f"samples/{sample.name} {' '.join(sample.prompt.split())[:LONGEST_TAG]}"
            self._file.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)
        self._writer.flush()

    def close(self) -> None:
        """Write all that is pending."""
        self._writer.close()


class WandB:
    """Writes a run of Weights & Biases, named after output_dir; a resumed run goes on in the same one.

    Which server, account and project it goes to, and whether it stays on this machine (WANDB_MODE=offline), is said by
    that package's own environment variables; the project is "lavie" unless WANDB_PROJECT names another.
    """

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        """Begin the run, or go on with the one whose id a resumed run finds in its output_dir.

        Raises:
            ConfigError: the package cannot begin a run, for example without a login.
        """
        import wandb

        self._wandb = wandb
        folder = Path(config.output_dir)
        kept = folder / WANDB_ID
        resumes = start_step > 0 and kept.is_file()
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "lavie"),
                name=folder.resolve().name,
                id=kept.read_text(encoding="utf-8").strip() if resumes else None,
                resume="allow",
                config=config.model_dump(mode="json"),
                allow_val_change=resumes,  # a resumed run may be longer
                dir=str(folder.resolve()),
            )
        except wandb.Error as error:
            raise ConfigError(
                f"report_to names wandb, which cannot begin a run ({error}): call `wandb login`, set "
                "WANDB_MODE=offline, or leave it out of report_to"
            ) from error
        kept.write_text(f"{self._run.id}\n", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name. Steps that the run holds already, where one resumes from further back, stay."""
        self._run.log(dict(values), step=step)

    def samples(self, step: int, samples: Sequence[Sample]) -> None:
        """Write samples as videos or images with their prompts as captions."""
        media = {}
        for sample in samples:
            if sample.video:
                made = self._wandb.Video(str(sample.video), caption=sample.prompt, format="mp4")
            else:
                made = self._wandb.Image(str(sample.preview), caption=sample.prompt)
            media[f"samples/{sample.name}"] = made
        if media:
            self._run.log(media, step=step)

    def close(self) -> None:
        """Write all that is pending, and end the run there."""
        self._run.finish()
