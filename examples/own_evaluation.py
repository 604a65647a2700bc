"""Measure clips by a number of your own, and say whether one network is better by it than another.

    python examples/own_evaluation.py runs/mine/checkpoint-500 runs/mine/checkpoint-2000 --prompts prompts.txt

The number here is colourfulness (Hasler and Süsstrunk 2003); put yours in its place. All networks draw the same prompts
from the same noise, so that their clips can be compared one by one: the interval of the mean difference is then far
narrower than those of the means, and says whether there is a difference at all.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lavie.inference.load import load_pipeline
from lavie.inference.settings import BaseSettings, arguments

RESAMPLES = 2000
"""How often prompts are drawn anew for an interval."""


def colourfulness(frames: np.ndarray) -> float:
    """Return how colourful a clip is, 0 for grey: `frames` is uint8 (F, H, W, 3). Put your own number here."""
    red, green, blue = frames.astype(np.float64).reshape(-1, 3).T
    first, second = red - green, (red + green) / 2 - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


def measure(folder: str, prompts: Sequence[str], seed: int, changes: dict[str, int]) -> np.ndarray:
    """Return the number of a clip of each prompt, float64 (prompts,), by the network in a folder."""
    pipeline, config = load_pipeline(folder)  # on a GPU, if there is one
    settings = arguments(BaseSettings.of(config, seed=seed, **changes))
    # Prompt i has noise i, whatever is drawn beside it: clips come one by one, and memory stays small.
    clips = (pipeline([prompt], indices=[i], **settings)[0] for i, prompt in enumerate(prompts))
    return np.array([colourfulness(clip) for clip in clips])


def interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean of values, by drawing them anew (bootstrap)."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Measure every network, and print the means and the differences to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="runs, checkpoints or exported folders of stage base")
    parser.add_argument("--prompts", type=Path, required=True, help="a file of one prompt a line")
    parser.add_argument("--out", type=Path, default=Path("own_evaluation.json"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="denoising steps; default: those of the run")
    given = parser.parse_args()

    prompts = given.prompts.read_text(encoding="utf-8").splitlines()
    changes = {} if given.steps is None else {"num_inference_steps": given.steps}
    measured = {name: measure(name, prompts, given.seed, changes) for name in given.checkpoints}
    first = measured[given.checkpoints[0]]
    results = {}
    for name, values in measured.items():
        (low, high), (below, above) = interval(values), interval(values - first)
        results[name] = {"n": len(values), "mean": values.mean(), "interval": [low, high]}
        results[name] |= {"difference": (values - first).mean(), "difference_interval": [below, above]}
        print(f"{name}: {values.mean():.2f} ({low:.2f} to {high:.2f}); to the first {below:+.2f} to {above:+.2f}")
    given.out.write_text(json.dumps({"seed": given.seed, "prompts": prompts, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
