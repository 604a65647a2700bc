"""What can be wrong with a step: told from its losses and its gradient norm alone, before the weights move.

1. A loss, or the norm of the gradient, that is not finite on any rank: the step is left out.
2. A spike, a loss or norm far above those of the last WINDOW steps: told, and left out with skip_spikes.

How far is measured by the logarithm, as both spread over factors: by its median and the median of its distances from
that (MAD), which no single value moves far. Values that are not finite never enter the window.

The window and the counts follow from the records of metrics.jsonl alone. These are cut back where a run is resumed, and
hold every bit of a number; so a resumed run judges as an uninterrupted one does.
"""

import math
from collections import deque
from collections.abc import Iterable
from statistics import median
from typing import Any

from ..config.train import TrainConfig
from .update import Measured

LOSS = "loss"
"""The loss is not finite."""
GRADIENT = "gradient"
"""The gradient is not finite."""
OVERFLOW = "overflow"
"""The gradient is not finite in fp16, whose scale of the loss DeepSpeed lowers then."""
SPIKE = "spike"
"""A spike, and the update is made."""
SKIPPED_SPIKE = "skipped spike"
"""A spike, and the update is left out."""
SPIKES = (SPIKE, SKIPPED_SPIKE)
LEFT_OUT = (LOSS, GRADIENT, SKIPPED_SPIKE)
"""The faults for which we leave an update out. DeepSpeed does so at OVERFLOW."""

WINDOW = 100
"""Steps whose losses and norms a new one is compared with: enough for a median, few enough to follow the training."""
FEWEST = 20
"""Values from which on a new one is judged: a MAD of fewer may come out small by chance."""
NORMAL = 1.4826
"""Standard deviations of a normal law in one MAD."""
LEAST_SCALE = 0.1
"""The least standard deviation of a logarithm that is reckoned with, a tenth of the value: quiet stretches of a run
must not make spikes of what is usual."""


def is_spike(value: float, window: Iterable[float], threshold: float) -> bool:
    """Return whether a positive number is far above those of a window.

    Args:
        value: a loss or a norm.
        window: the finite values before it.
        threshold: how many standard deviations of the logarithm are far.
    """
    logs = [math.log(v) for v in window if v > 0]
    if len(logs) < FEWEST or value <= 0:
        return False
    middle = median(logs)
    scale = max(NORMAL * median(abs(v - middle) for v in logs), LEAST_SCALE)
    return math.log(value) - middle > threshold * scale


class Faults:
    """The faults of a run's steps, as its records tell them so far."""

    def __init__(self, config: TrainConfig, records: Iterable[dict[str, Any]] = ()) -> None:
        """Begin after some records, those of the steps before in their order."""
        self._config = config
        self._windows: dict[str, deque[float]] = {"loss": deque(maxlen=WINDOW), "grad_norm": deque(maxlen=WINDOW)}
        self.spikes = 0
        """Spikes so far, whether left out or not."""
        self.row: list[int] = []
        """The steps left out since the last that was not."""
        for record in records:
            self.follow(record)

    def judge(self, measured: Measured, *, scaled: bool) -> str | None:
        """Return the fault of a step, or None.

        Args:
            measured: the step, over all ranks.
            scaled: whether DeepSpeed scales the loss, and lowers the scale if the gradient is not finite.
        """
        if not math.isfinite(measured.loss):
            return LOSS
        if not math.isfinite(measured.grad_norm):
            return OVERFLOW if scaled else GRADIENT
        for name, window in self._windows.items():
            if is_spike(getattr(measured, name), window, self._config.spike_threshold):
                return SKIPPED_SPIKE if self._config.skip_spikes else SPIKE
        return None

    def usual(self, name: str) -> float | None:
        """Return the median of "loss" or "grad_norm" in the window; None while that is empty."""
        return median(self._windows[name]) if self._windows[name] else None

    def follow(self, record: dict[str, Any]) -> None:
        """Take the record of a training step; records of validation count nothing."""
        if "loss" not in record:
            return
        for name, window in self._windows.items():
            if isinstance(number := record.get(name), (int, float)):
                window.append(number)
        fault = record.get("fault")
        self.spikes += fault in SPIKES
        if fault in LEFT_OUT:
            self.row.append(record["step"])
        elif fault != OVERFLOW:  # which is no fault of the step's
            self.row = []
