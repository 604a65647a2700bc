"""The config of every arm and seed, and hashes of all that decides what comes out of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.load import load_config, validate
from ...config.overrides import merge, parse_overrides
from ...config.train import TrainConfig
from ...errors import ConfigError
from ..measured import short_hash
from .plan import Ablation, RenderedSet

BASE = "smoke/base.yaml"
"""The config that comes with the ablations."""
SMALLEST = 64
"""Pixels of a rendered clip's side at least: edges are drawn more finely than a small run shows them."""
STRIDE = 2
"""Frames of a rendered clip from one frame of a trained clip to the next."""
MOST_FRAMES = 1024
"""Frames of a trained clip: whole sets of rendered clips are made of them."""
PLACES = ("output_dir", "resume_from_checkpoint", "report_to", "seed")
"""Keys that say where things lie or which seed it is, and not what is trained."""


@dataclass(frozen=True)
class Job:
    """One arm of an ablation, with one seed."""

    arm: str
    seed: int
    config: TrainConfig
    config_hash: str
    """The same for all seeds: of the config, the rendered set, the draws, and the arm that this one starts from."""
    settings_hash: str
    """The same for all seeds and arms: of what the call sets for all of them. Arms of other hashes do not compare."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.config.output_dir)


@dataclass(frozen=True)
class Sizes:
    """How large an ablation is: what a call may change for all arms alike."""

    config: Path
    """The config that all arms change."""
    steps: int
    """Steps of an arm whose share is 1."""
    overrides: Sequence[str] = ()
    """Further keys for all arms, each as key=value."""
    draws: int = 1
    """Samples, as a multiple of those of each draw."""


def set_options(rendered: RenderedSet, base: TrainConfig) -> dict[str, Any]:
    """Return the arguments with which `demo_set` renders a set for runs of a config."""
    data = base.data
    side = max(SMALLEST, data.height, data.width) if rendered.size is None else rendered.size * data.height
    return {
        "clips": rendered.clips,
        "images": rendered.images,
        "size": 2 * max(1, round(side / 2)),  # even, as H.264 wants it
        "frames": STRIDE * data.num_frames,
        **rendered.options,
    }


def set_folder(out: Path, name: str, options: Mapping[str, Any]) -> Path:
    """Return where a rendered set lies in the folder of an ablation."""
    return out / "data" / f"{name}-{short_hash(options)[:8]}"


def jobs(ablation: Ablation, sizes: Sizes, out: Path, seeds: Sequence[int]) -> list[Job]:
    """Return the jobs of an ablation, seed by seed, each behind the one that it starts from.

    Raises:
        ConfigError: the config is of another stage, or a key is faulty.
    """
    _require_free_keys(ablation, load_config(sizes.config), sizes)
    base = load_config(sizes.config, sizes.overrides)
    if base.stage != "base":
        raise ConfigError(f"--config {sizes.config}: stage is {base.stage}, the ablations train stage base")
    if base.data.buckets or base.data.cache:
        raise ConfigError(
            f"--config {sizes.config}: data.buckets and data.cache do not go with rendered sets: drop them"
        )
    if base.data.num_frames > MOST_FRAMES:
        raise ConfigError(f"data.num_frames is {base.data.num_frames}: rendered sets have {MOST_FRAMES} or fewer")
    draws = {key: (draw.cases, draw.times * sizes.draws, draw.length) for key, draw in ablation.draws.items()}
    settings_hash = _settings(ablation, base, sizes, draws)
    found: list[Job] = []
    for seed in seeds:
        before: dict[str, Job] = {}
        for name, arm in ablation.arms.items():
            config, told = _resolved(ablation, name, base, sizes, out)
            start = before[arm.start] if arm.start else None
            config_hash = short_hash([told, draws, start.config_hash if start else None])
            places: dict[str, Any] = {
                "seed": seed,
                "output_dir": str(out / "runs" / f"{name}-{seed}-{config_hash[:8]}"),
            }
            if start:
                places["init_weights"] = str(start.folder)
            before[name] = Job(name, seed, config.model_copy(update=places), config_hash, settings_hash)
        found += before.values()
    return found


def _resolved(ablation: Ablation, name: str, base: TrainConfig, sizes: Sizes, out: Path) -> tuple[TrainConfig, Any]:
    """Return the config of an arm but for its places, and what of it decides the result."""
    arm = ablation.arms[name]
    steps = max(1, round(sizes.steps * arm.steps))
    options = set_options(ablation.sets[arm.data], base)
    data = set_folder(out, arm.data, options)
    own = _own(base, steps, data)
    changes = parse_overrides([*ablation.common, *arm.overrides], TrainConfig)
    values = merge(merge(base.model_dump(mode="json"), own), changes)
    config = validate(TrainConfig, values, f"{ablation.name}, arm {name}")

    return config, [_told(config), options, bool(config.data.validation)]


def _own(base: TrainConfig, steps: int, data: Path) -> dict[str, Any]:
    """Return the keys that every arm of so many steps has from the ablation, whatever the config says."""
    return {
        "resume_from_checkpoint": "auto",
        "max_train_steps": steps,
        "lr_warmup_steps": min(base.lr_warmup_steps, steps // 10),
        "checkpointing_steps": max(1, -(-steps // 4)),
        "checkpoints_total_limit": 1,
        "validation_steps": steps,
        "validation_batches": max(1, 24 // base.train_batch_size),
        "validation_prompts": [],
        "report_to": [],
        "data": {
            "train": str(data / "train"),
            "validation": str(data / "validation"),
            "fps": None,
            "frame_stride": STRIDE,
        },
    }


def _told(config: TrainConfig) -> dict[str, Any]:
    """Return what of a config decides the result.

    Keys that have their defaults are left out: a new one changes no hash as long as nobody sets it.
    """
    told = {k: v for k, v in config.model_dump(mode="json", exclude_defaults=True).items() if k not in PLACES}
    told["data"] = {k: v for k, v in told["data"].items() if k not in ("train", "validation", "num_workers")}
    return told


def _settings(ablation: Ablation, base: TrainConfig, sizes: Sizes, draws: Mapping[str, Any]) -> str:
    """Return a hash of what all arms have in common: config, keys of the ablation, steps, rendered sets, draws.

    It is not of the arms: an arm that is added later compares with those that were run.
    """
    told = _told(base)
    for name in _own(base, sizes.steps, Path()).keys() - {"data", "lr_warmup_steps"}:
        told.pop(name, None)
    sets = {name: set_options(rendered, base) for name, rendered in ablation.sets.items()}
    return short_hash([ablation.name, told, list(ablation.common), sizes.steps, sets, draws])


def _require_free_keys(ablation: Ablation, base: TrainConfig, sizes: Sizes) -> None:
    """Raise ConfigError if a key for all arms is one that the ablation sets itself, so that it would change nothing."""
    own = {*PLACES, *_flat(_own(base, sizes.steps, Path())), *_flat(parse_overrides(ablation.common, TrainConfig))}
    for name in _flat(parse_overrides(sizes.overrides, TrainConfig)):
        if name in own and name != "lr_warmup_steps":
            instead = {"max_train_steps": ": give --steps", "seed": ": give --seeds"}.get(name, "")
            raise ConfigError(f"--set {name}: the ablation sets this key itself{instead}")


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested values by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {above + name: value}
    return found
