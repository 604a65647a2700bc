"""Writing checkpoints: `checkpoint-<step>/` holds the state, the network to sample from, and the config.

    checkpoint.json   what this is, and the size and SHA-256 of every other file; written last
    config.yaml       the run's config
    unet/             the (averaged) network in float32: config.json and safetensors
    lora/             in its place, where adapters train: see lavie.models.lora.trained
    state/            the float32 weights and their moments, one file a rank: see lavie.training.checkpoint.ranges

1. Rank 0 sees whether there is room, and makes a hidden folder.
2. Every rank copies its part of the state to the memory of its host (`Snapshot`); the run goes on.
3. A thread of every rank writes its file, fsyncs and hashes it, and reports to rank 0 or tells what went wrong.
4. Rank 0 looks whether it sees all files, writes and fsyncs the manifest, renames the folder, and fsyncs its parent.
5. Only then are older checkpoints deleted.

If something fails, all ranks drop this checkpoint and the run goes on; older ones are as they were.
"""

import os
import secrets
import shutil
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ... import __version__
from ...config.load import dump_yaml
from ...config.train import TrainConfig
from ...distributed import broadcast_object, is_main, log, rank, world_size
from ...errors import TrainingError
from ...files import appears
from ...manifest import fault_of, write_manifest
from ...models.lora.trained import Base, write_adapters
from ...models.weights import CONFIG_NAME, WEIGHTS_NAME, network_config_text
from ...run_folder import LORA, METRICS, NETWORK, RUN_CONFIG, checkpoint_folder
from ...tensor_file import FileRecord, sync_folder, write_tensors, write_text
from ..account import EVENTS
from ..ema import EMA
from ..journal import append
from ..precision import dtype_name
from ..trained_part import lora_scale
from .ranges import STATE, file_of
from .reports import Reports
from .retention import partial_of, prune, publish, sweep
from .snapshot import Snapshot, bytes_needed
from .state import counters

CLOSING = 30.0
"""Seconds that a rank which fails leaves to a checkpoint that is being written: the other ranks may be gone."""


class Saved(NamedTuple):
    """What became of a checkpoint, the same on all ranks."""

    step: int
    failure: str | None
    """Why it was dropped; None if it is on the disk."""


class Saver:
    """Writes the checkpoints of a run, one at a time.

    Attributes:
        stall: seconds for which the run stood still for the checkpoint begun last.
        newest: the step of the newest checkpoint of which the run knows that it is on the disk; 0 for none.
        failures: how many checkpoints in a row were dropped.
    """

    def __init__(
        self,
        engine: Any,
        ema: EMA | None,
        config: TrainConfig,
        asked: TrainConfig,
        newest: int = 0,
        base: Base | None = None,
    ) -> None:
        """Take what is to be saved.

        Args:
            engine: DeepSpeed's engine around the network.
            ema: the average of its weights, if the run keeps one.
            config: the run.
            asked: the run as its user wrote it down: what a resumed run is compared with.
            newest: the step of the checkpoint that it goes on from; 0 for none.
            base: the weights that the run's adapters change, if it trains adapters.
        """
        self._base = base
        self._engine, self._ema, self._config, self._asked = engine, ema, config, asked
        self._run = Path(config.output_dir)
        self._snapshot = Snapshot(keep=config.save_async)
        self._thread: threading.Thread | None = None
        self._saved: Saved | None = None
        """On rank 0, what became of the checkpoint begun last, as far as its thread has come."""
        self.stall, self.failures, self.newest = 0.0, 0, newest

    def save(self, step: int) -> None:
        """Begin to write the checkpoint of a step, when the one before is written. Collective.

        Without `save_async` it is written when this returns.

        Raises:
            TrainingError: it is the last of max_failed_saves that were dropped in a row.
        """
        began = time.perf_counter()
        self.wait()
        nonce, refusal = broadcast_object(self._begin(step) if is_main() else None)
        if refusal:
            self._count(Saved(step, refusal))
            return
        self._snapshot.take(self._engine, self._ema, elastic=self._elastic)
        about, self._saved = self._about(step, nonce), Saved(step, "the thread that wrote it has failed")
        self._thread = threading.Thread(target=self._write, args=(step, nonce, about), daemon=True, name="checkpoint")
        self._thread.start()
        if not self._config.save_async:
            self.wait()
        self.stall = time.perf_counter() - began
        if is_main():
            append(self._run / EVENTS, {"event": "save", "step": step, "stall_s": round(self.stall, 3)})

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is on the disk, or dropped. All ranks wait together.

        Raises:
            TrainingError: it was dropped, as were so many before it that the run is to end.
        """
        if self._thread:
            self._thread.join()
            self._thread = None
            saved = broadcast_object(self._saved)
            if saved.failure:  # where the folder is not shared, each rank has its own
                shutil.rmtree(partial_of(checkpoint_folder(self._run, saved.step)), ignore_errors=True)
            self._count(saved)

    def close(self) -> None:
        """Let the thread that writes a checkpoint come to its end, where this rank leaves because of an error."""
        if self._thread:
            self._thread.join(CLOSING)

    def finish(self, *, required: bool = True) -> None:
        """Wait for the last checkpoint of the run. All ranks wait together.

        Args:
            required: whether the run has come to its end. One that was stopped goes on from an older checkpoint.

        Raises:
            TrainingError: it is required, and was dropped.
        """
        self.wait()
        if not self.failures:
            return
        text = f"the last checkpoint was not saved: what was trained after step {self.newest} is lost"
        if required:
            raise TrainingError(f"{text}: make room in {self._run}, and resume")
        if is_main():
            log.error(text)

    def _begin(self, step: int) -> tuple[str, str | None]:
        """Make the folder that a checkpoint is written to, and return its nonce, and why there is none. Rank 0 only."""
        nonce, partial = secrets.token_hex(8), partial_of(checkpoint_folder(self._run, step))
        try:
            sweep(self._run, fault_of)
            need, free = self.bytes_needed(), shutil.disk_usage(self._run).free
            if need > free:
                return nonce, f"it needs {need:,} bytes, and {self._run} has {free:,} free"
            (partial / STATE).mkdir(parents=True)
            (partial / (LORA if self._base else NETWORK)).mkdir()
        except OSError as error:
            return nonce, f"{partial} cannot be made: {error.strerror}"
        return nonce, None

    def bytes_needed(self) -> int:
        """Return how many bytes the next checkpoint takes on the disk, but for texts of a few kB."""
        return bytes_needed(self._engine, self._ema, elastic=self._elastic)

    @property
    def _elastic(self) -> bool:
        """Whether the optimizer has one value of each moment for each weight."""
        return self._config.optimizer == "adamw"

    def _about(self, step: int, nonce: str) -> dict[str, Any]:
        """Return what the manifest says of the state, JSON's kinds of values by name."""
        engine, config = self._engine, self._config
        return {
            "step": step,
            "nonce": nonce,
            "world_size": world_size(),
            "zero_stage": engine.zero_optimization_stage(),
            "dtype": dtype_name(config),
            "global_batch": engine.train_batch_size(),
            "optimizer": config.optimizer,
            **counters(engine),
            "lavie": __version__,
            "torch": torch.__version__,
        }

    def _write(self, step: int, nonce: str, about: dict[str, Any]) -> None:
        """Write this rank's part of a checkpoint, and let rank 0 decide about it. Runs beside the training."""
        began, partial = time.perf_counter(), partial_of(checkpoint_folder(self._run, step))
        answers = Reports(f"checkpoint/{nonce}")
        own: dict[str, Any] = {"host": socket.gethostname()}
        try:
            own["files"] = self._write_files(partial, nonce)
        except Exception as error:  # whatever it is, the other ranks must learn of it
            own["failure"] = _reason(error, partial)
        if is_main():
            self._saved = Saved(step, self._decide(step, about, answers.gather(own), began))
        else:
            answers.give(own)

    def _write_files(self, partial: Path, nonce: str) -> dict[str, FileRecord]:
        """Write the files of this rank into a checkpoint's hidden folder, and return their records by path in it."""
        snapshot, files = self._snapshot, {}
        if not appears(partial / STATE):
            raise FileNotFoundError(
                f"{partial / STATE} is not seen: output_dir must lie on a disk that all nodes share"
            )
        name = file_of(rank(), world_size())
        files[name] = write_tensors(partial / name, snapshot.own, snapshot.header | {"nonce": nonce})
        sync_folder(partial / STATE)
        if is_main():
            files |= self._write_network(partial)
            files[RUN_CONFIG] = write_text(partial / RUN_CONFIG, dump_yaml(self._asked))
        return files

    def _write_network(self, partial: Path) -> dict[str, FileRecord]:
        """Write what is sampled from into a checkpoint's hidden folder, and return the records of its files."""
        if self._base:
            files = write_adapters(partial, self._snapshot.network, lora_scale(self._config), self._base)
            sync_folder(partial / LORA)
            return files
        network = partial / NETWORK
        files = {
            f"{NETWORK}/{CONFIG_NAME}": write_text(network / CONFIG_NAME, network_config_text(self._config.model)),
            f"{NETWORK}/{WEIGHTS_NAME}": write_tensors(network / WEIGHTS_NAME, self._snapshot.network),
        }
        sync_folder(network)
        return files

    def _decide(self, step: int, about: dict[str, Any], reports: list[dict[str, Any]], began: float) -> str | None:
        """Publish a checkpoint if all ranks report their files, and return why not. Rank 0 decides for all."""
        final = checkpoint_folder(self._run, step)
        partial = partial_of(final)
        files = {name: record for report in reports for name, record in report.get("files", {}).items()}
        try:
            failure = _first_failure(reports, partial)
            if failure is None:
                _sync(self._run / METRICS)  # a run that goes on from here wants the records of its steps
                write_manifest(partial, about, files)
                sync_folder(partial)
                publish(partial, final)
        except Exception as error:  # whatever it is, the run goes on
            failure = _reason(error, partial)

        # Only now may older ones go.
        if failure is None:
            try:
                prune(self._run, step, self._config.checkpoints_total_limit, self._config.checkpoints_keep_every)
            except OSError as error:
                log.warning(f"older checkpoints in {self._run} could not be deleted and take room: {error}")
            size, took = sum(record["bytes"] for record in files.values()), time.perf_counter() - began
            log.info(f"saved {final} ({size / 1e6:,.1f} MB in {took:.1f} s)")
        return failure

    def _count(self, saved: Saved) -> None:
        """Count the checkpoints that were dropped in a row, and tell of this one.

        Raises:
            TrainingError: there are max_failed_saves of them.
        """
        if saved.failure is None:
            self.failures, self.newest = 0, saved.step
            return
        self.failures += 1
        limit = self._config.max_failed_saves
        if is_main():  # the others log errors too
            append(self._run / EVENTS, {"event": "dropped", "step": saved.step, "reason": saved.failure})
            log.error(
                f"checkpoint-{saved.step} was not saved ({self.failures} of {limit} in a row): {saved.failure}. "
                "Older ones are as they were"
            )
        if self.failures >= limit:
            raise TrainingError(
                f"{self.failures} checkpoints in a row could not be saved (max_failed_saves): {saved.failure}. Make "
                f"room in {self._run}, or lower checkpoints_total_limit, then resume"
            )


def _first_failure(reports: list[dict[str, Any]], partial: Path) -> str | None:
    """Return why a checkpoint cannot be published, by the reports of all ranks; None if rank 0 sees all files."""
    for number, report in enumerate(reports):
        who = f"rank {number} on {report['host']}"
        if failure := report.get("failure"):
            return f"{who}: {failure}"
        for name, record in report["files"].items():
            if not appears(partial / name, record["bytes"]):
                return (
                    f"{who} wrote {name}, and rank 0 on {socket.gethostname()} does not see it in {partial}: "
                    "output_dir must lie on a disk that all nodes share"
                )
    return None


def _sync(path: Path) -> None:
    """Put a file on the disk; it is worth no checkpoint if that fails."""
    with suppress(OSError), path.open("rb") as file:
        os.fsync(file.fileno())


def _reason(error: Exception, partial: Path) -> str:
    """Return what went wrong when a checkpoint was written, with the room that the disk has."""
    words = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else f"{error}"
    with suppress(OSError):
        words += f" ({shutil.disk_usage(partial.parent).free:,} bytes free in {partial.parent})"
    return words
