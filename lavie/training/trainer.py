"""The training run: `Trainer.fit` is the order of events, and the modules beside this one say how each is done."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import torch

from ..arithmetic import set_arithmetic
from ..cluster.preflight import preflight
from ..cluster.watchdog import Watchdog
from ..config.load import dump_yaml
from ..config.train import TrainConfig
from ..data.cache.cache import Cache
from ..data.feed.batches import Batch
from ..data.feed.loader import build_loader, fixed_batches
from ..data.feed.share import Share
from ..data.order.buckets import load_buckets
from ..data.order.long_captions import count_long
from ..data.order.plan_report import notices
from ..distributed import barrier, broadcast_object, is_main, log, rank, setup_logging, world_size
from ..errors import CheckpointError, ConfigError, TrainingError
from ..gpus import require_visible_gpus
from ..models.backends import set_backends
from ..models.lora.adapter import draw_dropout
from ..models.prompt_reading import Reading, warn_of_unread
from ..models.start import require_single_files, start_network
from ..models.text_encoder import caption_limit
from ..models.unet import VideoUNet
from ..run_folder import RUN_CONFIG, samples_folder
from . import signals
from .ahead import Ahead
from .base import base_of, with_base
from .checkpoint.find import Resume, find
from .checkpoint.load import load
from .checkpoint.saver import Saver
from .compiled import with_compiled_leaves
from .deepspeed import BLOCKS, build_engine, init_distributed, offloads, resolve_json, zero_stage
from .dry_run import plan_of
from .ema import EMA
from .faults import LEFT_OUT
from .journal import DROPPED, append
from .machine import require_device, require_packages
from .metrics import Metrics
from .objective import Objective, build_objective
from .open_caches import open_caches
from .output_dir import claim, require_own, require_progress
from .profiling import StepProfiler
from .record import Recorder, now
from .requests import NOTHING, Asked, Requests
from .trained_part import require_adapters_fit, set_trained_part
from .update import MicroBatch, Outcome, backward, measure_step, set_learning_rate, update
from .validate import averaged_network, validation_loss
from .watch import Watch

DrawSamples = Callable[[VideoUNet, Objective, Path], None]
"""Draws the validation prompts with a network, the objective's encoders and its schedule, into a folder. Collective.

Where the folder lists what was drawn, as `lavie.inference.generate` does, the writers of report_to show it."""
Measure = Callable[[VideoUNet, Objective], dict[str, float]]
"""Draws samples with a network, and returns what is measured of them, by name. Collective."""


class Trainer:
    """Builds everything that a run needs, in the order in which it can fail cheaply, and runs it.

    A Trainer is a context manager: `close` ends its processes and threads, as do the end of `fit` and an error while it
    is built. The process group belongs to the process; `end_distributed` leaves it.
    """

    def __init__(
        self,
        config: TrainConfig,
        deepspeed_json: str | Path,
        sample: DrawSamples | None = None,
        measure: Measure | None = None,
    ) -> None:
        """Build the run.

        Args:
            config: the run.
            deepspeed_json: DeepSpeed's settings; see `resolve_json`.
            sample: draws the validation prompts. Training does not know inference, so it is handed in.
            measure: measures samples every eval.steps steps; handed in for the same reason.

        Raises:
            LavieError: the config, the nodes, the data, the weights or the checkpoint cannot be used as asked.
        """
        self.sample, self.measure = sample, measure

        # The ranks meet, and agree on what they would run: on GPUs, if the machine has any.
        require_visible_gpus()
        setup_logging()
        self.device = init_distributed(preflight(config, deepspeed_json), config.watchdog.longest)
        setup_logging()

        # What is begun must end, if something fails: threads, and the loader's processes.
        with ExitStack() as begun:
            self.watchdog = begun.enter_context(Watchdog(config.watchdog))
            self._build(config, deepspeed_json, begun)
            self._begun = begun.pop_all()

    def _build(self, config: TrainConfig, deepspeed_json: str | Path, begun: ExitStack) -> None:
        """Build the run after its ranks have met.

        Args:
            config, deepspeed_json: as for `__init__`.
            begun: takes what must end.
        """
        stage = zero_stage(resolve_json(deepspeed_json, config, world_size()))
        require_packages(config)
        require_device(config, self.device)
        set_arithmetic(self.device, tf32=config.tf32)
        if config.validation_prompts and self.sample is None:
            raise ConfigError("validation_prompts are set, but this Trainer was given nothing to sample them with")
        if config.eval.steps and self.measure is None:
            raise ConfigError("eval.steps is set, but this Trainer was given nothing to measure with")

        # Files that must be there, and a folder that must be free: no data has been read yet.
        claim(config.output_dir)
        resume = find(config, stage)
        self.start, asked = resume.step if resume else 0, config
        config = self.config = with_base(resume.config if resume else config, resume.folder if resume else None)
        settings = resolve_json(deepspeed_json, config, world_size())
        require_own(config, self.start)
        require_progress(config.output_dir, self.start)
        require_sources(config)
        require_adapters_fit(config)
        caches = open_caches(config)

        # The data: its plan can still refuse the run before there is a network.
        self.buckets = load_buckets(config.data, config.data.train, config.seed)
        plan = plan_of(config, world_size(), self.buckets)
        for notice in [*notices(plan), *self._long_captions()]:
            log.warning(f"data: {notice}")
        self.validation_batches = self._validation_batches()
        batches = build_loader(
            config.data,
            self.buckets,
            self._share(),
            start_step=self.start,
            degradation=config.low_resolution,
            caches=caches,
            device=self.device,
        )
        self.batches = begun.enter_context(closing(batches))

        self._build_networks(settings, caches, resume)
        if resume:
            load(self.engine, self.ema, resume)
        self.saver = begun.enter_context(closing(Saver(self.engine, self.ema, config, asked, self.start, self.base)))
        self.profiler = begun.enter_context(closing(StepProfiler(config, self.device)))
        self.recorder = Recorder(config, self.start, self.buckets, plan, self.device)
        self.metrics: Metrics | None = None
        if is_main():
            try:
                (Path(config.output_dir) / RUN_CONFIG).write_text(dump_yaml(asked), encoding="utf-8")
                self.metrics = begun.enter_context(closing(Metrics(config, self.start, plan)))
            except OSError as error:
                raise TrainingError(
                    f"output_dir {config.output_dir}: {error.filename or RUN_CONFIG} cannot be written "
                    f"({error.strerror}): make room there, or change its rights"
                ) from error

    def _build_networks(self, settings: dict[str, Any], caches: dict[str, Cache] | None, resume: Resume | None) -> None:
        """Build the objective with its frozen encoders, the engine around the network, and the network's average.

        Args:
            settings: DeepSpeed's, complete.
            caches: the caches of the run by the names of their sizes, or None.
            resume: the checkpoint that the run goes on from, if it does.
        """
        config = self.config
        self.objective = build_objective(config, self.device, caches)
        if is_main() and config.validation_prompts:
            drawn = (*config.validation_prompts, config.sampling.negative_prompt)
            warn_of_unread((self.objective.text_encoder, prompt, Reading()) for prompt in drawn)
        network = build_network(config)
        self.base = base_of(network, config, resume.folder if resume else None)
        self.watchdog.follow(network.to(self.device), BLOCKS)
        self.engine = with_compiled_leaves(build_engine(network, config, settings), config)
        ema_device = "cpu" if config.ema_device == "cpu" or offloads(settings) else None
        self.ema = EMA(self.engine.module, config.ema_decay, ema_device) if config.use_ema else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the metrics, and the loader with its threads and processes; a second call does nothing."""
        self._begun.close()

    def fit(self) -> bool:
        """Train to max_train_steps, and return whether the run came so far.

        A run that is asked to stop earlier saves the steps that it has done.
        """
        config, stopped = self.config, False
        self.watch, due = Watch(config, self.start), False
        if self.start >= config.max_train_steps:
            log.info(f"nothing to do: step {self.start} is done, and max_train_steps is {config.max_train_steps}")
        self.engine.train()
        self.requests, self.ahead = Requests(config, self.device), Ahead(self.batches, self.device)
        self._look(self.start, *self._owed())
        counts: Sequence[float] = ()
        for step in range(self.start + 1, config.max_train_steps + 1):
            # Requests are heard between steps only, where all that is to be saved is whole.
            asked = self.requests.heard(step - 1, counts)
            self._serve(asked, step - 1)
            if stopped := Asked.STOP in asked:
                log.info(f"asked to stop: ends after step {step - 1} of {config.max_train_steps}")
                break

            with self.watchdog.section("step", step), self.profiler.step(step):
                outcome = self._step(step)
            record = self.recorder.record(step, self.engine, outcome, self.watch.faults.spikes)
            if self.metrics:
                self.metrics.log(record)
            self.watch.follow(record)

            # The checkpoint comes first: a validation that fails loses no steps. While steps are left out it waits.
            last, due = step == config.max_train_steps, due or step % config.checkpointing_steps == 0
            counts = outcome.measured.asked
            if last:
                signals.set_deaf()  # to SIGTERM: what is left to do is what a stop would do, too
            if last or (due and not self.watch.doubts):
                self._save(step)
                due, counts = False, ()  # what was asked for meanwhile is heard, too
            if self._look(step, *self._due(step)):
                counts = ()

        with self.watchdog.section("save"):
            self.saver.finish(required=not stopped)
        if not stopped:
            self.requests.served(~NOTHING)  # all steps are saved and looked at
        self.close()
        return not stopped

    def _serve(self, asked: Asked, step: int) -> None:
        """Save and sample, as far as that is asked, after a step, counted from 1; 0 is the start. Collective."""
        if self.watch.doubts and Asked.STOP not in asked:
            asked &= ~Asked.SAVE  # it waits, as other checkpoints do
        if asked & (Asked.STOP | Asked.SAVE) and step > self._newest(step):
            self._save(step)
        if Asked.SAMPLE in asked:
            self._look(step, True, False)
        self.requests.served(asked)

    def _newest(self, step: int) -> int:
        """Return the step of the newest checkpoint that is on the disk, 0 for none, when `step` is done. Collective."""
        with self.watchdog.section("save", step):
            self.saver.wait()
        return self.saver.newest

    def _save(self, step: int) -> None:
        """Save the run after a step. Collective."""
        with self.watchdog.section("save", step):
            self.saver.save(step)
        self.requests.saved()

    def _long_captions(self) -> list[str]:
        """Return, on rank 0, a sentence about the captions that the text encoder does not read whole, if there are."""
        if not is_main():
            return []
        limit = caption_limit(self.config.text_encoder, self.config.pretrained_model_name_or_path)
        count, line = count_long(self.buckets.datasets, self.config.data, limit)
        return [line] if count else []

    def _share(self) -> Share:
        """Return which part of the data this rank reads."""
        return Share(
            seed=self.config.seed,
            train_batch_size=self.config.train_batch_size,
            gradient_accumulation_steps=self.config.gradient_accumulation_steps,
            rank=rank(),
            world_size=world_size(),
        )

    def _step(self, step: int) -> Outcome:
        """Update the weights once, on the mean loss of a step's micro-batches, and let the average follow. Collective.

        `step` is counted from 1.
        """
        began, waited, last, phase = time.perf_counter(), 0.0, False, self.profiler.phase
        lr = set_learning_rate(self.engine, self.config, step)
        if self.config.lora.dropout:
            draw_dropout(self.engine.module, self.config.seed, step)
        micro_batches: list[MicroBatch] = []
        while not last:
            batch, seconds = self._next_batch(step)
            with phase("inputs"):
                inputs = self.objective.training_inputs(batch)
            with phase("forward"):
                loss = self.objective.loss(self.engine, inputs)
            with phase("backward"):
                last = backward(self.engine, loss.total)
            names = batch["positions"].tolist(), batch["keys"], len(batch["dropped"])
            micro_batches.append(MicroBatch(*names, loss, inputs.sample))
            more = not last or step < self.config.max_train_steps
            waited += seconds + (self._begin_batch() if more else 0)

        # What is wrong with the step is found out before the weights and their average move.
        with phase("judgement"):
            measured = measure_step(self.engine, micro_batches, self.requests.wanted())
            fault = self.watch.check(step, self.engine, measured, micro_batches)
        with phase("update"):
            updated = update(self.engine, measured.norms, skip=fault in LEFT_OUT)
        if updated and self.ema:
            with phase("average"):
                self.ema.update(step - self.engine.skipped_steps)
        return Outcome(lr, measured, fault, time.perf_counter() - began, waited)

    def _begin_batch(self) -> float:
        """Begin to move the next micro-batch, and return the seconds spent waiting for it."""
        began = time.perf_counter()
        with self.watchdog.section("data"), self.profiler.phase("data"):
            self.ahead.begin()
        return time.perf_counter() - began

    def _next_batch(self, step: int) -> tuple[Batch, float]:
        """Return the next micro-batch, and the seconds spent waiting for it. Samples that were replaced in a step are
        written down."""
        began = time.perf_counter()
        with self.watchdog.section("data"), self.profiler.phase("data"):
            batch = next(self.ahead)
        for sample in batch["dropped"]:
            append(Path(self.config.output_dir) / DROPPED.format(rank()), {"step": step, **sample})
        return batch, time.perf_counter() - began

    def _validation_batches(self) -> list[Batch]:
        """Return this rank's batches of held-out clips, the same at every validation; none without data.validation."""
        data = self.config.data.held_out
        if not data.validation:
            return []
        return fixed_batches(
            data,
            data.validation,
            self._share(),
            num_batches=self.config.validation_batches,
            degradation=self.config.low_resolution,
        )

    def _due(self, step: int) -> tuple[bool, bool]:
        """Return whether a validation follows a step, and whether a measurement does."""
        config = self.config
        last = step == config.max_train_steps
        measure = config.eval.steps is not None and (last or step % config.eval.steps == 0)
        return last or step % config.validation_steps == 0, measure

    def _owed(self) -> tuple[bool, bool]:
        """Return which of the two come before the first step, for a run that was cut off makes them up. Collective."""
        if not self.start:
            return self.config.validate_at_start, False
        validated, measured = broadcast_object(self.metrics.looked if self.metrics else None)
        validate, measure = self._due(self.start)
        return validate and not validated, measure and not measured

    def _look(self, step: int, validate: bool, measure: bool) -> bool:
        """Validate or measure the averaged network after a step, counted from 1, and return whether either was due.

        Step 0 is the start. Collective. Every rank holds the network whole for the while, once for both.
        """
        validate = validate and bool(self.validation_batches or self.config.validation_prompts)
        if not validate and not measure:
            return False

        with self.watchdog.section("validation", step):
            network = averaged_network(self.engine.module, self.ema, self.config, self.device)
            with self.objective.encoders_at_hand():
                if validate:
                    self._validate(step, network)
                if measure:
                    assert self.measure is not None
                    with self.watchdog.section("sampling"):
                        measured = self.measure(network, self.objective)
                    if self.metrics:
                        self.metrics.log({"step": step, "time": now(), **measured})
            barrier()
        return True

    def _validate(self, step: int, network: VideoUNet) -> None:
        """Draw samples of a network, then record its held-out loss, which tells that both are done. Collective."""
        if self.sample and self.config.validation_prompts:
            with self.watchdog.section("sampling"):
                self._draw(samples_folder(self.config.output_dir, step), step, network)
        if self.validation_batches:
            losses = validation_loss(network, self.objective, self.validation_batches)
            if self.metrics:
                self.metrics.log({"step": step, "time": now(), **losses})

    def _draw(self, folder: Path, step: int, network: VideoUNet) -> None:
        """Draw the validation prompts into a folder; a disk that does not take them costs the samples. Collective."""
        assert self.sample
        trouble = broadcast_object(_make(folder) if is_main() else None)
        if trouble is None:
            try:
                self.sample(network, self.objective, folder)  # rank 0 writes, when all ranks have drawn
            except OSError as error:
                trouble = str(error)
        if trouble:
            log.error(f"the samples of step {step} were not written: {trouble}")
        elif self.metrics:
            self.metrics.show_samples(step, folder)


def _make(folder: Path) -> str | None:
    """Make a folder, and return why that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return str(error)
    return None


def require_sources(config: TrainConfig) -> None:
    """Raise CheckpointError if weights that the run starts from are not there, or are files of something else.

    Reading them comes after the data.
    """
    flat = "a Stable Diffusion folder in diffusers' format"
    wanted = {
        "pretrained_model_name_or_path": (config.pretrained_model_name_or_path, flat),
        "init_weights": (config.init_weights, "a run, a checkpoint or an exported folder, or a released .pt"),
    }
    if added := config.add_difference:
        for key, path in (("weights", added.weights), ("original", added.original)):
            wanted[f"add_difference.{key}"] = (path, f"{flat}, or a single .safetensors or .ckpt of it")
    for key, (path, what) in wanted.items():
        if path is not None and not Path(path).exists():
            raise CheckpointError(f"{key} is {path}: no such file or folder; wanted {what}")
    require_single_files(config)


def build_network(config: TrainConfig) -> VideoUNet:
    """Return the run's network: drawn from its seed, then started as its config says.

    The draw is the same on every rank. Parameters that do not train are frozen.
    """
    torch.manual_seed(config.seed)
    network = VideoUNet(config.model)
    for report in start_network(network, config):
        log.info(str(report))
    set_backends(network, kernels=config.kernels, attention=config.attention)
    network.gradient_checkpointing = config.gradient_checkpointing
    set_trained_part(network, config)
    return network
