"""The runner of ablations: renders the data, trains every arm with every seed, draws, measures, and writes a line."""

import fcntl
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from ...config.load import dump_yaml, load_config
from ...config.train import TrainConfig
from ...data.prepare.synthetic import clip_caption, demo_set, image_caption
from ...errors import ConfigError, TrainingError
from ...files import require_writable, sha256_of
from ...inference.load import load_pipeline
from ...inference.settings import BaseSettings, arguments
from ...inference.text_to_video import TextToVideo
from ...models.weights import WEIGHTS_NAME
from ...run_folder import METRICS, NETWORK, checkpoint_folder, checkpoints
from ...training.journal import read_records
from ...training.stop import STOPPED
from ..measured import versions
from .child import run_child
from .configs import Job, Sizes, jobs, set_folder, set_options
from .plan import LOSS, MS_PER_STEP, Ablation, Case, Draw
from .results import RESULTS, Result, append, read

BATCH = 12
"""Prompts drawn at once."""
DEEPSPEED = "zero2.json"
LOG = "train.log"
WARM = 10
"""First steps that do not count for the speed, where there are more than twice as many."""
SHOWN = 12
"""Lines of a failed training's log that the error shows."""


def run(
    ablation: Ablation,
    sizes: Sizes,
    out: Path,
    seeds: Sequence[int],
    *,
    arms: Sequence[str] = (),
    tell: Callable[[str], None],
) -> list[Result]:
    """Train and measure every arm with every seed, and return all results in `out`.

    An arm and seed that has its line in results.jsonl is skipped; a training that was cut goes on from its checkpoint.

    Args:
        ablation: what to compare.
        sizes: how large.
        out: the folder of the ablation: data, runs, results.jsonl.
        seeds: of the trainings, the same for all arms.
        arms: the arms to run, with those that they start from; none: all.
        tell: takes a line about what is done.

    Raises:
        ConfigError: an arm is unknown, nothing can be written in `out`, or it holds results of other settings.
        TrainingError: a training failed, or was asked to stop.
    """
    wanted = _with_starts(ablation, arms)
    every = jobs(ablation, sizes, out, seeds)
    todo = [job for job in every if job.arm in wanted]
    done = _done(ablation, every, out)
    require_writable(out / RESULTS)
    left = [job for job in todo if (job.arm, job.seed) not in done]
    _render(ablation, sizes, out, {ablation.arms[job.arm].data for job in left}, tell)
    for number, job in enumerate(todo, start=1):
        what = f"{ablation.name} {number}/{len(todo)}: {job.arm}, seed {job.seed}"
        if (job.arm, job.seed) in done:
            tell(f"{what}: done before")
            continue
        tell(f"{what}: {job.config.max_train_steps} steps, {job.folder / LOG}")
        result = _result(ablation, job, sizes)
        append(out / RESULTS, result)
        tell(f"{what}: {result.seconds['training'] + result.seconds['drawing']:.0f} s, {_brief(result)}")
    return read(out / RESULTS)


def _with_starts(ablation: Ablation, arms: Sequence[str]) -> set[str]:
    """Return the names of the arms that are asked for, and of those that they start from."""
    if unknown := [name for name in arms if name not in ablation.arms]:
        raise ConfigError(f"--arms {unknown[0]!r}: {ablation.name} has {', '.join(ablation.arms)}")
    wanted = set(arms or ablation.arms)
    for name in reversed(list(ablation.arms)):  # an arm stands behind the one that it starts from
        if name in wanted and (start := ablation.arms[name].start):
            wanted.add(start)
    return wanted


def _done(ablation: Ablation, every: Sequence[Job], out: Path) -> set[tuple[str, int]]:
    """Return the arms and seeds that have their results in `out`.

    Raises:
        ConfigError: results in it are of another ablation, or of other settings: also those of arms that are not to be
            run now, for all arms of a file are compared.
    """
    hashes = {job.arm: job.config_hash for job in every}
    settings_hash = every[0].settings_hash
    done = set()
    for result in read(out / RESULTS):
        settings = result.settings_hash or settings_hash
        same = settings == settings_hash and hashes.get(result.arm, result.config_hash) == result.config_hash
        if result.ablation != ablation.name or not same:
            raise ConfigError(
                f"{out / RESULTS} holds {result.ablation}, arm {result.arm}, seed {result.seed}, of other settings "
                f"({result.settings_hash or result.config_hash}): give another OUT for other steps, draws, --set or "
                "--config"
            )
        done.add((result.arm, result.seed))
    return done


def _render(ablation: Ablation, sizes: Sizes, out: Path, names: set[str], tell: Callable[[str], None]) -> None:
    """Render the sets that are not there. A set that was cut is rendered again: it gets its name when it is whole.

    Of several calls at once, one renders a set and the others wait for it.
    """
    base = load_config(sizes.config, sizes.overrides)
    for name in sorted(names):
        options = set_options(ablation.sets[name], base)
        folder = set_folder(out, name, options)
        if folder.exists():
            continue
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_name(folder.name + ".lock").open("w") as lock:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                continue
            tell(f"{folder}: rendering {options['clips']} clips and {options['images']} images")
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            demo_set(partial, **options)
            partial.rename(folder)


def _result(ablation: Ablation, job: Job, sizes: Sizes) -> Result:
    """Train one arm with one seed, draw, and measure."""
    began = time.perf_counter()
    load, processor = _train(job)
    ended = time.perf_counter()
    checkpoint = checkpoint_folder(job.folder, job.config.max_train_steps)
    values = _of_training(job.folder / METRICS)
    trained = load_config(sizes.config, sizes.overrides).data.num_frames
    scores = measure(ablation, checkpoint, trained, times=sizes.draws)
    values |= {name: _mean(numbers) for name, numbers in scores.items()}
    drawn = time.perf_counter()
    seconds = {"training": ended - began, "training_cpu": processor, "drawing": drawn - ended}
    return Result(
        ablation=ablation.name,
        arm=job.arm,
        seed=job.seed,
        config_hash=job.config_hash,
        steps=job.config.max_train_steps,
        values=values,
        scores=scores,
        weights_sha256=sha256_of(checkpoint / NETWORK / WEIGHTS_NAME),
        seconds={name: round(spent, 1) for name, spent in seconds.items()},
        hardware=hardware(),
        load=round(load, 1),
        versions=versions(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=shlex.join(["lavie", *sys.argv[1:]]),
        settings_hash=job.settings_hash,
    )


def _train(job: Job) -> tuple[float, float]:
    """Train to the last step, as one rank in a process of its own.

    A training that is at its last step already is left alone. What asks this process to end ends that one too, see
    `run_child`.

    Returns:
        the machine's load average at the end, and the seconds of processors that this call took.

    Raises:
        TrainingError: it ended in another way.
    """
    last = checkpoint_folder(job.folder, job.config.max_train_steps)
    if last in checkpoints(job.folder):
        return os.getloadavg()[0], 0.0
    before = os.times()
    job.folder.mkdir(parents=True, exist_ok=True)
    config = job.folder / "ablation.yaml"
    config.write_text(dump_yaml(job.config), encoding="utf-8")
    command = [sys.executable, "-m", "lavie.train", str(config), "--deepspeed", DEEPSPEED]
    code = run_child(command, job.folder / LOG)
    if code == STOPPED:
        raise TrainingError(f"{job.folder}: the training was asked to stop; the same command goes on with it")
    if code or last not in checkpoints(job.folder):
        tail = (job.folder / LOG).read_text(errors="replace").splitlines()[-SHOWN:]
        raise TrainingError(
            f"{job.folder}: the training ended with exit code {code}; its log ends:\n" + "\n".join(tail)
        )
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return os.getloadavg()[0], spent


def _of_training(metrics: Path) -> dict[str, float | None]:
    """Return the last validation losses of a run, and its median milliseconds a step."""
    records = read_records(metrics)
    seconds = [record["seconds"] for record in records if "seconds" in record]
    counted = seconds[WARM:] if len(seconds) > 2 * WARM else seconds
    losses = [{k: v for k, v in record.items() if k.startswith(LOSS)} for record in records]
    validated = [found for found in losses if found]
    return {**(validated[-1] if validated else {}), MS_PER_STEP: 1000 * float(np.median(counted))}


def measure(ablation: Ablation, checkpoint: Path, trained: int, *, times: int = 1) -> dict[str, list[float | None]]:
    """Return the measures of every sample that an ablation draws of a network, by "draw.measure".

    The noise of a sample depends on the run's seed and the sample's number alone.

    Args:
        ablation: says what to draw.
        checkpoint: the network.
        trained: frames of a trained clip.
        times: samples, as a multiple of those of each draw.
    """
    sampler, config = load_pipeline(checkpoint)
    scores: dict[str, list[float | None]] = {}
    for name, draw in ablation.draws.items():
        cases = list(draw.cases) * (draw.times * times)
        for case, frames in zip(cases, _drawn(sampler, config, draw, trained, cases), strict=True):
            for key, value in draw.judge(frames, trained, case).items():
                scores.setdefault(f"{name}.{key}", []).append(value)
    return scores


def _drawn(
    sampler: TextToVideo, config: TrainConfig, draw: Draw, trained: int, cases: Sequence[Case]
) -> list[np.ndarray]:
    """Return a clip uint8 (F, H, W, 3) for each case."""
    frames = max(1, round(draw.length * trained))
    settings = BaseSettings.of(config, negative_prompt="", prompt_syntax="plain", num_frames=frames)
    prompts = [
        clip_caption(colour, shape, f"moving {direction}") if direction else image_caption(colour, shape)
        for colour, shape, direction in cases
    ]
    drawn: list[np.ndarray] = []
    for start in range(0, len(prompts), BATCH):
        batch = range(start, min(start + BATCH, len(prompts)))
        drawn += [*sampler([prompts[i] for i in batch], indices=list(batch), **arguments(settings))]
    return drawn


def _mean(numbers: Sequence[float | None]) -> float | None:
    """Return the mean of the numbers that are there."""
    there = [number for number in numbers if number is not None]
    return float(np.mean(there)) if there else None


def _brief(result: Result) -> str:
    """Return the measures of a result that are no losses of single timesteps, in a line."""
    shown = {name: value for name, value in result.values.items() if not name.startswith(LOSS + "_")}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items() if value is not None)


def hardware() -> str:
    """Return what the trainings run on: the GPU, or the processor, its usable cores and the threads of a process."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {torch.get_num_threads()} threads"


def _processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return names[0] if names else platform.machine()
