"""Folders as runs leave them, written by hand in a few milliseconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from lavie.inference.video_io import write_mp4
from lavie.run_folder import samples_folder

PROMPTS = ("a red circle moving left", "a blue square moving up")
HOSTILE = '</script></style><script>alert(1)</script><img src=x onerror="alert(2)"> "quoted" & \N{SNOWMAN}'


def lines(path: Path, *records: dict[str, Any]) -> None:
    """Write records, a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def step(number: int, **changes: Any) -> dict[str, Any]:
    """The record of a step: the loss is 1 / step, and a step takes 2 s of which 0.5 s are waited."""
    losses = {"loss": 1 / number, "loss_video": 0.8 / number, "loss_image": 0.8 / number, "grad_norm": 1.0, "lr": 1e-3}
    cost = {"seconds": 2.0, "data_wait_s": 0.5, "samples_per_s": 4.0, "tflops": 0.01, "mfu": None, "memory": 1.5}
    counts = {"epoch": number / 8, "dropped": 0, "skipped": 0, "spikes": 0, "device": "cpu", "ettr": 0.75}
    return {"step": number, "time": "2026-01-02T03:04:05.678+00:00", **losses, **cost, **counts, **changes}


def held_out(number: int, scale: float = 1.0) -> dict[str, Any]:
    """The record of a validation: at timestep 125 four times the loss of timestep 625."""
    losses = {"validation_loss": 2.5 * scale, "validation_loss_t125": 4 * scale, "validation_loss_t625": scale}
    return {"step": number, **losses}


def facts(number: int, shares: list[float], commit: str | None = "a" * 40) -> dict[str, Any]:
    """What a start says of a run with one dataset and images of another."""
    datasets = [{"name": "first", "kind": "videos", "samples": 9, "shares": shares}]
    told = {"steps": [0, 4, 8], "datasets": datasets}
    about = {"lavie": "0.1.0", "commit": commit, "code": "c0de", "versions": {"torch": "2.13"}, "ranks": 2}
    return {"event": "facts", "step": number, **about, "shares": told}


def drawn(run: Path, number: int, prompts: tuple[str, ...] = PROMPTS, frames: int = 4) -> None:
    """Write what validation draws: clips that get lighter from frame to frame."""
    folder = samples_folder(run, number)
    names = [f"{place:05d}" for place in range(len(prompts))]
    lines(
        folder / "prompts.jsonl",
        *({"name": name, "prompt": prompt, "num_frames": frames} for name, prompt in zip(names, prompts, strict=True)),
    )
    for name in names:
        levels = np.linspace(20, 230, frames).astype(np.uint8)
        pixels = np.broadcast_to(levels[:, None, None, None], (frames, 32, 48, 3))
        write_mp4(folder / f"{name}.mp4", np.ascontiguousarray(pixels), 8, min_side=32)


def result(metric: str = "clipsim", **changes: Any) -> dict[str, Any]:
    """A result of `lavie eval`."""
    return {"metric": metric, "value": 0.25, "n": 40, "interval": [0.2, 0.3], "protocol_hash": "9f" * 8, **changes}


def some_run(folder: Path, steps: int = 8, prompts: tuple[str, ...] = PROMPTS, **config: Any) -> Path:
    """Write a run that was resumed after step 4, with samples before the first step and after the last."""
    validations = {0: held_out(0, 2.0), steps: held_out(steps)}
    records = [
        record
        for n in range(steps + 1)
        for record in ((step(n),) if n else ()) + ((validations[n],) if n in validations else ())
    ]
    lines(folder / "metrics.jsonl", *records)
    lines(
        folder / "events.jsonl",
        {"event": "start", "step": 0, "lost_steps": 0, "lost_s": 0, "time": 1.0e9},
        facts(0, [0.5, 0.5, 0.5]),
        {"event": "save", "step": 4, "stall_s": 0.25},
        {"event": "start", "step": 4, "lost_steps": 2, "lost_s": 4.0, "time": 1.0e9 + 60},
        facts(4, [1.0, 0.75, 0.25], commit="b" * 40 + "-dirty"),
        {"event": "save", "step": 6, "stall_s": 0.25},
        {"event": "dropped", "step": 6, "reason": "the disk is full"},
        {"event": "save", "step": 8, "stall_s": 0.5},
    )
    lines(
        folder / "dropped-rank0.jsonl",
        *(
            {"step": 2, "key": key, "reason": f"train/0.tar: {why}"}
            for key, why in (("a", "cut off"), ("b", "too long"))
        ),
        {"step": 3, "key": "c", "reason": "train/0.tar: cut off (12 bytes)"},
    )
    values = {"stage": "base", "max_train_steps": steps, "image_loss_weight": 0.25, "use_ema": True, "seed": 0}
    values |= {"validation_prompts": list(prompts)} | config
    (folder / "config.yaml").write_text(json.dumps(values), encoding="utf-8")
    (folder / "checkpoint-8").mkdir()
    (folder / "checkpoint-8/checkpoint.json").write_text("{}")
    (folder / "clipsim.json").write_text(json.dumps(result()))
    (folder / "restarts.json").write_text("{}")
    for number in (0, steps):
        drawn(folder, number, prompts)
    return folder
