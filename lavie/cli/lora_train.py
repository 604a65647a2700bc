"""`lavie lora train` and its companions: adapters from a folder of images, and what they do to samples."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..console import make_console, progress_bar
from ..errors import ConfigError, DataError, LavieError
from .runs import Overwrite

if TYPE_CHECKING:
    from ..config.train import TrainConfig

LEAST = 8
"""The fewest images or clips that adapters are trained on: fewer are learnt by heart."""
PROMPTS = 2
"""Captions of the folder that validation draws, and as many prompts of the base."""

OUT_HELP = "Folder of the run, with its data in OUT/data."


def train_command(
    folder: Annotated[Path, typer.Argument(help="8 or more images or clips, each with its caption in a .txt.")],
    base: Annotated[Path, typer.Option(help="A run's output_dir, a checkpoint or an exported folder, or a .pt.")],
    out: Annotated[Path, typer.Option(help=OUT_HELP)],
    changes: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value ...]", help="Changes of configs/lora.yaml.")
    ] = None,
    prior: Annotated[
        list[str] | None,
        typer.Option(
            help="A caption of what the network knows already, as 'a dog' beside 'a sks dog'; may be given several "
            "times. The network draws samples of it, and trains on them too, so that it does not forget."
        ),
    ] = None,
    prior_samples: Annotated[int, typer.Option(min=1, help="How many samples are drawn of all --prior together.")] = 64,
    prior_weight: Annotated[float, typer.Option(min=0.01, help="Their share of a batch, against 1 of FOLDER.")] = 1.0,
    deepspeed: Annotated[str, typer.Option(help="DeepSpeed's settings.")] = "zero2.json",
    prepare: Annotated[bool, typer.Option("--prepare", help="Write data and config, and print how to train.")] = False,
) -> None:
    """Train adapters (LoRA) on the spatial layers, and draw clips with and without them.

    It is the config lora.yaml with model, encoders and sampling of the base: OUT/lora.yaml, which is trained as any
    other run, on several GPUs by a launcher. A call that was cut short goes on where it stopped.
    """
    from ..config.load import dump_yaml, validate
    from ..config.lora_run import (
        MADE_OF,
        Origin,
        lora_run,
        require_apart,
        require_images,
        require_not_set,
        require_same_origin,
        train_on,
        write_origin,
    )
    from ..config.shipped import find_config
    from ..config.train import TrainConfig
    from ..data.shards.index import load_index
    from ..files import require_writable
    from ..inference.load import default_device
    from ..inference.schedulers import require_sampling
    from ..models.prompt_syntax import escaped
    from ..run_folder import checkpoints
    from ..training.deepspeed import resolve_json
    from ..training.machine import require_device, require_packages

    # What cannot train is refused before anything is packed or drawn.
    settings = find_config(deepspeed, "--deepspeed")
    require_not_set(changes or ())
    require_apart(folder, base, out)
    of_base, pretrained = _of_base(base)
    values = lora_run(base, out, of_base=of_base, pretrained=pretrained, overrides=changes or ())
    planned = validate(TrainConfig, values, f"lora.yaml with {base}")
    if prior and of_base is None:
        raise ConfigError(f"--prior: nothing says how --base {base} draws: wanted a run or an exported folder")
    _require_fit(planned, base)
    require_packages(planned)
    require_sampling(planned)
    if not prepare:
        require_device(planned, default_device())
        resolve_json(settings, planned, 1)
    drawn = (prior, prior_samples, planned.seed) if prior else (None, None, None)
    origin = Origin(str(folder.resolve()), str(base.resolve()), *drawn)
    require_same_origin(out, origin)
    _require_goes_on(out, planned, None if prepare else settings)
    require_writable(out / MADE_OF)
    begun = (out / MADE_OF).exists()
    write_origin(out, origin)

    # The data, and what the network already knows.
    try:
        found = _pack(folder, out / "data" / "train", planned)
        if not found.images:
            require_images(changes or (), folder)
    except LavieError:
        if not begun:
            _leave_nothing(out)
        raise
    datasets: list[dict[str, Any]] = [{"path": str(out / "data" / "train"), "name": "subject", "weight": 1}]
    if prior:
        samples = out / "data" / "prior-samples"
        _draw_prior(base, planned, prior, prior_samples, samples, images=not found.videos)
        _pack(samples, out / "data" / "prior", planned, least=1)
        datasets.append({"path": str(out / "data" / "prior"), "name": "prior", "weight": prior_weight})
    train_on(values, datasets, videos=bool(found.videos), images=bool(found.images))

    # Prompts of both what is new and what is known, unless the user has some.
    if not any(change.startswith("validation_prompts") for change in changes or ()):
        captions = list(dict.fromkeys(sample.caption for sample in load_index([str(out / "data" / "train")])))
        known = of_base.validation_prompts if of_base else planned.validation_prompts[-1:]
        known = tuple(map(escaped, prior)) if prior else known
        values["validation_prompts"] = [*map(escaped, captions[:PROMPTS]), *known[:PROMPTS]]
    values["resume_from_checkpoint"] = "auto"
    config = validate(TrainConfig, values, f"lora.yaml with {base}")
    file = out / "lora.yaml"
    file.write_text(dump_yaml(config), encoding="utf-8")

    words = [str(file), "--deepspeed", deepspeed]
    if prepare:
        typer.echo(f"lavie train {shlex.join(words)}")
        typer.echo(f"deepspeed --module lavie.train {shlex.join(words)}")
        return
    before = checkpoints(out)
    code = subprocess.run([sys.executable, "-m", "lavie.train", *words], check=False).returncode
    if code:
        raise typer.Exit(code)
    _compare_trained(out, trained=checkpoints(out) != before)


def _leave_nothing(out: Path) -> None:
    """Delete what a refused call has packed, and the folders that are empty without it."""
    from ..config.lora_run import MADE_OF

    (out / MADE_OF).unlink(missing_ok=True)
    shutil.rmtree(out / "data" / "train", ignore_errors=True)
    for folder in (out / "data", out):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _compare_trained(out: Path, *, trained: bool) -> None:
    """Draw OUT/compare.* of a run; what lies there stays if nothing was trained since, and is told if it goes."""
    from ..inference.beside_base import NUMBERS, SHEET

    lying = [name for name in (SHEET, NUMBERS) if (out / name).exists()]
    if lying and not trained:
        typer.echo(f"{out / lying[0]} stays as it was: nothing was trained. `lavie lora compare` draws it anew")
        return
    if lying:
        typer.echo(f"{' and '.join(lying)} in {out} are drawn anew, of what was trained since", err=True)
    compare_command(out, out, overwrite=True)


def compare_command(
    run: Annotated[Path, typer.Argument(help="A run of adapters, or one of its checkpoints.")],
    out: Annotated[Path, typer.Option(help="Where compare.png and compare.json go.")],
    prompt: Annotated[list[str] | None, typer.Option(help="Default: the run's validation_prompts.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the initial noise.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw prompts without and with a run's adapters, from the same noise: likeness to see, and motion in numbers."""
    from ..files import require_free
    from ..inference.beside_base import NUMBERS, SHEET, compare

    require_free(out / SHEET, out / NUMBERS, overwrite=overwrite)
    with progress_bar(make_console(), "drawing") as progress:
        numbers = compare(run, out, prompt or (), seed=seed, progress=progress)
    for row in numbers["prompts"]:
        typer.echo(
            f"motion {row['motion_without']:.2f} without, {row['motion_with']:.2f} with adapters: {row['prompt']}"
        )
    ratio = numbers["motion_ratio"]
    typer.echo(f"motion with adapters by motion without: {'none to compare' if ratio is None else f'{ratio:.2f}'}")
    typer.echo(out / SHEET)


def word_command(
    out: Annotated[Path, typer.Argument(help="Folder for the images and their captions.")],
    word: Annotated[str, typer.Option(help="A colour that `lavie data demo` lacks: orange or violet.")] = "orange",
    images: Annotated[int, typer.Option(min=1, help="How many.")] = LEAST,
    size: Annotated[int, typer.Option(min=16, help="Height and width in pixels.")] = 64,
    seed: Annotated[int, typer.Option(help="Another seed gives other images.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Render images of a colour that the network of the demo has never seen, as data for `lavie lora train`."""
    from PIL import Image

    from ..data.prepare.synthetic import SHAPES, image_caption, render_image
    from ..evaluation.new_word import require_word
    from ..files import require_free
    from ..seeds import numpy_generator

    require_word(word)
    require_free(out, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    _remove_rendered(out, images)
    for number in range(images):
        shape = SHAPES[number % len(SHAPES)]
        pixels = render_image(word, shape, rng=numpy_generator(seed, "new word", number), size=size)
        Image.fromarray(pixels).save(out / f"{number:05d}.png")
        (out / f"{number:05d}.txt").write_text(image_caption(word, shape) + "\n", encoding="utf-8")
    typer.echo(out)


def _remove_rendered(out: Path, first: int) -> None:
    """Remove the images from number `first` on that an earlier call has rendered: their names and captions say so."""
    from ..data.prepare.synthetic import NEW_COLOURS, SHAPES, image_caption

    captions = {image_caption(word, shape) + "\n" for word in NEW_COLOURS for shape in SHAPES}
    for file in out.glob("*.png"):
        text = file.with_suffix(".txt")
        if not re.fullmatch(r"[0-9]{5,}", file.stem) or int(file.stem) < first or not text.is_file():
            continue
        if text.read_text(encoding="utf-8", errors="replace") in captions:
            file.unlink()
            text.unlink()


def score_command(
    run: Annotated[Path, typer.Argument(help="A run of adapters on a base that learnt the rendered set.")],
    out: Annotated[Path, typer.Option(help="Where compare.png and compare.json go.")],
    word: Annotated[str, typer.Option(help="The colour that the adapters were taught.")] = "orange",
    clips: Annotated[int, typer.Option(min=1, help="Clips of the new colour, and as many of the old ones.")] = 24,
    seed: Annotated[int, typer.Option(help="Seed of the initial noise.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Judge clips of a new colour, and of the old ones, without and with a run's adapters."""
    from ..evaluation.new_word import score_word
    from ..files import require_free
    from ..inference.beside_base import NUMBERS, SHEET

    require_free(out / SHEET, out / NUMBERS, overwrite=overwrite)
    with progress_bar(make_console(), "drawing") as progress:
        numbers = score_word(run, word, out, clips=clips, seed=seed, progress=progress)
    for kind, name in (("new", word), ("old", "old colours")):
        seen = numbers[kind]
        for key in ("colour", "direction"):
            before, after = seen[f"{key}_without"], seen[f"{key}_with"]
            typer.echo(f"{name}: {key} right in {before:.0%} of clips without, {after:.0%} with adapters")
        ratio = seen["motion_ratio"]
        typer.echo(f"{name}: motion {'not to compare' if ratio is None else f'{ratio:.2f} of the base'}")
    typer.echo(out / SHEET)


def _of_base(base: Path) -> "tuple[TrainConfig | None, str | None]":
    """Return the config of a base, and where its encoders lie; neither for weights without a config.

    Raises:
        CheckpointError: there is nothing.
        ConfigError: the base is of another stage.
    """
    from ..config.load import load_config
    from ..errors import CheckpointError
    from ..inference.load import encoders_folder
    from ..models.lora.trained import has_adapters
    from ..run_folder import RUN_CONFIG, checkpoints, find_stage, is_checkpoint, is_export

    if not base.exists():
        raise CheckpointError(f"--base {base}: no such file or folder")
    if base.is_file() or not (is_export(base) or is_checkpoint(base) or checkpoints(base)):
        _require_network(base)
        return None, None
    folder = find_stage(base)
    if has_adapters(folder):
        raise ConfigError(f"--base {base} is a run of adapters itself: `lavie export {base} OUT` joins them, give OUT")
    config = load_config(folder / RUN_CONFIG)
    if config.stage != "base":
        raise ConfigError(f"--base {base} is of stage {config.stage}: wanted one of stage base")
    return config, encoders_folder(folder, config)


def _require_network(base: Path) -> None:
    """Raise CheckpointError if a file or folder that is no run is no network either; see `initialize`."""
    from ..errors import CheckpointError
    from ..models.torch_file import read_weight_file
    from ..models.weights import CONFIG_NAME
    from ..run_folder import NETWORK

    wanted = "wanted a run's output_dir, a checkpoint or an exported folder, a Stable Diffusion folder, or a .pt"
    if base.is_file():
        try:
            read_weight_file(base)
        except CheckpointError as error:
            raise CheckpointError(f"--base {base} holds no weights: {wanted}: {error}") from None
    elif not any((folder / CONFIG_NAME).is_file() for folder in (base, base / NETWORK)):
        raise CheckpointError(f"--base {base} holds no network and no finished checkpoint: {wanted}")


def _require_fit(config: "TrainConfig", base: Path) -> None:
    """Raise an error if a run's adapters or the files that it starts from are not as they must be."""
    from ..models.start import require_single_files
    from ..training.trained_part import require_adapters_fit

    require_adapters_fit(config)
    require_single_files(config)
    named = config.pretrained_model_name_or_path
    if named is not None and not Path(named).exists():
        raise ConfigError(
            f"pretrained_model_name_or_path is {named}: no such folder; --base {base} is trained with its encoders: "
            "give pretrained_model_name_or_path=FOLDER of Stable Diffusion 1.4"
        )


def _require_goes_on(out: Path, config: "TrainConfig", deepspeed: Path | None) -> None:
    """Raise CheckpointError if the trainer would refuse to go on from what a run's folder holds.

    The config that lies there is the one to go on with: it must not be replaced by one that cannot.

    Args:
        out: the run's folder.
        config: the one that would replace it.
        deepspeed: DeepSpeed's settings with which one rank trains here; None: nobody knows yet how many will.
    """
    from ..config.load import load_config
    from ..errors import CheckpointError
    from ..manifest import OldLayoutError, read_manifest
    from ..models.lora.trained import build_base, identity, read_base, require_base
    from ..run_folder import RUN_CONFIG, checkpoints
    from ..training.base import with_base
    from ..training.checkpoint.compare import require_must_match, require_same_dtype, require_same_engine
    from ..training.deepspeed import resolve_json, zero_stage

    for folder in reversed(checkpoints(out)):
        try:
            manifest = read_manifest(folder)
        except OldLayoutError:
            raise
        except CheckpointError:  # the trainer takes an older one then
            continue
        require_same_dtype(str(folder), manifest, config)
        if deepspeed is not None:
            require_same_engine(str(folder), manifest, config, zero_stage(resolve_json(deepspeed, config, 1)))
        require_must_match(str(folder), load_config(folder / RUN_CONFIG), config)
        path = str(with_base(config, folder).init_weights)
        require_base(folder, read_base(folder), identity(build_base(config, path).state_dict()), path)
        return


class _Found(NamedTuple):
    """What a packed folder holds."""

    videos: int
    images: int


def _pack(folder: Path, out: Path, config: "TrainConfig", least: int = LEAST) -> _Found:
    """Pack captioned media as `lavie data pack` does, and return how many samples of each kind there are.

    Raises:
        DataError: there are none, or fewer than `least`.
    """
    from ..data.prepare.pack import pack
    from ..data.shards.index import load_index

    data = config.data
    with progress_bar(make_console(), "packing") as progress:
        report = pack(
            folder,
            out,
            num_frames=data.num_frames,
            fps=data.fps,
            frame_stride=data.frame_stride,
            workers=len(os.sched_getaffinity(0)),
            progress=progress,
        )
    for item in report.rejected:
        typer.echo(f"left out: {item.name}: {item.reason}. {item.detail}", err=True)
    if report.changed:
        first = report.changed[0]
        typer.echo(
            f"{len(report.changed)} of {folder} changed since they were packed, first {first.name}: {first.reason}. "
            f"{out} keeps them as they were: another --out takes the change",
            err=True,
        )
    index = load_index([str(out)])
    found = _Found(len(index.videos), len(index.images))
    if sum(found) < least:
        raise DataError(f"FOLDER {folder} has {sum(found)} captioned images or clips that can train: wanted {least}")
    return found


def _draw_prior(
    base: Path, config: "TrainConfig", prompts: Sequence[str], count: int, out: Path, *, images: bool
) -> None:
    """Draw samples of what the base knows; see `lavie.inference.prior`."""
    from ..inference.load import load_pipeline
    from ..inference.prior import draw_prior

    sampler, of_base = load_pipeline(base)
    with progress_bar(make_console(), "drawing prior samples") as progress:
        draw_prior(sampler, of_base, prompts, count, out, images=images, seed=config.seed, progress=progress)
