"""What counts as a bad step: by its numbers alone, and the same after a resumption."""

import math
import pickle

import pytest

from lavie.seeds import numpy_generator
from lavie.training.faults import FEWEST, GRADIENT, LOSS, OVERFLOW, SKIPPED_SPIKE, SPIKE, WINDOW, Faults, is_spike
from lavie.training.update import Measured
from tests.training.runs import make_config


def measured(loss: float, norm: float = 1.0) -> Measured:
    return Measured(loss, loss, 0.0, 0, norm)


def record(step: int, loss: float | None, norm: float | None = 1.0, fault: str | None = None) -> dict:
    return {"step": step, "loss": loss, "grad_norm": norm} | ({"fault": fault} if fault else {})


@pytest.mark.parametrize("spread", (0.0, 0.3, 1.0))
def test_a_spike_is_what_is_far_above_the_median(spread):
    draws = numpy_generator(0, "losses").normal(size=1000)
    usual = [0.2 * math.exp(spread * draw) for draw in draws]
    assert not any(is_spike(usual[i], usual[i - WINDOW : i], 5.0) for i in range(WINDOW, 1000))
    assert is_spike(0.2 * 1000, usual[:WINDOW], 5.0)
    assert not is_spike(0.2 / 1000, usual[:WINDOW], 5.0)


def test_the_threshold_is_reckoned_in_median_and_mad_of_logarithms():
    window = [math.exp(x) for x in (*[-1.0] * 10, *[0.0] * 10, *[1.0] * 10)]  # the MAD of their logarithms is 1
    assert not is_spike(math.exp(2 * 1.4826 - 0.01), window, 2.0)
    assert is_spike(math.exp(2 * 1.4826 + 0.01), window, 2.0)
    assert not is_spike(math.exp(2 * 1.4826 + 0.01), window, 2.1)

    # A window without any spread takes a tenth; a small one judges nothing.
    assert not is_spike(math.exp(0.59), [1.0] * FEWEST, 6.0)
    assert is_spike(math.exp(0.61), [1.0] * FEWEST, 6.0)
    assert not is_spike(1e9, [1.0] * (FEWEST - 1), 6.0)


def test_what_is_wrong_with_a_step(tmp_path):
    records = [record(step, 1.0) for step in range(1, 31)]
    faults = Faults(make_config(tmp_path, tmp_path), records)
    careful = Faults(make_config(tmp_path, tmp_path, skip_spikes=True), records)
    assert faults.judge(measured(1.1), scaled=False) is None
    for value in (math.nan, math.inf):
        assert faults.judge(measured(value, value), scaled=True) == LOSS
        assert faults.judge(measured(1.0, value), scaled=False) == GRADIENT
        assert faults.judge(measured(1.0, value), scaled=True) == OVERFLOW
    for spike in (measured(1000.0), measured(1.0, 1000.0)):
        assert faults.judge(spike, scaled=False) == SPIKE
        assert careful.judge(spike, scaled=False) == SKIPPED_SPIKE


def test_nan_and_spikes_do_not_move_what_is_usual(tmp_path):
    config = make_config(tmp_path, tmp_path)
    records = [record(step, 1.0 + step % 7 / 10) for step in range(1, 101)]
    bad = [record(101, None, None, LOSS), record(102, 1.1, None, GRADIENT), record(103, 1000.0, 1000.0, SPIKE)]
    clean, spoilt = Faults(config, records), Faults(config, [*records, *bad])
    for loss in (1.0, 2.0, 3.0, 10.0, 1000.0):
        assert clean.judge(measured(loss), scaled=False) == spoilt.judge(measured(loss), scaled=False)
    assert (clean.spikes, spoilt.spikes) == (0, 1)
    assert spoilt.usual("loss") == pytest.approx(1.3)


def test_a_row_is_broken_by_a_good_step_and_not_by_an_overflow(tmp_path):
    faults = Faults(make_config(tmp_path, tmp_path))
    for step, fault in enumerate((LOSS, GRADIENT, OVERFLOW, SKIPPED_SPIKE), start=1):
        faults.follow(record(step, None, None, fault))
    faults.follow({"step": 4, "validation_loss": 1.0})
    assert faults.row == [1, 2, 4]
    faults.follow(record(5, 1.0, fault=SPIKE))
    assert faults.row == []


def test_the_records_alone_decide(tmp_path):
    config = make_config(tmp_path, tmp_path)
    records = [record(step, 1.0 / step, 2.0 + 1 / step) for step in range(1, 150)]
    lived = Faults(config)
    for one in records:
        lived.follow(one)
    assert vars(pickle.loads(pickle.dumps(lived))) == vars(lived) == vars(Faults(config, records))
