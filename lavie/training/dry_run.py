"""What a run would be, before any GPU time is spent: config, sizes, floating-point work, memory and data."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..config.load import dump_yaml
from ..config.train import TrainConfig
from ..data.order.buckets import Buckets, load_buckets
from ..data.order.held_out import held_out_text
from ..data.order.long_captions import count_long
from ..data.order.plan import DataPlan, make_plan
from ..data.order.plan_report import plan_text
from ..data.shards.remote import is_url
from ..launcher import planned_world_size
from ..models.live_bytes import GIB
from ..models.start import require_single_files
from ..models.text_encoder import caption_limit
from .deepspeed import resolve_json
from .fit import memory_lines, time_lines
from .machine import machine_lines
from .memory import checkpoint_bytes, parameter_counts
from .open_caches import open_caches


def dry_run_text(config: TrainConfig, deepspeed_json: str | Path) -> str:
    """Return what `train.py --dry-run` prints.

    That is the resolved config and DeepSpeed settings, parameters, work, time, memory per rank with the GPUs on which
    it fits, and the plan of the data.

    Args:
        config: the run.
        deepspeed_json: the file of DeepSpeed's settings.

    Raises:
        ConfigError: as the run would.
        KernelError: as the run would, but not where there is no GPU: then a line of the text says so.
        DataError: as the run would, but not if data lies elsewhere: then a line of the text says so.
    """
    ranks = planned_world_size()
    settings = resolve_json(deepspeed_json, config, ranks)
    here = machine_lines(config)
    lines = ["# resolved config", dump_yaml(config).rstrip(), "# DeepSpeed", json.dumps(settings, indent=2)]
    lines += ["# sizes", *_sizes(config, settings, ranks), "# data", *_data(config, ranks)]
    return "\n".join([*lines, *here])


def plan_of(config: TrainConfig, ranks: int, buckets: Buckets | None = None) -> DataPlan:
    """Return what a run will see of its data.

    Args:
        config: the run.
        ranks: the number of ranks.
        buckets: the run's, if they are loaded already.

    Raises:
        ConfigError: as for `make_plan`.
        DataError: as for `make_plan`.
    """
    clips = config.train_batch_size * config.gradient_accumulation_steps * ranks
    return make_plan(config.data, seed=config.seed, steps=config.max_train_steps, global_batch=clips, buckets=buckets)


def _sizes(config: TrainConfig, settings: dict[str, Any], ranks: int) -> list[str]:
    """Return lines about the batch, the parameters, the work and the memory of a run.

    Args:
        config: the run.
        settings: DeepSpeed's, complete.
        ranks: the number of ranks.
    """
    total, trained, _ = parameter_counts(config)
    per_rank, micro_batches = config.train_batch_size, config.gradient_accumulation_steps
    clips = per_rank * micro_batches * ranks
    lines = [
        f"ranks: {ranks}; global batch: {per_rank} x {micro_batches} x {ranks} = {clips} clips",
        f"parameters: {total:,}, of which {trained:,} train ({config.trainable})",
        *time_lines(config, ranks),
        *memory_lines(config, settings, ranks),
    ]
    limit = config.checkpoints_total_limit
    lines.append(
        f"a checkpoint: {checkpoint_bytes(config, total, trained) / GIB:.2f} GiB on disk; "
        + (f"{limit} are kept, and one more while it is written" if limit else "all are kept")
    )
    return lines


def _data(config: TrainConfig, ranks: int) -> list[str]:
    """Return the plan of the data, and a line for each key whose files are not here, as on a machine without data."""
    data = config.data
    absent = {
        "data.train": _absent(data.train_paths),
        "data.validation": _absent(data.validation),
        "pretrained_model_name_or_path": _absent([config.pretrained_model_name_or_path or ""]),
        "init_weights": _absent([config.init_weights or ""]),
        "add_difference": _absent([added.weights, added.original or ""] if (added := config.add_difference) else []),
        "data.cache": _absent([data.cache or ""]),
    }

    # What is here is read as the run would read it, with its errors.
    lines = []
    if not absent["data.train"]:
        buckets = load_buckets(data, data.train, config.seed)
        limit = caption_limit(config.text_encoder, config.pretrained_model_name_or_path)
        lines += [plan_text(plan_of(config, ranks, buckets)), count_long(buckets.datasets, data, limit)[1]]
    if data.validation and not absent["data.validation"]:
        lines.append(held_out_text(data))
    if not absent["init_weights"] and not absent["add_difference"]:
        require_single_files(config)
    if not absent["data.cache"] and not absent["pretrained_model_name_or_path"]:
        open_caches(config)

    for key, paths in absent.items():
        if paths:
            lines.append(f"not here, so not checked: {key} {', '.join(paths)}")
    return lines


def _absent(paths: Iterable[str]) -> list[str]:
    """Return the paths that are no files or folders here; addresses on the network and empty paths do not count."""
    return [path for path in paths if path and not is_url(path) and not Path(path).exists()]
