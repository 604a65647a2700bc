"""The need for cores is the cost of the run's own rows times a GPU's rate."""

import numpy as np
import pytest

from lavie.data.feed import needs
from lavie.data.feed.needs import OTHER, Need, RowCost, by_source, measure_rows
from lavie.data.media.encode import encode_mp4
from tests.data.datasets import pack_media, png
from tests.data.feed.loading import small


def test_rows_of_the_run_are_measured_by_their_source(tmp_path, monkeypatch):
    ramp = np.zeros((12, 48, 64, 3), np.uint8)
    media = {"a": encode_mp4(ramp, 8), "b": encode_mp4(ramp[:, :32], 24), "i": png(ramp[0])}
    pack_media(tmp_path, media)
    clock = iter(range(100))
    monkeypatch.setattr(needs.time, "thread_time", lambda: float(next(clock)))
    costs = measure_rows(small(tmp_path, num_frames=2, num_images=1), seed=0, count=6)
    assert [cost.seconds for cost in costs] == [1.0] * 6
    assert {cost.source for cost in costs} == {"64 x 48, 8 fps, h264", "64 x 32, 24 fps, h264"}
    stills = small(tmp_path, num_images=1, images_alone=True)
    assert [cost.source for cost in measure_rows(stills, seed=0, count=2)] == [OTHER] * 2


def test_sources_come_dearest_first():
    costs = [RowCost("cheap", 1.0), RowCost("dear", 3.0), RowCost("dear", 5.0)]
    assert list(by_source(costs).items()) == [("dear", (2, 4.0)), ("cheap", (1, 1.0))]


@pytest.mark.parametrize(
    "rate, cores, gpus, workers, verdict",
    (
        (10, 64, 8, 4, "enough: by default each rank has 6 decoding processes"),
        (50, 128, 1, 20, "enough with data.num_workers=20: by default each rank has 16"),
        (20, 32, 8, 8, "too few: a GPU would get 5 rows a second of 20; train from cached latents"),
        (0.1, 1, 1, 1, "enough: by default each rank has 1 "),
    ),
)
def test_the_need_is_cost_times_rate(rate, cores, gpus, workers, verdict):
    need = Need(row_seconds=0.4, rate=rate, cores=cores, gpus=gpus)
    assert need.decoding == pytest.approx(0.4 * rate)
    assert need.workers == workers
    assert need.verdict().startswith(verdict)
