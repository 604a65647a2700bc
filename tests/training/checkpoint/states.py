"""What tests read in checkpoints."""

import itertools
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file


def state_of(checkpoint: str | Path) -> dict[str, torch.Tensor]:
    """Return all that a run goes on with from a checkpoint: the values by kind and parameter, whole, and the counts."""
    pieces: dict[str, list] = {}
    for path in Path(checkpoint).glob("state/*.safetensors"):
        with safe_open(path, framework="pt") as file:
            ranges = json.loads(file.metadata()["ranges"])
            for key in file.keys():  # noqa: SIM118 - no mapping
                pieces.setdefault(key, []).append((ranges[key.split("/", 1)[1]], file.get_tensor(key)))
    state = {}
    for key, parts in pieces.items():
        parts.sort(key=lambda part: part[0])
        assert all(a[1] == b[0] for (a, _), (b, _) in itertools.pairwise(parts)), key
        state[key] = torch.cat([values for _, values in parts])
    manifest = json.loads((Path(checkpoint) / "checkpoint.json").read_text())
    state |= {name: torch.tensor(manifest[name]) for name in ("step", "optimizer_steps", "skipped_steps")}
    network = load_file(Path(checkpoint) / "unet/diffusion_pytorch_model.safetensors")
    return state | {f"network/{name}": value for name, value in network.items()}
